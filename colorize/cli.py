"""The way into every command: quotes paths for Hydra, prints the generated help, turns errors into one line.

Exit statuses: 0 done, 1 the task failed or a job of a multirun did, 2 a bad option, 130 interrupted. Nothing here
imports torch, so that `--help` and a misspelt key answer at once.
"""

import difflib
import logging
import os
import re
import shutil
import sys
import tempfile
import textwrap
import traceback
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import fields, is_dataclass
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any, NoReturn, get_type_hints

import hydra
import yaml
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.core.utils import env_override
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException, ValidationError

from colorize import __version__
from colorize.config import SCHEMAS, BadOption, Key, conf_dir, from_hydra, leaves, register
from colorize.errors import UserError
from colorize.runs import is_first_process

log = logging.getLogger("colorize")


def command(name: str, task: Callable[[Any], object], argv: Sequence[str] | None = None) -> None:
    """Run `task` on the configuration that conf/NAME.yaml and the command line make.

    Args:
        name: the command: its primary file conf/NAME.yaml and its schema `SCHEMAS[name]`.
        task: takes an instance of that schema; what it returns goes to Hydra (a sweeper can minimise it). The docstring
            of its module opens `--help`.
        argv: the words after the program's name; by default those of this process.

    Returns on success. Raises SystemExit with the statuses above, once the reason is on stderr; an exception that is
    neither a UserError nor an OSError is a bug and passes with its traceback.
    """
    program = f"colorize.{name}"
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        with _log_to_stderr():
            _start(name, task, words)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, `head` say, has seen enough; Python must not flush to it again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (KeyboardInterrupt, SystemExit) as stop:
        # Lightning makes a SystemExit of Ctrl-C, after an orderly end of the fit.
        if isinstance(stop, SystemExit) and not isinstance(stop.__context__, KeyboardInterrupt):
            raise
        print(f"{program}: interrupted", file=sys.stderr)
        sys.exit(130)
    except BadOption as error:
        print(f"{program}: {error}; see --help", file=sys.stderr)
        sys.exit(2)
    except (UserError, OSError) as error:
        print(f"{program}: {_one_line(error)}", file=sys.stderr)
        sys.exit(1)


def is_given(key: str) -> bool:
    """Whether the command line of the running command sets `key`, or a key below it."""
    return any(f"{key_of(override)}.".startswith(f"{key}.") for override in given_overrides())


_given: list[str] = []


def given_overrides() -> list[str]:
    """The overrides of the running command, as they were typed."""
    return list(_given)


def key_of(override: str) -> str:
    """`a.b` of `+a.b=c`."""
    return override.lstrip("+~").partition("=")[0]


def _start(name: str, task: Callable[[Any], object], words: list[str]) -> None:
    """Do what the flags ask: print the version or the help, or compose and run."""
    if "--version" in words:
        print(f"colorize {__version__}")
        return
    register()
    options = _parse(words)
    if options.help:
        print(help_text(name, sys.modules[task.__module__].__doc__ or "", options.overrides))
        return
    sweep = options.multirun or "hydra.mode=MULTIRUN" in options.overrides
    overrides = quoted(options.overrides, SCHEMAS[name], sweep=sweep)
    flags = [word for word in words if word not in options.overrides]
    failures: list[Exception] = []
    with ExitStack() as stack:
        _given[:] = options.overrides
        stack.callback(_given.clear)
        if sweep and not any(word.startswith(("hydra.sweep.dir=", "hydra/launcher=")) for word in overrides):
            # Hydra's sweeper insists on writing a multirun.yaml somewhere; launchers on a cluster keep their folder.
            scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="colorize-sweep-"))
            overrides.append(f"hydra.sweep.dir={_literal(scratch)}")
        stack.enter_context(env_override({"HYDRA_FULL_ERROR": "1"}))  # its exceptions come to us, unprinted
        stack.callback(setattr, sys, "argv", sys.argv)
        sys.argv = [sys.argv[0], *overrides, *flags]  # also for the processes that Lightning starts with the same words
        application = hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name=name)
        try:
            application(_job(name, task, failures))()
        except Exception as error:
            if not failures:  # else a sweeper only sums up what its jobs have said
                refusal = _refusal(error, SCHEMAS[name], options.overrides)
                if refusal is None or (sweep and isinstance(error, ValueError)):  # from a job in another process
                    raise
                raise BadOption(refusal) from error
    if failures and sweep:
        raise UserError(f"{len(failures)} of the jobs failed, see above")
    if failures:
        raise failures[0]


