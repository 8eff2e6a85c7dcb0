"""One line for what was typed wrong: which word, and the right form of what was meant."""

import difflib
import os
import re
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import yaml
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf.errors import OmegaConfBaseException, ValidationError

from colorize.cli.help import groups
from colorize.config import SCHEMAS, conf_dir
from colorize.runtime.schema import BadOption, Key, key_of, leaves, omegaconf_line, sections

WEIGHTS_SUFFIXES = (".ckpt", ".safetensors", ".pth", ".pt")


def refuse_words(name: str, words: Sequence[str], wrong: Sequence[str]) -> None:
    """Raise a BadOption for the first of a command's `words` that is one of the `wrong` ones, or a key with dashes."""
    known = names(name)
    for word, following in zip(words, [*words, ""][1:], strict=True):
        if word in wrong or (word.startswith("--") and word[2:] in known):
            raise BadOption(f"{word}: options are key=value: {right_form(name, word, following)}")


def right_form(name: str, word: str, following: str = "") -> str:
    """Return what to type, to command `name`, for a `word` that is no key=value and stands before `following`."""
    choices = {group: [file.stem for file in files] for group, files in groups(name).items()}
    known = {key.name: key for key in leaves(SCHEMAS[name])}
    key, _, value = word.lstrip("-").partition("=")
    key = "output" if word == "-o" and "output" in known else key.replace("-", "_")
    if key in names(name):
        if word[0] == "-" and following and not following.startswith("-") and "=" not in following:
            value = value or following
        return f"give {key}={shlex.quote(value) if value else _example(known.get(key), choices.get(key, []))}"
    if word[0] == "-":
        return f"there is no flag {word}{did_you_mean(key, names(name))}"
    for group, options in choices.items():
        if word in options:
            return f"give {group}={word}"
    if os.path.lexists(word) or os.sep in word or os.path.splitext(word)[1]:
        is_weights = word.lower().endswith(WEIGHTS_SUFFIXES) or not {"input", "data.root"} & known.keys()
        weights = "checkpoint" if "checkpoint" in known else "init_from.generator"
        photos = "input" if "input" in known else "data=folder data.root"
        return f"give {weights if is_weights else photos}={shlex.quote(word)}"
    return f"what is {word} the value of?{did_you_mean(word, names(name))}"


def _example(key: Key | None, options: Sequence[str]) -> str:
    if key is not None and (key.kind == "bool" or "auto" in key.choices):
        return "true" if key.kind == "bool" else "auto"
    return "|".join(options or (key.choices if key else ())) or "…"


@contextmanager
def refusals_as_bad_options(name: str, overrides: Sequence[str]) -> Iterator[None]:
    """Turn what Hydra and OmegaConf refuse of `overrides`, in texts of several lines, into BadOptions of one."""
    try:
        yield
    except Exception as error:
        if (reason := _refusal(error, name, overrides)) is None:
            raise
        raise BadOption(reason) from error


def _refusal(error: Exception, name: str, overrides: Sequence[str]) -> str | None:
    if isinstance(error, MissingConfigException):
        missing = error.missing_cfg_file or ""
        group, _, option = missing.rpartition("/")
        if error.options and group in map(key_of, overrides):
            near = did_you_mean(option, error.options)
            return f"{group}={option}: no such option{near}; there are {', '.join(error.options)}"
        there = f"there is no {missing}.yaml in {conf_dir()} nor in a folder given by --config-dir"
        return there if missing else str(error).splitlines()[0]
    if isinstance(error, OverrideParseException):
        key = error.override.partition("=")[0]
        return f"{error.override}: Hydra cannot read this value; quote it twice: \"{key}='…'\""
    if isinstance(error, OmegaConfBaseException):
        return omegaconf_line(error)
    if not isinstance(error, (HydraException, yaml.YAMLError)) and type(error) is not ValueError:
        return None
    text = str(error) or str(error.__cause__)
    if match := re.match(r"Could not override '(.*)'\.", text):
        given = next((override for override in overrides if key_of(override) == match[1]), match[1])
        return f"{given}: no such key{did_you_mean(match[1], names(name))}"
    if match := re.match(r"Error merging override (.*)", text, re.DOTALL):
        kind = {key.name: key.kind.replace("None", "null") for key in leaves(SCHEMAS[name])}.get(key_of(match[1]))
        typed = kind is not None and isinstance(error.__cause__, ValidationError)
        return f"{match[1]}: {f'takes {kind}' if typed else str(error.__cause__).splitlines()[0]}"
    if match := re.match(r"(?:Ambiguous value for argument|Sweep parameters) '(.*?)'(?:\n| requires)", text):
        return f"{match[1]}: several values; add -m for a job each, or quote the value for a single one"
    if match := re.match(r"In '(.*)': \w+ raised while composing config:\n(.*)\n\s*full_key: (.*)", text):
        near = did_you_mean(match[3], names(name)) if " not in " in match[2] else ""
        return f"{match[1]}.yaml: {match[3]}: {match[2]}{near}"
    return " ".join(text.partition("\n\nConfig search path")[0].split())


def names(name: str) -> list[str]:
    """Return everything that can stand before a `=`, to command `name`: keys, sections and config groups."""
    return list({key.name for key in leaves(SCHEMAS[name])} | sections(SCHEMAS[name]).keys() | groups(name).keys())


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """Suggest the names whose last part is like that of `word`, else the one most like it; nothing if none is."""
    last = {name: name.rpartition(".")[2] for name in known}
    like = difflib.get_close_matches(word.rpartition(".")[2], set(last.values()), n=3, cutoff=0.7)
    found = [name for name in known if last[name] in like]
    found = difflib.get_close_matches(word, found, n=3, cutoff=0) or difflib.get_close_matches(word, known, n=1)
    return f" (did you mean {' or '.join(found)}?)" if found else ""
