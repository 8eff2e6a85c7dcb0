"""The entry of every command: quotes paths for Hydra, prints the generated help, turns errors into one line.

Exit statuses: 0 done, 1 the task failed or a job of a multirun did, 2 a bad option, 128 + its number for a signal
(Ctrl-C 130, SIGTERM 143). Nothing here imports torch, so that `--help` and a misspelt key answer at once.
"""

import logging
import os
import re
import shlex
import signal
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, NoReturn, TypeVar

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import env_override
from omegaconf import DictConfig, OmegaConf

from colorize.cli.help import help_text
from colorize.cli.refusals import refusals_as_bad_options, refuse_words
from colorize.cli.sweeps import Refused, Sweep, begin, reported, run_alone, run_job
from colorize.config import SCHEMAS, CommonConfig, composed, conf_dir, register
from colorize.runtime import signals
from colorize.runtime.errors import UserError, dead_workers_told, lack_of_memory_told, missing_packages_told, one_line
from colorize.runtime.log import log
from colorize.runtime.processes import is_first_process
from colorize.runtime.schema import BadOption, from_hydra, key_of, leaves, literal
from colorize.runtime.version import __version__

T = TypeVar("T")


def run_command(name: str, task: Callable[[Any], object], argv: Sequence[str] | None = None) -> None:
    """Run `task` on what conf/NAME.yaml and the words `argv` (by default this process's) make, as `SCHEMAS[name]`.

    What it returns goes to Hydra (a sweeper can minimise it); the docstring of its module opens `--help`. Raises
    SystemExit, once the reason is on stderr; what is neither a UserError nor an OSError passes with its traceback.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    with exit_statuses(f"colorize.{name}", lambda stop: how_to_resume(name, words, stop)), _log_to_stderr():
        _start(name, task, words)


@contextmanager
def exit_statuses(program: str, how_to_resume: Callable[[signals.Stopped], str] = lambda _: "") -> Iterator[None]:
    """Turn what ends the work within it into a line on stderr, said by `program`, and the statuses above."""
    try:
        with signals.at_once(), lack_of_memory_told(program), missing_packages_told():
            signals.end_with_pipeline()
            yield
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, `head` say, has seen enough; Python must not flush to it again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (signals.Stopped, KeyboardInterrupt) as error:
        stop = error if isinstance(error, signals.Stopped) else signals.Stopped(signal.SIGINT)
        if is_first_process():
            print(f"{program}: {stop}{how_to_resume(stop)}", file=sys.stderr)
        elif signals.under_slurm():  # whose srun may end the first one with this one, before it has asked for a requeue
            time.sleep(5)
        sys.exit(stop.status)
    except BadOption as error:
        print(f"{program}: {error}; see --help", file=sys.stderr)
        sys.exit(2)
    except (UserError, OSError) as error:
        if is_first_process() or not getattr(error, "on_all_ranks", False):
            print(f"{program}: {one_line(error)}", file=sys.stderr)
        sys.exit(1)


def how_to_resume(name: str, words: list[str], stop: signals.Stopped) -> str:
    """Return the command to type after a signal, or what Slurm does by itself."""
    if signals.is_step():
        return ""
    if stop.signum == getattr(signal, "SIGUSR1", None):
        return f"; {signals.requeue()}"
    kept = [word for word in words if name != "train" or key_of(word) != "resume"]
    again = [*kept, *(["resume=auto"] if name == "train" else []), *stop.more]
    return f"; resume with: {shlex.join(['python', '-m', f'colorize.{name}', *again])}"


_typed: list[Namespace] = []  # the overrides and the config_dir of the running command, one at most


def given_config_dir() -> str | None:
    """Return the folder of YAML files that --config-dir gives the running command."""
    return _typed[0].config_dir if _typed else None


def given_overrides() -> list[str]:
    """Return the overrides of the running command as they were typed; in a sweep, those of the running job."""
    return list(_typed[0].overrides) if _typed else []


def is_given(key: str) -> bool:
    """Return whether the command line of the running command sets `key`, or a key below it."""
    return any(f"{key_of(override)}.".startswith(f"{key}.") for override in given_overrides())


def _start(name: str, task: Callable[[Any], object], words: list[str]) -> None:
    if "--version" in words:
        print(f"colorize {__version__}")
        return
    register()
    topics = [match[1] or "" for word in words if (match := _HELP.fullmatch(word))]
    words = [word for word in words if not _HELP.fullmatch(word)]
    (options, unknown), schema = _parse(words), SCHEMAS[name]
    typed: list[str] = options.overrides
    options.overrides = [*typed, *default_recipe(name, typed)]
    if topics:
        doc = sys.modules[task.__module__].__doc__ or ""
        keys = [word for word in typed if "=" in word]
        print(help_text(name, doc, keys, quoted(options.overrides, schema), topics[0]))
        return
    refuse_words(name, words, [*unknown, *(word for word in typed if "=" not in word and word[0] != "~")])
    multirun = options.multirun or "hydra.mode=MULTIRUN" in typed
    if multirun and not issubclass(schema, CommonConfig):
        raise BadOption("-m: this command has no runs to sweep over: leave it out")
    overrides = quoted(options.overrides, schema, sweep=multirun)
    flags = [word for word in words if word not in typed]
    failures: list[Exception] = []
    sweep: Sweep | None = None
    with ExitStack() as stack:
        _typed[:] = [options]
        stack.callback(_typed.clear)
        stack.enter_context(env_override({"HYDRA_FULL_ERROR": "1"}))  # its exceptions come to us, unprinted
        stack.enter_context(refusals_as_bad_options(name, typed))
        stack.callback(setattr, sys, "argv", sys.argv)
        try:
            if multirun:
                sweep = begin(name, overrides, options.config_dir)
                # Hydra's sweeper insists on writing a multirun.yaml somewhere; launchers on a cluster keep their files.
                folder = str(sweep.folder / "hydra")
                if not sweep.keeps_files:
                    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="colorize-sweep-"))
                label = f"sweep={literal(sweep.folder.name)}"
                overrides = [label, f"hydra.sweep.dir={literal(folder)}", *overrides]  # what was typed comes after them
                stack.enter_context(reported(sweep, failures))
            sys.argv = [sys.argv[0], *overrides, *flags]  # also for processes that Lightning starts with the same words
            application = hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name=name)
            application(_Job(name, task, options.config_dir, sweep, failures))()
        except signals.Stopped as stop:
            if sweep and "sweep" not in map(key_of, typed):
                stop.more = [f"sweep={sweep.folder.name}"]
            raise
    if failures:
        raise failures[0]


@dataclass
class _Job:
    """The task as Hydra calls it, once or for each job of a sweep; a launcher may send it to another process.

    What it raises is kept in `failures` or the job's result: Hydra would print lines of its own and start no more jobs.
    """

    name: str
    task: Callable[[Any], object]
    config_dir: str | None
    sweep: Sweep | None
    failures: list[Exception]
    home: int = field(default_factory=os.getpid)

    def __post_init__(self) -> None:
        self.__module__ = f"colorize.{self.name}"  # from which Hydra takes hydra.job.name

    def __call__(self, config: DictConfig) -> object:
        info, schema, elsewhere = HydraConfig.get(), SCHEMAS[self.name], os.getpid() != self.home
        if elsewhere:
            signals.end_with(os.getppid())
        with _log_to_stderr(f"[{info.job.num}] ") if elsewhere else nullcontext():
            try:
                overrides: Any = OmegaConf.to_container(info.overrides.task, resolve=False)
                if self.sweep is None:
                    made = from_hydra(config, schema)
                    return run_alone(self.name, made, overrides, lambda: self.work(made))
                if any(isinstance(failure, Refused) for failure in self.failures):
                    return None
                _typed[:] = [Namespace(overrides=overrides, config_dir=self.config_dir)]
                return run_job(
                    self.sweep, info.job.num, overrides, config, lambda: self.work(from_hydra(config, schema))
                )
            except Exception as error:
                if elsewhere:  # the launcher hands it to our process
                    raise
                self.failures.append(error)
                return None

    def work(self, config: Any) -> object:
        with dead_workers_told(), lack_of_memory_told(f"colorize.{self.name}"):
            return self.task(config)


_HELP = re.compile("-h|--help(?:=(.*))?")


def _parse(words: list[str]) -> tuple[Namespace, list[str]]:
    """Return Hydra's flags, with `overrides`, the words that are none, wherever they stand; and unknown flags."""
    parser = get_args_parser()

    def refuse(message: str) -> NoReturn:
        raise BadOption(message)

    parser.error = refuse  # type: ignore[method-assign]
    options, unknown = parser.parse_known_intermixed_args(words)
    if options.multirun and (options.cfg or options.info):
        refuse("--multirun runs, --cfg and --info only show: give one of them")
    return options, unknown