def _job(name: str, task: Callable[[Any], object], failures: list[Exception]) -> Callable[[DictConfig], object]:
    """The task as Hydra calls it, once or for each job of a sweep.

    What it raises is kept in `failures` instead of reaching Hydra, which would print lines of its own and not start the
    jobs that are left. A sweeper sees None, which is no figure, as the result of a failed job.
    """
    home = os.getpid()

    def job(composed: DictConfig) -> object:
        info = HydraConfig.get()
        sweep = info.mode == RunMode.MULTIRUN
        label = f"job {info.job.num} ({' '.join(info.overrides.task)})" if sweep else ""
        try:
            if sweep:
                log.info(label)
            try:
                config = from_hydra(composed, SCHEMAS[name])
            except OmegaConfBaseException as error:
                raise BadOption(_omegaconf_line(error)) from error
            return task(config)
        except Exception as error:
            if os.getpid() != home:  # a launcher's own process, whose exceptions it hands to ours
                raise
            failures.append(error)
            if sweep and isinstance(error, (UserError, OSError)):
                print(f"colorize.{name}: {label}: {_one_line(error)}", file=sys.stderr)
            elif sweep:
                print(f"colorize.{name}: {label}: {traceback.format_exc()}", file=sys.stderr)
            return None

    job.__module__ = f"colorize.{name}"  # from which Hydra takes hydra.job.name
    return job


def _parse(words: list[str]) -> Namespace:
    """Hydra's flags, and `overrides`: the words that are none, wherever they stand between them."""
    parser = get_args_parser()

    def refuse(message: str) -> NoReturn:
        raise BadOption(message)

    parser.error = refuse  # type: ignore[method-assign]
    options: Namespace = parser.parse_intermixed_args(words)
    if options.multirun and (options.cfg or options.info):
        refuse("--multirun runs, --cfg and --info only show: give one of them")
    return options


_QUOTED = r"""(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")"""
_OVERRIDE = re.compile(r"(\+{0,2})([\w.]+)=(.*)", re.DOTALL)
_SWEEP_FUNCTION = re.compile(r"(?:choice|shuffle|sort|tag)\(.*\)", re.DOTALL)
_PIECE = re.compile(rf"\s*({_QUOTED}(?=\s*,)|[^,]*?)\s*,", re.DOTALL)


def quoted(overrides: Sequence[str], schema: type[Any], *, sweep: bool = False) -> list[str]:
    r"""`overrides` with the values of literal keys quoted: Hydra's grammar rejects `it's.jpg`, `a=b`, `(1)`, `Фото`.

    The value of a path key is taken as it stands, spaces at its ends included, but for:
    - a value in quotes from its first to its last character: it is Hydra's to read, as is the word null for a key that
      may be null;
    - `${key}`, an interpolation as in any value (`\${key}` is the literal);
    - a comma in a sweep, which separates the values of the jobs, and choice(…) and its like.
    """
    paths = {key.name: key for key in leaves(schema) if key.literal}

    def one(override: str) -> str:
        match = _OVERRIDE.fullmatch(override)
        if match and match[2] in paths:
            value = _path_value(match[3], nullable="None" in paths[match[2]].kind, sweep=sweep)
            return f"{match[1]}{match[2]}={value}"
        return override

    return [one(override) for override in overrides]


def _path_value(value: str, *, nullable: bool, sweep: bool) -> str:
    if sweep and _SWEEP_FUNCTION.fullmatch(value):
        return value
    pieces = _PIECE.findall(f"{value},") if sweep and "," in value else [value]
    ours = re.compile(f"{_QUOTED}|null" if nullable else _QUOTED, re.DOTALL | re.IGNORECASE)
    return ",".join(piece if not piece or ours.fullmatch(piece) else _literal(piece) for piece in pieces)


def _literal(text: str) -> str:
    """`text` as a quoted value of Hydra's grammar."""
    return str(QuotedString(text, Quote.single).with_quotes())


def _one_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        names = " -> ".join(str(name) for name in (error.filename, error.filename2) if name is not None)
        return f"{error.strerror}: {names}" if names else error.strerror
    return str(error) or type(error).__name__


