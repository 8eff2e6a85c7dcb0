"""The photos and films that `input=…` means, and where results go: no photo is opened, nothing is written."""

import fnmatch
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from colorize.inference.result_names import COMPARE, name_results, same_name, with_suffix
from colorize.runtime.errors import UserError
from colorize.runtime.files import read_list, walk_files
from colorize.runtime.formats import IMAGE_SUFFIXES, WRITTEN_SUFFIXES, has_image_suffix, suffix_of
from colorize.runtime.schema import BadOption
from colorize.video.numbered import frame_numbers, frame_path, is_pattern, parts_folder
from colorize.video.sniff import FILM_SUFFIXES, READ_SUFFIXES, begins_as_film, is_film

BESIDE = "_colour"  # end of the names of results that lie beside their photo, or beside the folder of their photos

LIST_SUFFIXES = (".txt", ".lst")  # suffixes of lists of photos

FileId = tuple[int, int]


@dataclass(frozen=True)
class Job:
    """A photo or a film to colour, from the file `source` to the file `result`.

    The result goes to `as_png` instead if the format of its name cannot hold it (None where the user named the file);
    before and after go to `compare`. `hints` is the file with what somebody knows of a photo's colours.
    """

    source: str
    result: Path
    as_png: Path | None
    compare: Path
    film: bool = False
    hints: Path | None = None

    def done(self) -> bool:
        """Return whether an earlier start left a result. Raises UserError where frames of a sequence are missing."""
        if is_pattern(self.result):
            numbers = frame_numbers(self.source) if is_pattern(self.source) else range(1, 2)
            is_there = all(frame_path(self.result, number).is_file() for number in numbers)
            return is_there and not parts_folder(self.result).exists()
        return self.result.is_file() or (self.as_png is not None and self.as_png.is_file())


@dataclass(frozen=True)
class Plan:
    """Everything that `input=…` comes to.

    `folder` is where the results go; `jobs` are in the order of the photos' names (those of a list in its order);
    `unreadable` are folders that cannot be listed, with the reason; `report` is where the list of failures goes (None
    where the results have no folder of their own); `left` is how many files were not taken, by their suffix.
    """

    folder: Path
    jobs: list[Job]
    unreadable: list[tuple[str, str]]
    report: Path | None
    left: Counter[str] = field(default_factory=Counter)

    def share(self, number: int, count: int) -> "Plan":
        """Return the part of `number`, from 0, of `count` that share the work, with failures of its own."""
        if count == 1:
            return self
        plan = self if number == 0 else replace(self, unreadable=[], left=Counter())  # which one of them tells
        report = self.report and self.report.with_stem(f"{self.report.stem}-{number + 1}-of-{count}")
        return replace(plan, jobs=self.jobs[number::count], report=report)


