"""Which photos and films `input=…` means, and the file that each one's result goes to.

No photo is opened, none is written to. Of files that are not called as photos the first bytes are read.
"""

import fnmatch
import os
import re
import tempfile
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from colorize.data.sources import IMAGE_EXTENSIONS, has_image_extension
from colorize.photos.results import SUFFIXES
from colorize.runtime.errors import UserError
from colorize.runtime.schema import BadOption
from colorize.video.sniff import FILM_SUFFIXES, READ_SUFFIXES, begins_as_film, is_film

LIST_EXTENSIONS = (".txt", ".lst")
"""What the name of a list of photos ends with."""

FORMAT_EXTENSIONS = {"jpg": ".jpg", "jpeg": ".jpg", "png": ".png", "tiff": ".tif", "webp": ".webp", "bmp": ".bmp"}

FileId = tuple[int, int]


@dataclass(frozen=True)
class Job:
    """A photo or a film to colour.

    Attributes:
        source: its file.
        result: where its result goes.
        as_png: where it goes instead, if the format that the name of `result` stands for cannot hold it; None where
            the user named the file.
        compare: where its before and after go.
        film: whether it is a film.
    """

    source: str
    result: Path
    as_png: Path | None
    compare: Path
    film: bool = False

    def done(self) -> bool:
        """Whether there is a result of an earlier start."""
        return self.result.is_file() or (self.as_png is not None and self.as_png.is_file())


@dataclass(frozen=True)
class Plan:
    """All that `input=…` comes to.

    Attributes:
        folder: where the results go.
        jobs: the photos, in the order of their names (those of a list in its order).
        unreadable: folders that cannot be listed, with the reason.
        report: where the list of failures goes; None where the result of a single photo was named.
    """

    folder: Path
    jobs: list[Job]
    unreadable: list[tuple[str, str]]
    report: Path | None


def plan(given: str, output: str, format: str | None, contact_sheet: str | None = None) -> Plan:
    """Find the photos, and give each a result of its own.

    Args:
        given: a photo or film; a folder, which is taken whole and mirrored; a glob, as `scans/**/*.tif`, whose folders
            are taken whole, mirrored from its first part with a wildcard on; or a list: a text file (.txt, .lst) with a
            path a line (or between zero bytes), relative to the text file. What exists by this very name is no glob.
        output: a folder, which may lie in a folder that is given; for a single one also the result's own file.
        format: one of FORMAT_EXTENSIONS; None keeps each photo's own. Films keep theirs if it is one of FILM_SUFFIXES,
            others become Matroska.
        contact_sheet: a file of ours that is not to be taken for a photo.

    Raises:
        UserError: nothing is found, or the results would come to lie where the photos are.
        BadOption: the result is called as a film of a kind that is not written.
    """
    target = Path(output)
    suffix = "" if target.is_dir() or output.endswith(os.sep) else target.suffix.lower()
    if suffix in IMAGE_EXTENSIONS or suffix in FILM_SUFFIXES:
        return _plan_single(given, target, format)
    if suffix in READ_SUFFIXES and os.path.isfile(given):
        raise BadOption(f"output={output}: films are written as {' '.join(FILM_SUFFIXES)}; give a name that ends so")
    root, pattern = _root(given)
    if root is not None and target.exists() and os.path.samefile(root, target):
        raise UserError(
            f"output={output} is where the photos are: results never go among them; give another folder, such as one "
            f"in it: output={target / 'colour'}"
        )
    if target.exists() and not target.is_dir():
        raise UserError(f"output={output} is a file: give a folder")
    own = frozenset(os.path.realpath(name) for name in (output, contact_sheet) if name is not None)
    unreadable: list[tuple[str, str]] = []
    if root is None:
        photos = _read_list(Path(given))
    elif _is_single(given):
        photos = [(given, os.path.basename(given))]
    else:
        photos = [(str(root / name), name) for name in _walk(root, pattern, own, unreadable)]
    if not photos and not unreadable:
        kinds = " ".join(extension[1:] for extension in IMAGE_EXTENSIONS)
        raise UserError(f"input={given}: no photos there (looked for films and the extensions {kinds})")
    target.mkdir(parents=True, exist_ok=True)
    return Plan(target, _jobs(photos, target, format, _same_name(target)), unreadable, target / "failed.txt")


def input_files(jobs: list[Job]) -> dict[FileId, str]:
    """The files that must not be written to, by device and inode: no other name, link or spelling hides them."""
    found = {_file_id(job.source): job.source for job in jobs}
    return {file: source for file, source in found.items() if file is not None}  # what is gone its own job will say


def overwritten_input(job: Job, inputs: dict[FileId, str]) -> str | None:
    """The input that a result of `job` would replace, if any."""
    for target in (job.result, job.as_png, job.compare):
        if target is not None and (file := _file_id(target)) in inputs:
            return inputs[file]
    return None