def _missing_file(error: MissingConfigException, overrides: list[str]) -> str:
    """A group option, or a YAML file that another names, that is not there."""
    missing = error.missing_cfg_file or ""
    group, _, option = missing.rpartition("/")
    if error.options and group in map(key_of, overrides):
        near = _did_you_mean(option, error.options)
        return f"{group}={option}: no such option{near}; there are {', '.join(error.options)}"
    if missing:
        return f"there is no {missing}.yaml in {conf_dir()} nor in a folder given by --config-dir"
    return str(error).splitlines()[0]


def _refusal(error: Exception, schema: type[Any], overrides: list[str]) -> str | None:
    """One line for what Hydra or OmegaConf refuses, whose own texts take several; None for any other exception.

    ValueError is what Hydra raises for a defaults list or flags that make no sense to it.
    """
    if isinstance(error, MissingConfigException):
        return _missing_file(error, overrides)
    if isinstance(error, OverrideParseException):
        key, equals, _ = error.override.partition("=")
        advice = f"Hydra cannot read this value; quote it twice: \"{key}='…'\"" if equals else "options are key=value"
        return f"{error.override}: {advice}"
    if isinstance(error, OmegaConfBaseException):
        return _omegaconf_line(error)
    if not isinstance(error, (HydraException, yaml.YAMLError)) and type(error) is not ValueError:
        return None
    text = str(error) or str(error.__cause__)
    if match := re.match(r"Could not override '(.*)'\.", text):
        given = next((override for override in overrides if key_of(override) == match[1]), match[1])
        return f"{given}: no such key{_did_you_mean(match[1], _names(schema))}"
    if match := re.match(r"Error merging override (.*)", text, re.DOTALL):
        kind = {key.name: key.kind.replace("None", "null") for key in leaves(schema)}.get(key_of(match[1]))
        typed = kind is not None and isinstance(error.__cause__, ValidationError)
        return f"{match[1]}: {f'takes {kind}' if typed else str(error.__cause__).splitlines()[0]}"
    if match := re.match(r"(?:Ambiguous value for argument|Sweep parameters) '(.*?)'(?:\n| requires)", text):
        return f"{match[1]}: several values; add -m for a job each, or quote the value for a single one"
    if match := re.match(r"In '(.*)': \w+ raised while composing config:\n(.*)\n\s*full_key: (.*)", text):
        near = _did_you_mean(match[3], _names(schema)) if " not in " in match[2] else ""
        return f"{match[1]}.yaml: {match[3]}: {match[2]}{near}"
    return " ".join(text.partition("\n\nConfig search path")[0].split())


def _omegaconf_line(error: OmegaConfBaseException) -> str:
    reason = str(error).splitlines()[0]
    return f"{error.full_key}: {reason}" if error.full_key else reason


def _names(schema: type[Any]) -> list[str]:
    """Everything that can stand before a `=`: keys, sections and config groups."""
    return list({key.name for key in leaves(schema)} | _sections(schema).keys() | _groups().keys())


def _did_you_mean(word: str, known: Sequence[str]) -> str:
    """` (did you mean …?)`, or nothing: the names whose last part is like that of `word`, else the one most like it."""
    last = {name: name.rpartition(".")[2] for name in known}
    like = difflib.get_close_matches(word.rpartition(".")[2], set(last.values()), n=3, cutoff=0.7)
    found = [name for name in known if last[name] in like]
    found = difflib.get_close_matches(word, found, n=3, cutoff=0) or difflib.get_close_matches(word, known, n=1)
    return f" (did you mean {' or '.join(found)}?)" if found else ""