def plan(given: Sequence[str], output: str | None, format: str | None, contact_sheet: str | None = None) -> Plan:
    """Find the photos, and give each a result of its own.

    Args:
        given: each a photo or film; a folder, which is taken whole and mirrored; a glob, as `scans/**/*.tif`, whose
            folders are taken whole, mirrored from its first part with a wildcard on; or a list: a text file (.txt,
            .lst) with a path a line (or between zero bytes), relative to the text file. What exists by this very name
            is no glob. Alone also a sequence, as `scans/frame_%06d.tif`.
        output: a folder, which may lie in a folder that is given; of several folders each has one in it. For a single
            photo also the result's own file. None: `NAME_colour` beside each photo, or beside each folder.
        format: one of `FORMAT_CHOICES`; None keeps each photo's own. Films keep theirs if it is one of FILM_SUFFIXES,
            others become Matroska.
        contact_sheet: a file of ours that is not to be taken for a photo.

    Raises UserError where nothing is found, or the results would come to lie where the photos are; BadOption where the
    result is called as a film of a kind that is not written.
    """
    if not any(given):
        raise UserError("input= is empty: give a photo, a folder, a glob or a list")
    target = Path(output or "")
    if is_pattern(target) or any(is_pattern(one) for one in given):
        return _plan_frames(given, output, format)
    suffix = "" if output is None or target.is_dir() or output.endswith(os.sep) else target.suffix.lower()
    if suffix in (*IMAGE_SUFFIXES, *FILM_SUFFIXES):
        return _plan_single(given, target, format)
    if suffix in READ_SUFFIXES and os.path.isfile(given[0]):
        raise BadOption(f"output={output}: films are written as {' '.join(FILM_SUFFIXES)}; give a name that ends so")
    if target.exists() and not target.is_dir():
        raise UserError(f"output={output} is a file: give a folder")
    own = frozenset(os.path.realpath(name) for name in (output, contact_sheet) if name is not None)
    unreadable: list[tuple[str, str]] = []
    left = Counter[str]()
    photos: dict[str, str] = {}
    for one in given:
        root, pattern = _root(one)
        if root is not None and output is not None and target.exists() and os.path.samefile(root, target):
            raise UserError(
                f"output={output} is where the photos are: results never go among them; give another folder, such as "
                f"one in it: output={target / 'colour'}"
            )
        if root is None:
            found = _listed(Path(one))
        elif _is_single(one):
            found = [(one, os.path.basename(one))]
        else:
            found = [(str(root / name), name) for name in _found(root, pattern, own, unreadable, left)]
        if not found and not unreadable:
            kinds = " ".join(suffix[1:] for suffix in IMAGE_SUFFIXES)
            raise UserError(f"input={one}: no photos there (looked for films and the extensions {kinds})")
        folder = os.path.abspath(one) if os.path.isdir(one) else ""
        if output is None and not folder:
            photos |= {source: BESIDE.join(os.path.splitext(source)) for source, _ in found}
            continue
        base = f"{folder}{BESIDE}" if output is None else os.path.basename(folder) if len(given) > 1 else ""
        photos |= {source: os.path.join(base, name) for source, name in found}
    own_folder = output is not None or (len(given) == 1 and folder != "")
    if target.is_symlink() and not target.exists():
        raise UserError(f"output={output} is a link to what is not there: make that folder, or give another")
    if output is None:
        target = Path(base if own_folder else os.path.dirname(given[0]))
        # Results of an earlier start, which a shell's `*` takes for photos:
        earlier = {f"{os.path.splitext(name)[0]}{end}" for name in photos.values() for end in ("", ".compare")}
        photos = {source: name for source, name in photos.items() if os.path.splitext(source)[0] not in earlier}
    films = [_is_film(source) for source in photos]
    named = name_results(list(photos.values()), films, format, same_name(target))
    home = Path(output or "")
    jobs = [
        Job(source, home / result, home / as_png if as_png else None, home / beside, film)
        for source, film, (result, as_png, beside) in zip(photos, films, named, strict=True)
    ]
    return Plan(target, jobs, unreadable, target / "failed.txt" if own_folder else None, left)


def with_hints(jobs: Sequence[Job], given: str) -> list[Job]:
    """Give photos their files of hints.

    `given` is that of a single photo; or a folder, in which a/NAME.json is for each photo NAME in a folder a, NAME.json
    for every other photo NAME. Raises UserError where it is neither.
    """
    if os.path.isfile(given) and len(jobs) == 1 and not jobs[0].film:
        return [replace(jobs[0], hints=Path(given))]
    if not os.path.isdir(given):
        raise UserError(f"hints={given}: give a single photo's file, or a folder with NAME.json for each photo NAME")

    def find(source: str) -> Path | None:
        parts = Path(f"{os.path.splitext(os.path.abspath(source))[0]}.json").parts[1:]
        return next((file for first in range(len(parts)) if (file := Path(given, *parts[first:])).is_file()), None)

    return [job if job.film else replace(job, hints=find(job.source)) for job in jobs]


