"""Hints: colours that somebody knows of points in a photo."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from colorize.runtime.errors import UserError, one_line


@dataclass(frozen=True)
class Hint:
    """Colour at column `x` and row `y`, from 0, of the upright photo at full size.

    `rgb` is sRGB, three numbers from 0 to 255 or a text "#rrggbb". Only its chroma counts, since the luma is the
    photo's; None says that the network's own colour is right. Raises ValueError where the values are something else.
    """

    x: float
    y: float
    rgb: Sequence[float] | str | None

    def __post_init__(self) -> None:
        if isinstance(self.rgb, str) and re.fullmatch("#[0-9a-fA-F]{6}", self.rgb):
            object.__setattr__(self, "rgb", tuple(bytes.fromhex(self.rgb[1:])))
        colour = (0, 0, 0) if self.rgb is None else self.rgb
        numbers = [self.x, self.y, *(colour if isinstance(colour, list | tuple) else "?")]
        if not all(type(number) in (int, float) for number in numbers) or len(numbers) != 5:
            raise ValueError('x and y are numbers, rgb is [r, g, b], "#rrggbb", or null to keep the colour')
        if not all(0 <= number <= 255 for number in numbers[2:]):
            raise ValueError(f"rgb={self.rgb}: from 0 to 255")

    def check_inside(self, width: int, height: int) -> None:
        """Raise ValueError where the point lies outside of a photo of `width` × `height` px."""
        if not (0 <= self.x < width and 0 <= self.y < height):
            raise ValueError(f"x={self.x}, y={self.y} lies outside of the upright photo, {width} × {height} px")

    def pixel(self, size: tuple[int, int], shown: tuple[int, int]) -> tuple[int, int]:
        """Return column and row of the point where a photo of `size`, width and height, is shown at another."""
        column, row = (int((int(at) + 0.5) * to / of) for at, of, to in zip((self.x, self.y), size, shown, strict=True))
        return column, row


def read_hints(path: Path, width: int, height: int) -> tuple[Hint, ...]:
    """Read hints from a JSON list. Raises UserError if it is none, or a point lies outside of `width` × `height` px."""
    hints: list[Hint] = []
    try:
        for entry in json.loads(path.read_text(encoding="utf-8")):
            hints.append(Hint(**entry))
            hints[-1].check_inside(width, height)
    except OSError as error:
        raise UserError(f"hints={one_line(error)}") from error
    except TypeError as error:  # no list, no objects, or other keys
        raise UserError(f'hints={path}: give a list as [{{"x": 120, "y": 80, "rgb": "#8a2b2b"}}]') from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"hints={path}: {one_line(error)}") from error
    return tuple(hints)