def help_text(name: str, doc: str, overrides: Sequence[str] = ()) -> str:
    """What `--help` prints: `doc`, the config groups, every key with its type, value, meaning and choices, the flags.

    The values are those that `overrides` compose to, or, where they do not compose, those of the default options.
    """
    schema = SCHEMAS[name]
    try:
        values = _composed(name, quoted(overrides, schema))
        origin = f"with {' '.join(overrides)}" if overrides else "with the default options"
    except (HydraException, OmegaConfBaseException):
        values, origin = _composed(name, []), "with the default options"
    page = [
        f"usage: python -m colorize.{name} [key=value …] [flags]",
        textwrap.dedent(doc).strip(),
        "Config groups: group=option takes the values of conf/GROUP/OPTION.yaml.\n" + _groups_help(name),
        f"Keys, as key=value {origin}. Paths need quotes for the shell only; ${{key}} stands for another key's value.",
    ]
    sections: dict[str, list[Key]] = {"": []}
    for key in leaves(schema):
        sections.setdefault(key.name.rpartition(".")[0], []).append(key)
    meanings = _sections(schema)
    for section, keys in sections.items():
        found = [_flow(reduce(getitem, key.name.split("."), values)) for key in keys]
        entries = [_entry(f"{key.name}={value}", _explanation(key)) for key, value in zip(keys, found, strict=True)]
        page.append("\n".join([f"{section}: {meanings[section]}", *entries] if section else entries))
    page.append("Flags:\n" + "\n".join(_entry(flag, meaning) for flag, meaning in _FLAGS.items()))
    return "\n\n".join(page)


_FLAGS = {
    "--cfg job [--resolve]": "print the configuration that would run, and stop; --resolve fills in each ${key}",
    "--info defaults": "print which files of conf/ the configuration is made of, in order",
    "-m, --multirun": "run a job for each value of key=a,b,c; one that fails leaves the others running",
    "-cd, --config-dir DIR": "look for YAML files in DIR too: recipes, models or data sets of your own",
    "--version": "print the version of colorize",
    "--hydra-help": "print the flags of Hydra, on which all this rests",
}


def _composed(name: str, overrides: Sequence[str]) -> Any:
    with hydra.initialize_config_dir(config_dir=str(conf_dir()), version_base="1.3"):
        return OmegaConf.to_container(hydra.compose(config_name=name, overrides=list(overrides)))


def _flow(value: Any) -> str:
    """`value` as one would type it."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{_flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(_flow(item) for item in value) + "]"
    if isinstance(value, bool) or value is None:
        return "null" if value is None else str(value).lower()
    return "(required)" if value == "???" else str(value)


def _explanation(key: Key) -> str:
    kind = key.kind.replace("str", "path") if key.path else key.kind
    accepts = " | ".join(key.choices) if key.choices else kind.replace("None", "null")
    return f"({accepts}) {key.meaning}"


def _entry(head: str, text: str) -> str:
    """`head`, and `text` beside it, or below it where `head` is long."""
    width, column = min(120, max(80, shutil.get_terminal_size().columns)), 38
    indent, head = " " * column, f"  {head}"
    body = textwrap.fill(text, width, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)
    return head.ljust(column) + body[column:] if len(head) < column - 1 else f"{head}\n{body}"


def _sections(schema: type[Any], prefix: str = "") -> dict[str, str]:
    """The nested sections of `schema` and what they hold."""
    found: dict[str, str] = {}
    hints = get_type_hints(schema)
    for field in fields(schema):
        if is_dataclass(hints[field.name]):
            found[prefix + field.name] = field.metadata["meaning"]
            found |= _sections(hints[field.name], f"{prefix}{field.name}.")
    return found


def _groups() -> dict[str, list[Path]]:
    """The config groups of conf/ and the files of their options."""
    folders = sorted(folder for folder in conf_dir().iterdir() if folder.is_dir())
    return {folder.name: sorted(folder.glob("*.yaml")) for folder in folders}


def _groups_help(name: str) -> str:
    """The groups that conf/NAME.yaml uses, an option a line with the first sentence of its file."""
    defaults = yaml.safe_load((conf_dir() / f"{name}.yaml").read_text(encoding="utf-8"))["defaults"]
    chosen = {group: option for entry in defaults if isinstance(entry, dict) for group, option in entry.items()}
    lines = []
    for group, files in _groups().items():
        for file in files if group in chosen else []:
            comments = [line.lstrip("# ") for line in file.read_text(encoding="utf-8").splitlines() if line[:1] == "#"]
            about = next((line for line in comments if "@package" not in line and "python -m" not in line), "")
            mark = " (default)" if file.stem == chosen[group] else ""
            lines.append(_entry(f"{group}={file.stem}{mark}", about.split(". ")[0]))
    return "\n".join(lines)


@contextmanager
def _log_to_stderr() -> Iterator[None]:
    """What the package logs from INFO up goes to stderr, plain; other loggers and warnings are left alone."""
    handler, level = logging.StreamHandler(sys.stderr), log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO if is_first_process() else logging.ERROR)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
