"""Names of results: each photo's own where that says the format, and never the same for two."""

import os
import tempfile
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path

from colorize.runtime.errors import UserError
from colorize.runtime.formats import WRITTEN_SUFFIXES, has_image_suffix, suffix_of
from colorize.video.sniff import FILM_SUFFIXES

COMPARE = ".compare.jpg"  # the end of the name of a result's before and after

_MOST_BYTES = 255  # length of a file's name on most file systems


def name_results(
    names: Sequence[str], films: Sequence[bool], format: str | None, key: Callable[[str], str]
) -> list[tuple[str, str | None, str]]:
    """Name the results of photos and films, whose own names are `names`, relative to the folder that is mirrored.

    Each gets three names: of its result; of a PNG in case that format cannot hold it (None of a PNG or a film); and of
    its before and after. `films` says which are films; `format` is one of `FORMAT_CHOICES` (None keeps each photo's
    own, if it is written); `key` maps names of one file to one text, see :func:`same_name`.
    """
    taken: set[str] = set()
    wishes = [_film_name(name) if film else _photo_name(name, format) for name, film in zip(names, films, strict=True)]
    results = _claim(wishes, names, taken, key)
    others = [name for name, film in zip(results, films, strict=True) if not film and suffix_of(name) != ".png"]
    as_png = dict(zip(others, _claim([_replaced(name, ".png") for name in others], others, taken, key), strict=True))
    compare = _claim([_replaced(name, COMPARE) for name in results], results, taken, key)
    return [(name, as_png.get(name), beside) for name, beside in zip(results, compare, strict=True)]


def same_name(folder: Path) -> Callable[[str], str]:
    """Return what names of one file in `folder`, made or not, share: some file systems fold case and accents."""
    folder = next(place for place in (folder, *folder.absolute().parents) if place.is_dir())
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".colorize-a") as file:
            if not os.path.exists(os.path.join(folder, os.path.basename(file.name).upper())):
                return lambda name: name
    except OSError as error:
        raise UserError(f"output={folder} cannot be written: {error.strerror}") from error
    return lambda name: unicodedata.normalize("NFC", name).casefold()


def _photo_name(name: str, format: str | None) -> str:
    own = WRITTEN_SUFFIXES.get(suffix_of(name))
    wanted = (own or WRITTEN_SUFFIXES[".png"]) if format is None else WRITTEN_SUFFIXES[f".{format}"]
    return name if own == wanted else _replaced(name, wanted.suffixes[0])


def _film_name(name: str) -> str:
    return name if suffix_of(name) in FILM_SUFFIXES else with_suffix(os.path.splitext(name)[0], ".mkv")


def _replaced(name: str, suffix: str) -> str:
    return with_suffix(os.path.splitext(name)[0] if has_image_suffix(name) else name, suffix)


def with_suffix(name: str, suffix: str) -> str:
    """Return `name` with `suffix` after it, cut before it as far as a file's name would be too long."""
    folder, stem = os.path.split(name)
    while len(os.fsencode(stem + suffix)) > _MOST_BYTES:
        stem = stem[:-1]
    return os.path.join(folder, stem + suffix)


def _claim(wishes: Sequence[str], origins: Sequence[str], taken: set[str], key: Callable[[str], str]) -> list[str]:
    """Return names that nobody else has. Who wishes to keep its own gets it; of several others none does.

    Where `b.png` is not free for `b.gif`, its result is `b.gif.png`, and then `b.gif.2.png`.
    """
    wanted = Counter(key(wish) for wish, origin in zip(wishes, origins, strict=True) if wish != origin)
    granted = dict[int, str]()
    for keeping in (True, False):
        for index, (wish, origin) in enumerate(zip(wishes, origins, strict=True)):
            if (wish == origin) == keeping and key(wish) not in taken and (keeping or wanted[key(wish)] == 1):
                granted[index] = wish
                taken.add(key(wish))
    for index, (wish, origin) in enumerate(zip(wishes, origins, strict=True)):
        if index not in granted:
            suffix = COMPARE if wish.endswith(COMPARE) else os.path.splitext(wish)[1]
            numbered = (with_suffix(origin, suffix if number == 1 else f".{number}{suffix}") for number in count(1))
            granted[index] = next(name for name in numbered if key(name) not in taken)
            taken.add(key(granted[index]))
    return [granted[index] for index in range(len(wishes))]