def _file_id(path: str | Path) -> FileId | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def shown(name: str | Path) -> str:
    """A file's name as one line of text, whatever is in it: control characters and bytes that are no text escaped."""
    text = re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", lambda match: repr(match[0])[1:-1], str(name))
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


# --- where the photos are ---------------------------------------------------------------------------------------------


def _is_single(given: str) -> bool:
    return os.path.lexists(given) and not os.path.isdir(given) and not given.lower().endswith(LIST_EXTENSIONS)


def _root(given: str) -> tuple[Path | None, list[str]]:
    """The folder that is mirrored (none for a list), and the glob that holds below it (none: all)."""
    if _is_single(given):
        return Path(given).parent, []
    if os.path.isdir(given):
        return Path(given), []
    return (None, []) if os.path.lexists(given) else _split_glob(given)


def _split_glob(given: str) -> tuple[Path, list[str]]:
    """The part of a glob that exists by this very name, and the patterns below it."""
    parts = Path(given).parts
    if not parts:
        raise UserError("input= is empty: give a photo, a folder, a glob or a list")
    fixed = next(count for count in range(len(parts) - 1, -1, -1) if os.path.isdir(Path(*parts[:count])))
    pattern = list(parts[fixed:])
    if not any(set("*?[") & set(part) for part in pattern):
        raise UserError(f"input={given}: there is no such file or folder")
    return Path(*parts[:fixed]), pattern


def _walk(root: Path, pattern: list[str], own: frozenset[str], unreadable: list[tuple[str, str]]) -> Iterator[str]:
    """Names of the photos below `root` that match, sorted within each folder.

    Left out are hidden files and folders, `own` ones, and folders that were seen before. Links come after everything
    else, so that a photo has the same name whether or not a link leads to it as well, and a loop ends.
    """
    seen: set[FileId | None] = set()
    own_names = {os.path.basename(name) for name in own}

    def note(error: OSError) -> None:
        unreadable.append((str(error.filename), error.strerror or str(error)))

    starts = [str(root)]
    while starts:
        links: list[str] = []
        for folder, subfolders, files in (entry for start in starts for entry in os.walk(start, onerror=note)):
            parts = Path(os.path.relpath(folder, root)).parts
            file = _file_id(folder)
            known = file in seen
            seen.add(file)
            if known or not _matches(parts, pattern, partly=True) or os.path.realpath(folder) in own:
                subfolders.clear()
                continue
            subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
            links += [path for name in subfolders if os.path.islink(path := os.path.join(folder, name))]
            for name in sorted(files):
                path = os.path.join(folder, name)
                is_own = name in own_names and os.path.realpath(path) in own
                taken = not is_own and not name.startswith(".") and _matches((*parts, name), pattern)
                if taken and (has_image_extension(name) or is_film(path)):
                    yield os.path.join(*parts, name)
        starts = sorted(links)


def _matches(parts: Sequence[str], pattern: Sequence[str], partly: bool = False) -> bool:
    """Whether a path matches a glob, or lies in a folder that does; `partly`: whether something in it could."""
    if not pattern:
        return True
    if not parts:
        return partly or all(part == "**" for part in pattern)
    if pattern[0] == "**":
        return _matches(parts, pattern[1:], partly) or _matches(parts[1:], pattern, partly)
    return fnmatch.fnmatch(parts[0], pattern[0]) and _matches(parts[1:], pattern[1:], partly)


def _read_list(path: Path) -> list[tuple[str, str]]:
    """The photos of a list, whether or not they exist; those outside its folder with their whole path as a name."""
    try:
        text = os.fsdecode(path.read_bytes()).removeprefix("\ufeff")
    except OSError as error:
        raise UserError(f"input={path}: {error.strerror}") from error
    lines = text.split("\0") if "\0" in text else [line.removesuffix("\r") for line in text.split("\n")]
    folder = Path(os.path.abspath(path.parent))
    photos: dict[str, str] = {}
    for line in lines:
        if line.strip():
            source = Path(os.path.abspath(folder / line))
            inside = source.is_relative_to(folder)
            photos[str(source)] = str(source.relative_to(folder if inside else source.anchor))
    return list(photos.items())


# --- where the results go ---------------------------------------------------------------------------------------------


def _plan_single(given: str, target: Path, format: str | None) -> Plan:
    suffix = target.suffix.lower()
    film = suffix in FILM_SUFFIXES
    if not os.path.lexists(given) and not set("*?[") & set(given):
        raise UserError(f"input={given}: there is no such file or folder")
    if not _is_single(given):
        raise UserError(
            f"output={target} is the name of a {'film' if film else 'picture'}, but input={given} is no single photo: "
            "give a folder"
        )
    if film and os.path.exists(given) and _is_still(given):
        raise UserError(f"output={target} is the name of a film, but input={given} is a photo: give a picture's name")
    if not film and begins_as_film(given):
        suffixes = " ".join(FILM_SUFFIXES)
        raise UserError(f"output={target} is the name of a picture, but input={given} is a film: take {suffixes}")
    if not film and suffix not in SUFFIXES:
        raise UserError(f"output={target}: {suffix} files are not written; give one of {' '.join(SUFFIXES)}")
    if not film and format is not None and SUFFIXES[suffix] != SUFFIXES[FORMAT_EXTENSIONS[format]]:
        raise UserError(f"output={target} and format={format} contradict each other: leave out format=…")
    job = Job(given, target, None, target.with_name(f"{target.stem}.compare.jpg"), film)
    if _file_id(target) in input_files([job]):
        what = "film" if film else "photo"
        raise UserError(f"output={target} is the {what} itself, which is never written to: give another name")
    return Plan(target.parent, [job], [], report=None)