def input_files(jobs: list[Job]) -> dict[FileId, str]:
    """Return the files that must not be written to, by device and inode, which no other name or link hides."""
    return {file: job.source for job in jobs if (file := _file_id(job.source)) is not None}


def overwritten_input(job: Job, inputs: dict[FileId, str]) -> str | None:
    """Return the input that a result of `job` would replace, if any."""
    files = (_file_id(target) for target in (job.result, job.as_png, job.compare) if target is not None)
    return next((inputs[file] for file in files if file in inputs), None)


def _file_id(path: str | Path) -> FileId | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def shown(name: str | Path) -> str:
    """Return a file's name as one line of text: control characters and bytes that are no text are escaped."""
    text = re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", lambda match: repr(match[0])[1:-1], str(name))
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


# --- where the photos are ---------------------------------------------------------------------------------------------


def _is_single(given: str) -> bool:
    return os.path.lexists(given) and not os.path.isdir(given) and suffix_of(given) not in LIST_SUFFIXES


def _root(given: str) -> tuple[Path | None, list[str]]:
    """Return the folder that is mirrored (none for a list), and the glob that holds below it (none: all)."""
    if _is_single(given):
        return Path(given).parent, []
    if os.path.lexists(given):
        return Path(given) if os.path.isdir(given) else None, []
    parts = Path(given).parts
    fixed = next(count for count in range(len(parts) - 1, -1, -1) if os.path.isdir(Path(*parts[:count])))
    pattern = list(parts[fixed:])
    if not any(set("*?[") & set(part) for part in pattern):
        raise UserError(f"input={given}: there is no such file or folder")
    return Path(*parts[:fixed]), pattern


def _found(
    root: Path, pattern: list[str], own: frozenset[str], unreadable: list[tuple[str, str]], left: Counter[str]
) -> Iterator[str]:
    """Yield names of photos and films that match below `root`, none of `own`; add to `unreadable` and `left`."""
    own_names = {os.path.basename(name) for name in own}

    def enter(folder: str) -> bool:
        return _matches(Path(folder).parts, pattern, partly=True) and os.path.realpath(root / folder) not in own

    def note(error: OSError) -> None:
        unreadable.append((str(error.filename).rstrip("/"), error.strerror or str(error)))

    for folder, names in walk_files(root, enter=enter, on_error=note):
        for name in names:
            path = os.path.join(root, folder, name)
            is_own = name in own_names and os.path.realpath(path) in own
            if is_own or not _matches(Path(folder, name).parts, pattern):
                continue
            if has_image_suffix(name) or is_film(path):
                yield folder + name
            else:
                left[suffix_of(name)] += 1


def _matches(parts: Sequence[str], pattern: Sequence[str], partly: bool = False) -> bool:
    """Return whether a path matches a glob, or lies in a folder that does; `partly`: whether something in it could."""
    if not pattern:
        return True
    if not parts:
        return partly or all(part == "**" for part in pattern)
    if pattern[0] == "**":
        return _matches(parts, pattern[1:], partly) or _matches(parts[1:], pattern, partly)
    return fnmatch.fnmatch(parts[0], pattern[0]) and _matches(parts[1:], pattern[1:], partly)


def _listed(path: Path) -> list[tuple[str, str]]:
    try:
        lines = read_list(path)
    except OSError as error:
        raise UserError(f"input={path}: {error.strerror}") from error
    folder = Path(os.path.abspath(path.parent))
    photos: dict[str, str] = {}
    for line in lines:
        source = Path(os.path.abspath(folder / line))
        photos[str(source)] = str(source.relative_to(folder if source.is_relative_to(folder) else source.anchor))
    return list(photos.items())


# --- where the results go ---------------------------------------------------------------------------------------------


