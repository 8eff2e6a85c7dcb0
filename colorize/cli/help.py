"""The text of `--help`, generated from the schema and conf/."""

import re
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
from colorize.runtime.schema import BadOption, leaves, sections

FIRST_KEYS = {
    "train": "phase data data.root run recipe model resume resolution.epochs optim.generator.lr trainer.accelerator",
    "generate": "run data data.root checkpoint output split size_px batch_size recipe trainer.accelerator",
    "evaluate": "run data data.root checkpoint coloured protocol split render_px output gallery_photos",
    "pipeline": "data data.root run recipe model init_from.generator steps cycles seed trainer.accelerator",
    "predict": "input output checkpoint saturation render_px format contact_sheet compare overwrite device",
    "export": "checkpoint output format half render_px use_ema overwrite",
    "app": "checkpoint port open_browser max_files max_mb device precision",
    "pack": "data.root output shard_mb short_px quality deduplicate data.num_workers",
}
"""The ten keys of each command that people need first."""

_NAMES_OPTION = {"data": "data.kind", "model": "model.name"}  # keys that say what was chosen of these config groups


def help_text(name: str, doc: str, typed: Sequence[str] = (), overrides: Sequence[str] = (), topic: str = "") -> str:
    """Return the page of command `name`: keys with their types, values, meanings and choices; `doc` opens it.

    The values are those that `overrides` (as Hydra reads them; `typed` as people do) compose to, or else the defaults.
    `topic` is "" (the keys needed first, and the flags), "all", a section or config group, or else a BadOption.
    """
    schema, origin = SCHEMAS[name], "with the default options"
    try:
        config = composed(name, overrides)
        origin = f"with {' '.join(typed)}" if typed else origin
    except (HydraException, OmegaConfBaseException):
        config = composed(name, [])
    values: Any = OmegaConf.to_container(config)
    keys, meanings, options = {key.name: key for key in leaves(schema)}, sections(schema), groups(name)

    def entry(key: str) -> str:
        value = reduce(getitem, _NAMES_OPTION.get(key, key).split("."), values)
        own = keys.get(key)
        kind = "" if own is None else own.kind.replace("str", "path") if own.path else own.kind
        accepts = [file.stem for file in options.get(key, [])] or (own.choices if own else ())
        meaning = own.meaning if own else meanings.get(key, "")
        return _entry(f"{key}={_flow(value)}", f"({' | '.join(accepts) or kind.replace('None', 'null')}) {meaning}")

    topics = ["all", *sorted({section.partition(".")[0] for section in meanings} | options.keys())]
    page = [
        f"usage: python -m colorize.{name} [key=value …] [flags]",
        f"Keys, as key=value {origin}. Paths need quotes for the shell only; ${{key}} stands for another key's value.",
    ]
    if topic == "":
        first = FIRST_KEYS[name].split()
        page.insert(1, textwrap.dedent(doc).strip())
        page.append("\n".join(map(entry, first)))
        more = f"every key; --help=NAME those of {', '.join(topics[1:])}" if topics[1:] else "every key"
        flags = {"--help=all": f"explain {more}", **_FLAGS}
        page.append("Flags:\n" + "\n".join(_entry(flag, meaning) for flag, meaning in flags.items()))
    elif topic in (*topics, *meanings):
        members: dict[str, list[str]] = {"": []}
        for key in keys:
            if topic in ("all", key) or key.startswith(f"{topic}."):
                members.setdefault(key.rpartition(".")[0], []).append(entry(key))
        if chosen := _groups_help(name, [group for group in options if topic in ("all", group)]):
            page.insert(1, f"Config groups: group=option takes the values of conf/GROUP/OPTION.yaml.\n{chosen}")
        heads = {section: [f"{section}: {meanings[section]}"] if section else [] for section in members}
        page += ["\n".join([*heads[section], *entries]) for section, entries in members.items() if entries]
    else:
        raise BadOption(f"--help={topic}: there is {', '.join(f'--help={word}' for word in topics)}")
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
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{_flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(_flow(item) for item in value) + "]"
    if isinstance(value, bool) or value is None:
        return "null" if value is None else str(value).lower()
    return "(required)" if value == "???" else str(value)


def _entry(head: str, text: str) -> str:
    width, column = min(120, max(80, shutil.get_terminal_size().columns)), 38
    indent, head = " " * column, f"  {head}"
    body = textwrap.fill(text, width, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)
    return head.ljust(column) + body[column:] if len(head) < column - 1 else f"{head}\n{body}"


def groups(name: str) -> dict[str, list[Path]]:
    """Return the config groups that conf/NAME.yaml uses, and the files of their options."""
    return {group: sorted((conf_dir() / group).glob("*.yaml")) for group in sorted(_defaults(name)) if "/" not in group}


def _defaults(name: str) -> dict[str, str]:
    """Return the option of each group that conf/NAME.yaml takes where none is given."""
    entries = yaml.safe_load((conf_dir() / f"{name}.yaml").read_text(encoding="utf-8"))["defaults"]
    return {group: option for entry in entries if isinstance(entry, dict) for group, option in entry.items()}


def _groups_help(name: str, wanted: Sequence[str]) -> str:
    """List the options of groups, an option a line with the first sentence of its file."""
    lines = []
    for group in wanted:
        for file in groups(name)[group]:
            comment = re.match("(?:# @.*\n)?((?:# .*\n)*)", file.read_text(encoding="utf-8"))
            about = " ".join((comment[1] if comment else "").replace("# ", "").split())
            mark = " (default)" if file.stem == _defaults(name)[group] else ""
            lines.append(_entry(f"{group}={file.stem}{mark}", about.split(". ")[0].removesuffix(".")))
    return "\n".join(lines)
