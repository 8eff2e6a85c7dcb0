"""Sessions: the work of one tab of the page, done as `colorize.predict` does it, in a folder that goes with the tab."""

import json
import os
import shutil
import time
import uuid
from asyncio import CancelledError
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Event
from zipfile import ZipFile

from PIL import Image, ImageDraw

from colorize.config import PredictConfig
from colorize.data.images import load_rgb
from colorize.inference.colorizer import Colorizer
from colorize.inference.jobs import LIST_SUFFIXES, Job, plan, shown
from colorize.inference.photo_batches import Outcome, colour_all
from colorize.photos.hints import Hint
from colorize.runtime.errors import UserError, one_line
from colorize.runtime.files import hardlink_or_copy, write_text
from colorize.runtime.formats import WRITTEN_SUFFIXES, suffix_of
from colorize.runtime.progress import spoken
from colorize.video import require_packages
from colorize.video.numbered import is_pattern


@dataclass
class Item:
    """A photo or film that was dropped, with its latest job and result; `trial`: of a film's beginning only."""

    dropped: Path
    hints: list[Hint] = field(default_factory=list)
    job: Job | None = None
    result: Path | None = None
    trial: bool = False

    def begin(self, folder: Path) -> Job:
        """Plan the work on it, each time in a folder of its own, lest a browser take one result for another."""
        if self.job is not None:
            shutil.rmtree(Path(self.job.source).parent, ignore_errors=True)
        source = folder / uuid.uuid4().hex / self.dropped.name
        if is_pattern(source):  # would mean numbered frames
            source = source.with_name(source.name.replace("%", "_"))
        hardlink_or_copy(self.dropped, source)
        [job] = plan([str(source)], None, None).jobs
        if self.hints:
            hints = source.parent / "hints" / f"{source.stem}.json"
            write_text(hints, json.dumps([vars(hint) for hint in self.hints]))
            job = replace(job, hints=hints)
        self.job, self.result = job, None
        return job

    def pictures(self, point: tuple[int, int] | None) -> list[str]:
        """Make JPEGs that any browser shows: the photo, its result, and that with its hints and a point marked."""
        assert self.job is not None and self.result is not None
        folder = self.result.with_name("shown")
        folder.mkdir(exist_ok=True)
        longest_px = WRITTEN_SUFFIXES[".jpg"].longest_side_px
        made = [folder / f"{name}.jpg" for name in ("before", "after", uuid.uuid4().hex)]
        for path, source in ((made[0], self.job.source), (made[1], self.result)):
            if not path.exists():
                image = load_rgb(source)
                image.thumbnail((longest_px, longest_px))
                image.save(path, quality=92)
        with Image.open(made[1]) as image:
            draw, radius = ImageDraw.Draw(image), max(8, max(image.size) // 70)
            for hint in [*self.hints, *([Hint(*point, None)] if point else [])]:
                fill = tuple(map(int, hint.rgb)) if hint.rgb else None
                draw.circle((hint.x, hint.y), 1.3 * radius, outline="black", width=radius // 3)
                draw.circle((hint.x, hint.y), radius, fill, outline="white", width=radius // 3)
            image.save(made[2], quality=90)
        return list(map(str, made))


class Session:
    """The work of a tab, in `folder`: what its user has dropped, and chosen by `colorizer` and `options`.

    `progress` says how far it is, `lines` what there is to say of files and results. `point` is one of the `current`
    item, and `likely` its colours.
    """

    def __init__(self, folder: Path, colorizer: Colorizer, options: PredictConfig) -> None:
        self.folder, self.stopped, self.colorizer, self.options = folder, Event(), colorizer, options
        self.items, self.lines, self.progress, self.began = list[Item](), list[str](), "", 0.0
        self.show(None)

    def show(self, item: Item | None) -> None:
        self.current, self.likely = item, list[str]()
        self.point: tuple[int, int] | None = None

    def end(self) -> None:
        self.stopped.set()
        shutil.rmtree(self.folder, ignore_errors=True)
        for item in self.items:
            item.dropped.unlink(missing_ok=True)

    def take(self, files: Sequence[str], max_files: int, max_mb: int) -> None:
        """Replace the files; photos that stay keep their hints. Raises UserError for too many or too large ones."""
        hints, self.items, self.lines = {item.dropped: item.hints for item in self.items}, [], []
        shutil.rmtree(self.folder, ignore_errors=True)
        self.show(None)
        if len(files) > max_files:
            raise UserError(f"{len(files)} files are too many: drop at most {max_files} at once (max_files=…)")
        if sum(map(os.path.getsize, files)) > 1_000_000 * max_mb:
            raise UserError(f"these files are too large: drop at most {max_mb} MB at once (max_mb=…)")
        for file in map(Path, files):
            if suffix_of(file) in LIST_SUFFIXES:  # whose lines may name any file of this machine
                self.lines.append(f"{shown(file.name)}: a list of photos: drop the photos themselves")
            else:
                self.items.append(Item(file, hints.get(file, [])))

    def colour(self, items: Sequence[Item], seconds: float | None = None) -> None:
        """Colour photos, then films, of these only `seconds` (None: the whole), until `stopped` is set."""
        self.stopped.clear()
        self.progress, self.began = "", time.monotonic()
        jobs = {item.begin(self.folder): item for item in items}
        photos, films = ([job for job in jobs if job.film == film] for film in (False, True))
        options = replace(self.options, duration=seconds)
        try:
            for done, outcome in enumerate(colour_all(self.colorizer, photos, options), 1):
                self._note(outcome, jobs[outcome.job])
                self._tick(done, len(photos))
            if films:
                require_packages()
                from colorize.inference.film import film_outcome
            for job in films:
                self.began, jobs[job].trial = time.monotonic(), seconds is not None
                self._note(film_outcome(self.colorizer, job, options, self._tick), jobs[job])
        except CancelledError:
            self.lines.append("cancelled")
        except UserError as error:
            self.lines.append(one_line(error))
        if self.current is None or self.current.result is None:
            self.show(next((item for item in self.items if item.result), None))

    def _note(self, outcome: Outcome, item: Item) -> None:
        item.result = outcome.result
        self.lines += [f"{shown(item.dropped.name)}: {line}" for line in (*outcome.notes, outcome.reason) if line]

    def _tick(self, done: int, total: int | None) -> None:
        left = (time.monotonic() - self.began) / done * max(0, (total or 0) - done)
        self.progress = f"{done} of {total}, about {spoken(left)} to go" if total else str(done)
        if self.stopped.is_set():
            raise CancelledError

    def aim(self, x: float, y: float) -> None:
        """Choose a point of the current photo, and ask the network what colours are likely there."""
        if self.current is not None and self.current.job is not None:
            found = self.colorizer.likely_colors(self.current.job.source, x, y)
            self.point, self.likely = (int(x), int(y)), [f"#{bytes(rgb).hex()}" for rgb in found]

    def know(self, said: str) -> None:
        """Note the colour of the chosen point, "#rrggbb" or "keep" the network's; or "undo" what was noted last."""
        if self.current is not None and said == "undo":
            self.current.hints = self.current.hints[:-1]
        elif self.current is not None and self.point is not None:
            others = [hint for hint in self.current.hints if (hint.x, hint.y) != self.point]
            self.current.hints = [*others, Hint(*self.point, None if said == "keep" else said)]

    def zipped(self) -> Path:
        path, names = self.folder / "colour.zip", set[str]()
        with ZipFile(path, "w") as file:  # stored as they are: photos and films do not shrink
            for number, result in enumerate([item.result for item in self.items if item.result], 1):
                file.write(result, result.name if result.name not in names else f"{number}/{result.name}")
                names.add(result.name)
        return path
