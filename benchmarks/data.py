"""Data: training squares from JPEGs against torchvision's pipeline; listings and names of ImageNet's length.

Everything is drawn or made up in a temporary folder; with `--photos DIR` the squares come from the JPEGs there.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import compare, draw_photos, in_child, interleaved, parser, save, start, table
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from colorize.config import PackConfig
from colorize.config.sections import SourceConfig
from colorize.data.augment import Augmentation
from colorize.data.datasets import AugmentedDataset
from colorize.data.images import image_rng, load_rgb, random_box
from colorize.data.loading import worker_context
from colorize.data.packing import pack
from colorize.data.shards import list_shards
from colorize.data.sources import Names, Photos, Split, list_folder


def squares(folder: Path, size_px: int, options: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each way to training squares, one process, and how far theirs are from those of full decoding."""
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.jp*g"))[: options.count]
    photos = Photos(folder, names, [])
    with tempfile.TemporaryDirectory() as scratch:
        sources = {"ours": photos}
        for short_px in options.short_px:
            output = Path(scratch, str(short_px))
            output.mkdir()
            pack(PackConfig(SourceConfig(str(folder), 0), str(output), short_px=short_px), output)
            sources[f"ours, shards of short_px={short_px}"] = list_shards(str(output), Split(0.05, 0), scratch)
        crop = v2.Compose(
            [v2.RandomResizedCrop(size_px, scale=(0.5, 1.0), antialias=True), v2.RandomHorizontalFlip(), v2.ToImage(),
             v2.ToDtype(torch.float32, scale=True)]
        )  # fmt: skip
        theirs = ImageFolder(str(folder.parent), crop)
        chosen = [theirs.samples.index((str(folder / name), theirs.class_to_idx[folder.name])) for name in names]

        def read(source: Photos) -> Callable[[], object]:
            dataset = AugmentedDataset(source, names, size_px, sample=partial(Augmentation().sample, 0, 0), max_tries=1)
            return lambda: dataset.__getitems__(list(range(len(dataset))))

        candidates = {"ImageFolder + RandomResizedCrop": lambda: [theirs[index][0] for index in chosen]}
        candidates |= {name: read(source) for name, source in sources.items()}
        seconds = interleaved(candidates, options.repeats, between=None)
        rows = compare(seconds, "ImageFolder + RandomResizedCrop", units=len(names))
        for row in rows:
            source = sources.get(row["candidate"])
            row |= (
                {"mean_8_bit": 0.0, "psnr_db": float("inf")} if source is None else loss(source, photos, names, size_px)
            )
    return [{"size_px": size_px} | row for row in rows]


def loss(source: Photos, photos: Photos, names: list[str], size_px: int) -> dict[str, float]:
    """Mean absolute difference and PSNR, in 8 bits, to the same parts out of fully decoded photos."""
    differences = []
    for name in names:
        whole = load_rgb(photos.path(name))
        box = random_box(image_rng(0, 0, name), (0.5, 1.0), (0.75, 1.3333))(*whole.size)
        shares = [part / side for part, side in zip(box, 2 * whole.size, strict=True)]
        # The same part, whose sides a copy's own, in whole pixels, could have drawn otherwise.
        found = source.square(
            name, size_px, lambda *size, shares=shares: tuple(a * b for a, b in zip(shares, 2 * size, strict=True))
        )
        exact = whole.resize((size_px, size_px), Image.Resampling.BICUBIC, box=box)
        differences.append(np.asarray(found, np.float32) - np.asarray(exact, np.float32))
    difference = np.stack(differences)
    return {
        "mean_8_bit": float(np.abs(difference).mean()),
        "psnr_db": float(10 * np.log10(255**2 / np.square(difference).mean())),
    }


def listings(photos: int) -> list[dict[str, Any]]:
    """A row for the listing of a tree as ImageNet's, of empty files."""
    with tempfile.TemporaryDirectory() as folder:
        root, classes = Path(folder, "imagenet"), min(1000, photos)
        for number in range(classes):
            where = root / "train" / f"n{number:08d}"
            where.mkdir(parents=True)
            for index in range(photos // classes):
                os.close(os.open(where / f"n{number:08d}_{index}.JPEG", os.O_CREAT | os.O_WRONLY))
        (root / "val").mkdir()
        for index in range(photos // 26):
            os.close(os.open(root / "val" / f"ILSVRC2012_val_{index:08d}.JPEG", os.O_CREAT | os.O_WRONLY))
        result, peak = in_child(_list, str(root))
    return [{**result, "peak_mb": peak}]


def _list(root: str) -> dict[str, float]:
    begin, busy = time.perf_counter(), time.process_time()
    found = list_folder(root, Split(0.05, 0, max_val=1000))
    return {
        "photos": len(found.train),
        "seconds": time.perf_counter() - begin,
        "cpu_seconds": time.process_time() - busy,
    }


class _Memory(Dataset[float]):
    """Says how much memory its process has for itself, after a look at some names."""

    def __init__(self, names: Any) -> None:
        self.names = names

    def __len__(self) -> int:
        return 100

    def __getitem__(self, index: int) -> float:
        assert self.names[(index * 7919) % len(self.names)]
        lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
        return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1000


def worker_memory(photos: int) -> list[dict[str, Any]]:
    """A row for a list of names and for `Names`: the megabytes that a worker has to itself."""
    rows = []
    for kind, count in (("list", 1000), ("list", photos), ("Names", 1000), ("Names", photos)):
        names: Any = [f"train/n{index // 1300:08d}/n{index // 1300:08d}_{index}.JPEG" for index in range(count)]
        names = names if kind == "list" else Names(names)
        loader = DataLoader(_Memory(names), num_workers=1, multiprocessing_context=worker_context(1))
        rows.append({"names": kind, "photos": count, "worker_mb": float(max(loader))})
    return rows


def main() -> None:
    """Measure, print, save."""
    options = parser(__doc__, repeats=5)
    options.add_argument("--photos", type=Path, help="folder of JPEGs, at least one folder below another")
    options.add_argument("--count", type=int, default=100, help="photos")
    options.add_argument("--sizes", type=int, nargs="+", default=[64, 128, 220], help="px")
    options.add_argument("--short_px", type=int, nargs="+", default=[96, 128, 160, 256], help="of colorize.pack")
    options.add_argument("--listed", type=int, default=130_000, help="photos to list; ImageNet has 1,300,000")
    given = options.parse_args()
    start(given)
    if given.quick:
        given.count, given.sizes, given.listed = 8, [64], 26_000
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        photos = given.photos or Path(folder, "photos", "drawn")
        if given.photos is None:
            draw_photos(photos, given.count)
        rows = [row for size_px in given.sizes for row in squares(photos, size_px, given)]
    print(table(rows, "Training squares from JPEGs of 500 x 375 px, one process; differences to full decoding"))
    listed = listings(given.listed)
    print(table(listed, "Listing a tree of ImageNet's shape"))
    results: dict[str, Any] = {"squares": rows, "listing": listed}
    if Path("/proc/self/smaps_rollup").exists():
        results["worker_memory"] = worker_memory(given.listed)
        print(table(results["worker_memory"], "The names in a worker process"))
    save("data", results, given)


if __name__ == "__main__":
    main()
