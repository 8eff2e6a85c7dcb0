"""Numbered frames: a pattern as FFmpeg's image2 knows it, such as scan/frame_%06d.tif, and the files that it means."""

import os
import re
from pathlib import Path

from colorize.runtime.errors import UserError
from colorize.runtime.files import digest, read_folder

_NUMBER = re.compile(r"(?<!%)%(?:0[0-9]+)?d")


def is_pattern(path: str | os.PathLike[str]) -> bool:
    """Return whether a path means numbered frames: a number (%d or %06d) stands in its name, and no file has it."""
    return len(_NUMBER.findall(os.path.basename(path))) == 1 and not os.path.lexists(path)


def frame_path(pattern: str | os.PathLike[str], number: int) -> Path:
    """Return the file of a frame."""
    folder, name = os.path.split(pattern)
    return Path(folder, name % number)


def frame_numbers(pattern: str) -> range:
    """Return the numbers from the first file to the last. Raises UserError where there is none, or one is missing."""
    folder, name = os.path.split(pattern)
    before, after = (re.escape(part.replace("%%", "%")) for part in _NUMBER.split(name))
    fits = re.compile(f"{before}([0-9]+){after}")
    try:
        matches = [match for file in read_folder(folder or ".")[1] if (match := fits.fullmatch(file)) is not None]
    except OSError as error:
        raise UserError(f"input={pattern}: {error.strerror}") from error
    found = sorted(number for match in matches if name % (number := int(match[1])) == match[0])
    if not found:
        raise UserError(f"input={pattern}: there is no file of such a name")
    numbers = range(found[0], found[-1] + 1)
    if len(found) < len(numbers):
        gap = next(number for number, there in zip(numbers, found, strict=False) if number != there)
        raise UserError(
            f"{frame_path(pattern, gap)} is missing: of the frames {numbers[0]} to {numbers[-1]} only {len(found)} are "
            "there; add it, or move the frames after the gap away"
        )
    return numbers


def parts_folder(result: Path) -> Path:
    """Return the hidden folder in which the finished parts of a result lie until it is complete."""
    word = result.name if len(os.fsencode(result.name)) < 200 else digest(result.name, size=20).hex()
    return result.with_name(f".{word}.parts")
