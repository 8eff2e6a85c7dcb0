"""Options as fields of a dataclass: each with its default, its meaning and what it accepts. Free of Hydra and torch."""

from dataclasses import field
from typing import Any


def opt(
    default: Any,
    meaning: str,
    *,
    choices: tuple[str, ...] = (),
    least: float | None = None,
    most: float | None = None,
    path: bool = False,
    literal: bool = False,
) -> Any:
    """Declare an option: its default, its one-line meaning, the words that it accepts, or the limits of its numbers.

    The value of a `path`, or of another `literal` text, reaches the program as typed, whatever Hydra's grammar is.
    """
    metadata = {"meaning": meaning, "choices": choices, "least": least, "most": most}
    metadata |= {"path": path, "literal": path or literal}
    if isinstance(default, (list, dict)):
        return field(default_factory=lambda: default.copy(), metadata=metadata)
    return field(default=default, metadata=metadata)