def _plan_single(every: Sequence[str], target: Path, format: str | None) -> Plan:
    given, suffix = ", ".join(every), target.suffix.lower()
    film = suffix in FILM_SUFFIXES
    what = "film" if film else "photo"
    if len(every) == 1 and not os.path.lexists(given) and not set("*?[") & set(given):
        raise UserError(f"input={given}: there is no such file or folder")
    if len(every) > 1 or not _is_single(given):
        raise UserError(f"output={target} is the name of a {what}, but input={given} is no single photo: give a folder")
    if film and os.path.exists(given) and _is_still(given):
        raise UserError(f"output={target} is the name of a film, but input={given} is a photo: give a photo's name")
    if not film and begins_as_film(given):
        suffixes = " ".join(FILM_SUFFIXES)
        raise UserError(f"output={target} is the name of a photo, but input={given} is a film: take {suffixes}")
    if not film and suffix not in WRITTEN_SUFFIXES:
        raise UserError(f"output={target}: {suffix} files are not written; give one of {' '.join(WRITTEN_SUFFIXES)}")
    if not film and format is not None and WRITTEN_SUFFIXES[suffix] != WRITTEN_SUFFIXES[f".{format}"]:
        raise UserError(f"output={target} and format={format} contradict each other: leave out format=…")
    job = Job(given, target, None, target.with_name(with_suffix(target.stem, COMPARE)), film)
    if _file_id(target) in input_files([job]):
        raise UserError(f"output={target} is the {what} itself, which is never written to: give another name")
    return Plan(target.parent, [job], [], report=None)


def _plan_frames(given: Sequence[str], output: str | None, format: str | None) -> Plan:
    source, target = given[0], Path(output or "")
    folder, name = os.path.split(source)
    if len(given) > 1:
        raise UserError(f"input={', '.join(given)}: give one image sequence at a time")
    if suffix_of(name) == ".exr":
        raise UserError(f"input={source}: EXR holds linear light and is not read; make 16-bit TIFFs or DPX of it first")
    if is_pattern(source):
        frame_numbers(source)
        if not has_image_suffix(name):
            raise UserError(f"input={source}: frames are photos; their names end in one of {' '.join(IMAGE_SUFFIXES)}")
    elif not _is_single(source) or not is_film(source):
        raise UserError(f"input={source} is no film: frames, as {target.name}, are made of a film or of frames")
    if output is None:
        target = Path(f"{os.path.abspath(folder)}{BESIDE}")
    if suffix_of(target) not in (*IMAGE_SUFFIXES, *FILM_SUFFIXES):  # a folder
        target /= name_results([name], [False], format, str)[0][0]
    elif suffix_of(target) not in FILM_SUFFIXES and not (is_pattern(target) and suffix_of(target) in WRITTEN_SUFFIXES):
        kinds = " ".join((*WRITTEN_SUFFIXES, *FILM_SUFFIXES))
        raise UserError(f"output={target}: give a folder, NAME_%06d or a film's NAME, with one of {kinds}")
    if is_pattern(target) and target.parent.is_dir() and os.path.samefile(folder or ".", target.parent):
        raise UserError(f"output={target} is where the source is: results never go among frames; give another folder")
    return Plan(target.parent, [Job(source, target, None, target, film=True)], [], report=None)


def _is_film(source: str) -> bool:
    """Return whether to colour a file as a film."""
    if begins_as_film(source):
        return True
    name = os.path.basename(source)
    if (has_image_suffix(name) and not name.startswith(".")) or _is_still(source):
        return False
    return is_film(source)


def _is_still(source: str) -> bool:
    """Return whether a file is a single image, or of a format of images that is not read: FFmpeg would see a film."""
    from colorize.photos.opening import UnreadableImage, UnreadKind, opened

    try:
        with opened(source) as image:
            return image.format in ("TIFF", "MPO") or getattr(image, "n_frames", 1) == 1
    except UnreadableImage as error:
        return isinstance(error, UnreadKind)
