"""The text of `--help`, generated from the schema and conf/."""

import shutil
import textwrap
from collections.abc import Sequence
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

import yaml
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from colorize.config import SCHEMAS, composed, conf_dir
from colorize.runtime.schema import Key, leaves, sections


def help_text(name: str, doc: str, typed: Sequence[str] = (), overrides: Sequence[str] = ()) -> str:
    """Return `doc`, the config groups, every key with its type, value, meaning and choices, and the flags.

    The values are those that `overrides` compose to, which were `typed`; where they do not compose, those of the
    default options.
    """
    schema, origin, options = SCHEMAS[name], "with the default options", _groups_help(name)
    try:
        config = composed(name, overrides)
        origin = f"with {' '.join(typed)}" if typed else origin
    except (HydraException, OmegaConfBaseException):
        config = composed(name, [])
    values: Any = OmegaConf.to_container(config)
    page = [
        f"usage: python -m colorize.{name} [key=value …] [flags]",
        textwrap.dedent(doc).strip(),
        *([f"Config groups: group=option takes the values of conf/GROUP/OPTION.yaml.\n{options}"] if options else []),
        f"Keys, as key=value {origin}. Paths need quotes for the shell only; ${{key}} stands for another key's value.",
    ]
    members: dict[str, list[Key]] = {"": []}
    for key in leaves(schema):
        members.setdefault(key.name.rpartition(".")[0], []).append(key)
    meanings = sections(schema)
    for section, keys in members.items():
        found = [(key, _flow(reduce(getitem, key.name.split("."), values))) for key in keys]
        entries = [_entry(f"{key.name}={value}", _explanation(key)) for key, value in found]
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


def _flow(value: Any) -> str:
    """Return `value` as one would type it."""
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
    """Return `head` with `text` beside it, or below it where `head` is long."""
    width, column = min(120, max(80, shutil.get_terminal_size().columns)), 38
    indent, head = " " * column, f"  {head}"
    body = textwrap.fill(text, width, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)
    return head.ljust(column) + body[column:] if len(head) < column - 1 else f"{head}\n{body}"


def groups() -> dict[str, list[Path]]:
    """Return the config groups of conf/ and the files of their options."""
    folders = sorted(folder for folder in conf_dir().iterdir() if folder.is_dir())
    return {folder.name: sorted(folder.glob("*.yaml")) for folder in folders}


def _groups_help(name: str) -> str:
    """List the groups that conf/NAME.yaml uses, an option a line with the first sentence of its file."""
    defaults = yaml.safe_load((conf_dir() / f"{name}.yaml").read_text(encoding="utf-8"))["defaults"]
    chosen = {group: option for entry in defaults if isinstance(entry, dict) for group, option in entry.items()}
    lines = []
    for group, files in groups().items():
        for file in files if group in chosen else []:
            comments = [line.lstrip("# ") for line in file.read_text(encoding="utf-8").splitlines() if line[:1] == "#"]
            about = next((line for line in comments if "@package" not in line and "python -m" not in line), "")
            mark = " (default)" if file.stem == chosen[group] else ""
            lines.append(_entry(f"{group}={file.stem}{mark}", about.split(". ")[0]))
    return "\n".join(lines)