_QUOTED = r"""(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")"""
_OVERRIDE = re.compile(r"(\+{0,2})([\w.]+)=(.*)", re.DOTALL)
_SWEEP_FUNCTION = re.compile(r"(?:choice|shuffle|sort|tag)\(.*\)", re.DOTALL)
_PIECE = re.compile(rf"\s*({_QUOTED}(?=\s*,)|[^,]*?)\s*,", re.DOTALL)


def configured(name: str, overrides: Sequence[str]) -> Any:
    """Return the configuration, an instance of its schema, that a command gets from the `overrides` typed after it."""
    register()
    overrides = [*overrides, *default_recipe(name, overrides)]
    with refusals_as_bad_options(name, overrides):
        return from_hydra(composed(name, quoted(overrides, SCHEMAS[name])), SCHEMAS[name])


def call(name: str, task: Callable[[Any], T], overrides: Sequence[str]) -> T:
    """Return what `task` does with the options that would be typed after the name of its command."""
    config = configured(name, overrides)
    _typed[:] = [Namespace(overrides=list(overrides), config_dir=None)]
    try:
        return task(config)
    finally:
        _typed.clear()


def default_recipe(name: str, overrides: Sequence[str]) -> list[str]:
    """Return the recipe of `data=folder` where none is typed, as an override: a folder tends to hold few photos.

    That is finetune, or paper where keys of `model` are typed, since a network of one's own has nothing to start from.
    """
    groups = {key_of(override).partition(".")[0] for override in overrides}
    if name not in ("train", "generate", "pipeline") or "data=folder" not in overrides or "recipe" in groups:
        return []
    return ["recipe=paper" if "model" in groups else "recipe=finetune"]