def _jobs(photos: list[tuple[str, str]], folder: Path, format: str | None, key: Callable[[str], str]) -> list[Job]:
    """A result of its own for each photo: its own name where that says the format, then what others leave free."""
    taken: set[str] = set()
    names = [name for _, name in photos]
    films = [_is_film(source) for source, _ in photos]
    wishes = [_film_name(name) if film else _with_format(name, format) for name, film in zip(names, films, strict=True)]
    results = _claim(wishes, names, taken, key)
    not_png = [index for index, name in enumerate(results) if not films[index] and not name.lower().endswith(".png")]
    pngs = _claim([_replaced(results[index], ".png") for index in not_png], [results[i] for i in not_png], taken, key)
    as_png = dict(zip(not_png, pngs, strict=True))
    compare = _claim([_replaced(name, ".compare.jpg") for name in results], results, taken, key)
    return [
        Job(source, folder / result, folder / as_png[index] if index in as_png else None, folder / beside, films[index])
        for index, ((source, _), result, beside) in enumerate(zip(photos, results, compare, strict=True))
    ]


def _with_format(name: str, format: str | None) -> str:
    suffix = os.path.splitext(name)[1].lower()
    if format is None:
        return name if suffix in SUFFIXES else _replaced(name, ".png")
    extension = FORMAT_EXTENSIONS[format]
    return name if SUFFIXES.get(suffix) == SUFFIXES[extension] else _replaced(name, extension)


def _film_name(name: str) -> str:
    stem, suffix = os.path.splitext(name)
    return name if suffix.lower() in FILM_SUFFIXES else (stem or name) + ".mkv"


def _is_film(source: str) -> bool:
    """Whether to colour a file as a film. One without a photo's name that nothing else tells is shown to FFmpeg."""
    if begins_as_film(source):
        return True
    name = os.path.basename(source)
    if (has_image_extension(name) and not name.startswith(".")) or _is_still(source):
        return False
    return is_film(source) or _ffmpeg_sees_film(source)


def _ffmpeg_sees_film(source: str) -> bool:
    try:
        from colorize.video.probing import has_pictures
    except ImportError:
        return False
    return os.path.isfile(source) and has_pictures(source)


def _is_still(source: str) -> bool:
    """Whether Pillow reads a single picture from a file."""
    from colorize.photos.opening import UnreadableImage, opened

    try:
        with opened(source) as image:
            return getattr(image, "n_frames", 1) == 1
    except UnreadableImage:
        return False


def _replaced(name: str, extension: str) -> str:
    stem, suffix = os.path.splitext(name)
    return (stem if suffix.lower() in IMAGE_EXTENSIONS else name) + extension


def _claim(wishes: list[str], origins: list[str], taken: set[str], key: Callable[[str], str]) -> list[str]:
    """Names that nobody else has. Who wishes to keep its own gets it; of several others none does, in any order.

    Where `b.png` is not free for `b.gif`, its result is `b.gif.png`, and then `b.gif.2.png`.
    """
    keeps = [wish == origin for wish, origin in zip(wishes, origins, strict=True)]
    wanted = Counter(key(wish) for wish, keep in zip(wishes, keeps, strict=True) if not keep)
    granted: list[str | None] = [None] * len(wishes)
    for keeping in (True, False):
        for index, wish in enumerate(wishes):
            if keeps[index] == keeping and key(wish) not in taken and (keeping or wanted[key(wish)] == 1):
                granted[index] = wish
                taken.add(key(wish))
    for index, wish in enumerate(wishes):
        number = 1
        while granted[index] is None:
            extension = ".compare.jpg" if wish.endswith(".compare.jpg") else os.path.splitext(wish)[1]
            name = origins[index] + (extension if number == 1 else f".{number}{extension}")
            if key(name) not in taken:
                granted[index] = name
                taken.add(key(name))
            number += 1
    return [name for name in granted if name is not None]


def _same_name(folder: Path) -> Callable[[str], str]:
    """What two names have in common that are one file in `folder`: on some file systems capitals and accents."""
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".colorize-a") as file:
            if not os.path.exists(os.path.join(folder, os.path.basename(file.name).upper())):
                return lambda name: name
    except OSError as error:
        raise UserError(f"output={folder} cannot be written: {error.strerror}") from error
    return lambda name: unicodedata.normalize("NFC", name).casefold()
