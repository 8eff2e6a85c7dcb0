"""Declaring, listing and filling the schema of `conf/`, which stands in `colorize.config`; raises `BadOption`s."""

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import field, fields, is_dataclass
from typing import Any, NamedTuple, TypeVar, get_type_hints

from hydra.core.override_parser.types import Quote, QuotedString
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from colorize.runtime.errors import UserError
from colorize.runtime.keys import opt as opt

T = TypeVar("T")


class BadOption(UserError):
    """An option that does not fit the schema or the other options; commands exit with status 2."""


@contextmanager
def value_errors_as_bad_options() -> Iterator[None]:
    """Turn a ValueError, with which an object refuses a value, into a BadOption."""
    try:
        yield
    except ValueError as error:
        raise BadOption(str(error)) from error


def node(kind: type[T], meaning: str) -> T:
    """Declare a nested section of the schema."""
    made: T = field(default_factory=kind, metadata={"meaning": meaning})
    return made


def key_of(override: str) -> str:
    """Return `a.b` of `+a.b=c`."""
    return override.lstrip("+~").partition("=")[0]


def literal(text: str) -> str:
    """Return `text` as a quoted value of Hydra's grammar."""
    return str(QuotedString(text, Quote.single).with_quotes())


class Key(NamedTuple):
    """One leaf of a schema, as `--help` lists it."""

    name: str
    kind: str
    default: Any
    meaning: str
    choices: tuple[str, ...]
    least: float | None
    most: float | None
    path: bool
    literal: bool


def _entries(schema: type[Any], prefix: str = "") -> Iterator[tuple[str, Any, Any, Any]]:
    """Yield name, type, default and metadata of every key and section of `schema`, in the order of the file."""
    hints, defaults = get_type_hints(schema), schema()
    for entry in fields(schema):
        name, kind = prefix + entry.name, hints[entry.name]
        yield name, kind, getattr(defaults, entry.name), entry.metadata
        if isinstance(kind, type) and is_dataclass(kind):
            yield from _entries(kind, f"{name}.")


def leaves(schema: type[Any]) -> list[Key]:
    """List every key of `schema`, those of nested sections included."""
    return [
        Key(name, str(kind) if hasattr(kind, "__args__") else kind.__name__, default, **metadata)
        for name, kind, default, metadata in _entries(schema)
        if not is_dataclass(kind)
    ]


def sections(schema: type[Any]) -> dict[str, str]:
    """Return the nested sections of `schema` and what they hold."""
    return {name: metadata["meaning"] for name, kind, _, metadata in _entries(schema) if is_dataclass(kind)}


def omegaconf_line(error: OmegaConfBaseException) -> str:
    """Return what `error` says as one line that begins with its key."""
    reason = str(error).splitlines()[0]
    return f"{error.full_key}: {reason}" if error.full_key else reason


def from_hydra(config: DictConfig, schema: type[T]) -> T:
    """Return the composed configuration as an instance of its schema, all resolved; BadOption for what is not of it."""
    try:
        missing = sorted(OmegaConf.missing_keys(config))
        if missing:
            texts = {key.name: key.meaning for key in leaves(schema)}
            raise BadOption("; ".join(f"{name} is not set: give {name}=… ({texts.get(name, '')})" for name in missing))
        for key in leaves(schema):
            value = OmegaConf.select(config, key.name)
            if key.path and str(value).startswith("~"):  # after a `=`, shells leave it to the program
                OmegaConf.update(config, key.name, os.path.expanduser(value))
            if key.path and OmegaConf.is_list(value):
                OmegaConf.update(config, key.name, [os.path.expanduser(path) for path in value])
            if key.name == "resume":
                value = config.resume = str(value).lower()
            least, most = (key.least, key.most) if key.most is not None else (key.least, math.inf)
            for number in (value if OmegaConf.is_list(value) else [value]) if least is not None else ():
                if number is not None and not (math.isfinite(number) and least <= number <= most):
                    fault = "is too small" if number < least else "is too large" if number > most else "is no number"
                    limits = f"at least {least:g}" if most == math.inf else f"{least:g} to {most:g}"
                    raise BadOption(f"{key.name}={value} {fault}: give {limits}")
            if key.choices and value not in key.choices:
                raise BadOption(f"{key.name}={value} is not known: use one of {', '.join(key.choices)}")
        made = OmegaConf.to_object(config)
    except OmegaConfBaseException as error:
        raise BadOption(omegaconf_line(error)) from error
    assert isinstance(made, schema)
    return made