def quoted(overrides: Sequence[str], schema: type[Any], *, sweep: bool = False) -> list[str]:
    r"""Quote the values of literal keys in `overrides`: Hydra's grammar rejects `it's.jpg`, `a=b`, `(1)`, `Фото`.

    Left to Hydra are a value in quotes from its first to its last character, null for a key that may be null, `${key}`
    (`\${key}` is the literal) and, in a sweep, commas between the values of jobs, choice(…) and its like. A key that
    takes several paths is given them as `[a,b]`; any other value is one path.
    """
    kinds = {key.name: key.kind for key in leaves(schema) if key.literal}

    def one(override: str) -> str:
        match = _OVERRIDE.fullmatch(override)
        if not match or match[2] not in kinds or (sweep and _SWEEP_FUNCTION.fullmatch(match[3])):
            return override
        kind, value = kinds[match[2]], match[3]
        hydras = re.compile(f"{_QUOTED}|null" if "None" in kind else _QUOTED, re.DOTALL | re.IGNORECASE)
        is_list = kind.startswith("list")
        bracketed = is_list and value.startswith("[") and value.endswith("]")
        value = value[1:-1] if bracketed else value
        pieces = _PIECE.findall(f"{value},") if (sweep or bracketed) and "," in value else [value]
        pieces = [piece if not piece or hydras.fullmatch(piece) else literal(piece) for piece in pieces]
        if is_list:
            pieces = [f"[{','.join(pieces)}]"] if bracketed else [f"[{piece}]" for piece in pieces]
        return f"{match[1]}{match[2]}={','.join(pieces)}"

    return [one(override) for override in overrides]


@contextmanager
def _log_to_stderr(prefix: str = "") -> Iterator[None]:
    """Print what the package logs from INFO up on stderr, plain; other loggers and warnings are left alone."""
    handler, level = logging.StreamHandler(sys.stderr), log.level
    handler.setFormatter(logging.Formatter(f"{prefix}%(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.INFO if is_first_process() else logging.ERROR)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
