"""Training on up to a hundred million photos in shards: start, memory, resuming by their number; reading from tars.

The indices are made up, 32 bytes a photo, in a temporary folder (`--folder`), each start is one of a fresh process.
"""

import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from common import compare, draw_photos, exponent, in_child, interleaved, parser, save, start, table

from colorize import config as schemas
from colorize.data.loading import GlobalBatches
from colorize.data.shards import FORMAT, ROW, Contents, list_shards
from colorize.data.sources import Split, list_folder
from colorize.data.survey import leave_out_dull

BATCH, RANKS = 1024, 8
PHOTO_BYTES, PHOTOS_A_SHARD = 110_000, 9_000


def write_index(folder: Path, photos: int) -> None:
    """An index as of so many photos, whose shards are empty."""
    import json
    from dataclasses import asdict

    index = np.lib.format.open_memmap(folder / "index.npy", "w+", ROW, (photos,))
    rng = np.random.default_rng(0)
    for first in range(0, photos, 1 << 20):
        part = index[first : first + (1 << 20)]
        numbers = np.arange(first, first + len(part), dtype=np.uint64)
        part["name"] = numbers * np.uint64(2**64 // photos) + rng.integers(0, 2**64 // photos, len(part), np.uint64)
        part["shard"], part["offset"] = np.divmod(numbers, PHOTOS_A_SHARD)
        part["offset"] *= PHOTO_BYTES
        part["length"], part["width"], part["height"] = PHOTO_BYTES, 500, 375
        part["colourfulness"] = rng.gamma(4, 10, len(part))
    index.flush()
    shards = -(-photos // PHOTOS_A_SHARD)
    for number in range(shards):
        (folder / f"shard-{number:05}.tar").touch()
    (folder / "index.json").write_text(json.dumps(asdict(Contents(photos, None, [0] * shards, "", FORMAT))))


def memory_mb(field: str) -> float:
    """What /proc/self/status says of this process, in MB."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024 / 1e6


def begin(folder: str, batch: int, dull: bool) -> dict[str, Any]:
    """Seconds to the first batch of a rank, from `batch` of the epoch on; and memory, that of torch's import apart."""
    before = memory_mb("RssAnon:")
    clock, processor = time.perf_counter(), time.process_time()
    photos = list_shards(folder, Split(0.05, seed=0, max_val=1000), folder)
    photos = leave_out_dull(photos, 15, folder, 0) if dull else photos
    listed, worked = time.perf_counter() - clock, time.process_time() - processor
    clock = time.perf_counter()
    count = len(photos.train)
    batches = GlobalBatches(count, BATCH, lambda: photos.order(count, 0, 0), 3, RANKS)
    batches.first = batch
    positions = next(iter(batches))
    rows = photos.train.rows[np.array(positions)]
    assert len(set(rows.tolist())) == BATCH // RANKS
    return {
        "list_s": listed,
        "list_processor_s": worked,
        "first_batch_s": time.perf_counter() - clock,
        "own_mb": memory_mb("RssAnon:") - before,
        "own_and_torch_mb": memory_mb("RssAnon:"),
        "rss_mb": memory_mb("VmRSS:"),
    }


def starts(photos: int, root: Path) -> list[dict[str, Any]]:
    """A row for each way to start on so many photos."""
    folder = root / str(photos)
    folder.mkdir()
    write_index(folder, photos)
    drop_caches()
    last = int(photos * 0.9) // BATCH
    rows = []
    for what, batch, dull in (
        ("first start", 0, False),
        ("second start", 0, False),
        ("resumed at 9/10 of the epoch", last, False),
        ("with data.min_colourfulness", 0, True),
    ):
        found, peak = in_child(begin, str(folder), batch if not dull else 0, dull)
        rows.append({"photos": photos, "what": what} | found | {"peak_mb": peak})
    shutil.rmtree(folder)
    return rows


def drop_caches() -> bool:
    """Forget what the system keeps of files in memory; False where that is not allowed."""
    os.sync()
    try:
        Path("/proc/sys/vm/drop_caches").write_text("3\n")
    except OSError:
        return False
    return True


def reading(count: int, root: Path, repeats: int) -> list[dict[str, Any]]:
    """A row for one reader of files in random order, and of shards in an epoch's order: bytes alone, not decoded."""
    from colorize.data.packing import pack

    folder = draw_photos(root / "photos" / "all", count).parent
    config = schemas.PackConfig(output=str(root / "shards"), shard_mb=50)
    config.data.root = str(folder)
    (root / "shards").mkdir()
    pack(config, root / "shards")
    files, shards = list_folder(folder, Split(0.1, 0)), list_shards(str(root / "shards"), Split(0.1, 0), root)

    def of_files() -> None:
        for index in files.order(len(files.train), 0, 0)[:].tolist():
            files.path(files.train[index]).read_bytes()

    def of_shards() -> None:
        for batch in GlobalBatches(count, 64, lambda: shards.order(len(shards.train), 0, 0)):
            shards.read_ahead(shards.train, batch)
            for index in batch:
                shards.content(shards.train[index])

    candidates = {"files": of_files, "shards": of_shards}
    cold = drop_caches()
    found = interleaved(candidates, repeats, between=drop_caches)
    rows = [{"cache": "cold" if cold else "warm"} | row for row in compare(found, "files", count)]
    warm = interleaved(candidates, repeats)
    return rows + [{"cache": "warm"} | row for row in compare(warm, "files", count)]


def main() -> None:
    """Measure, print and save."""
    options = parser(__doc__, repeats=3)
    options.add_argument("--folder", help="for the files made up (default: the system's temporary folder)")
    options.add_argument("--photos", type=int, nargs="+", default=[10**6, 10**7, 10**8])
    options.add_argument("--read", type=int, default=4000, help="photos that are read")
    chosen = options.parse_args()
    start(chosen)
    if chosen.quick:
        chosen.photos, chosen.read = [10**5, 10**6], 100
    with tempfile.TemporaryDirectory(dir=chosen.folder) as folder:
        rows = [row for photos in chosen.photos for row in starts(photos, Path(folder))]
        print(table(rows, "Start of a rank"))
        growth = {}
        for what in dict.fromkeys(row["what"] for row in rows):
            own = [row for row in rows if row["what"] == what]
            for key in ("list_processor_s", "first_batch_s", "peak_mb"):
                growth[f"{what}: {key}"] = exponent(chosen.photos, [max(row[key], 1e-3) for row in own])
        print(table([{"what": what, "exponent": value} for what, value in growth.items()], "Growth with the photos"))
        read = reading(chosen.read, Path(folder), chosen.repeats)
        print(table(read, "One reader, without decoding"))
    save("scale", {"starts": rows, "exponents": growth, "reading": read}, chosen)


if __name__ == "__main__":
    main()
