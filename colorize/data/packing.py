"""Photos into shards and their index, which `colorize.data.shards` reads."""

import io
import json
import tarfile
from contextlib import suppress
from dataclasses import asdict, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch.utils.data import Dataset

from colorize.config import PackConfig
from colorize.data.images import load_rgb, read_thumbnail
from colorize.data.loading import make_loader
from colorize.data.shards import FORMAT, ROW, Contents, name_key, shard_name
from colorize.data.sources import Names, Photos, Split, list_folder
from colorize.data.survey import SIZE_PX, measure
from colorize.photos.opening import UnreadableImage, image_errors, opened
from colorize.runtime.errors import UserError, listed
from colorize.runtime.files import clear_unfinished, digest, sha256, write_text, written_whole
from colorize.runtime.formats import WRITTEN_SUFFIXES
from colorize.runtime.log import log
from colorize.runtime.progress import tracked

SAMPLED = 100  # photos by which it is decided how many make a shard
MOST_PX = 65_535  # that the index can state
PACKED = np.dtype([("row", ROW), ("val", "?"), ("content", "<u8")])
"""A photo's record until all shards are written; `content` is a hash of its file."""


def pack(config: PackConfig, output: Path) -> None:
    """Write the shards that are not there yet, and then the index, in a folder that this process holds."""
    photos = list_folder(config.data.root, Split(val_fraction=0.5, seed=0))
    has_val = Path(config.data.root, "val").is_dir()
    # By their hashes: which photos lie together is left to chance, and a photo's row is found by bisection.
    names = sorted(photos.of_split("all"), key=lambda name: (has_val and name.startswith("val/"), name_key(name)))
    shards = _Shards(photos, names, config, output)
    plan = digest(FORMAT, shards.count, config.short_px, config.quality, config.deduplicate, *names, size=16).hex()
    stated = output / "plan.txt"
    if stated.exists() and stated.read_text() != plan:
        raise UserError(f"{output} holds shards of other photos or options: remove it, or give another output=DIR")
    write_text(stated, plan)
    if (output / "index.json").exists():
        log.info(f"{output} is complete")
        return
    clear_unfinished(output)
    loader = make_loader(shards, min(config.data.workers(1), len(shards)), (__name__,), batch_size=None)
    for failure in tracked(loader, "packing shards", len(shards)):
        if failure is not None:
            raise failure
    _write_index([output / shard_name(number) for number in range(len(shards))], has_val, config.deduplicate, output)


class _Shards(Dataset[OSError | None]):
    """Writes each shard that it is asked for, and beside it what the index is to have of it."""

    def __init__(self, photos: Photos, names: list[str], config: PackConfig, output: Path) -> None:
        self.photos, self.names = replace(photos, train=[], val=[]), Names(names)
        self.config, self.output = config, output
        sizes = []
        for name in names[:SAMPLED]:
            with suppress(UnreadableImage):
                sizes.append(len(self._content(name)))
        self.count = max(1, round(config.shard_mb * 1e6 * len(sizes) / max(1, sum(sizes))))

    def __len__(self) -> int:
        return -(-len(self.names) // self.count)

    def __getitem__(self, number: int) -> OSError | None:
        path, rows, unreadable = self.output / shard_name(number), list[Any](), list[str]()
        try:
            if path.with_suffix(".npz").exists():
                return None
            with written_whole(path) as file, tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as tar:
                for place in range(number * self.count, min((number + 1) * self.count, len(self.names))):
                    member, offset = tarfile.TarInfo(name := self.names[place]), tar.offset
                    try:
                        content = self._content(name)
                        width, height, colour = measure(read_thumbnail(content, SIZE_PX))
                    except UnreadableImage as error:
                        unreadable.append(f"{name}: {error}")
                        continue
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
                    sides = min(width, MOST_PX), min(height, MOST_PX)
                    row = (name_key(name), offset, tar.offset - offset, number, colour, *sides)
                    rows.append(
                        (row, name.startswith("val/"), int.from_bytes(blake2b(content, digest_size=8).digest()))
                    )
            with written_whole(path.with_suffix(".npz")) as file:
                np.savez(file, rows=np.array(rows, PACKED), unreadable=np.array(unreadable, np.str_))
            return None
        except OSError as error:
            return error

    def _content(self, name: str) -> bytes:
        with image_errors():
            content = self.photos.path(name).read_bytes()
        small = small_jpeg(content, self.config.short_px, self.config.quality) if self.config.short_px else None
        return small or content


def small_jpeg(content: bytes, px: int, quality: int) -> bytes | None:
    """Return a JPEG of a photo whose short side is `px`; None where the photo's is no longer, or a JPEG cannot hold it.

    Raises UnreadableImage.
    """
    with opened(content) as image:
        if min(image.size) <= px:
            return None
    rgb = load_rgb(content)
    scale = px / min(rgb.size)
    size = max(1, round(rgb.width * scale)), max(1, round(rgb.height * scale))
    if max(size) > WRITTEN_SUFFIXES[".jpg"].longest_side_px:
        return None
    made = io.BytesIO()
    rgb.resize(size, Image.Resampling.BICUBIC).save(made, "JPEG", quality=quality, subsampling=0)
    return made.getvalue()


def _write_index(shards: list[Path], has_val: bool, deduplicate: bool, output: Path) -> None:
    """Join what was kept of each shard, and remove it."""
    parts = [np.load(path.with_suffix(".npz")) for path in shards]
    packed = np.concatenate([part["rows"] for part in parts])
    unreadable, copies = [str(line) for part in parts for line in part["unreadable"]], 0
    if deduplicate:
        _, first = np.unique(packed["content"], return_index=True)
        packed, copies = packed[np.sort(first)], len(packed) - len(first)
    if not len(packed):
        raise UserError(f"no photo can be read: {listed(unreadable)}; remove {output} when they can be")
    with written_whole(output / "index.npy") as file:
        np.save(file, packed["row"])
    val_from = len(packed) - int(packed["val"].sum()) if has_val else None
    index = sha256(output / "index.npy")[:32]
    contents = Contents(len(packed), val_from, [path.stat().st_size for path in shards], index)
    write_text(output / "unreadable.txt", "".join(f"{line}\n" for line in unreadable))
    write_text(output / "index.json", json.dumps(asdict(contents)))
    for path in shards:
        path.with_suffix(".npz").unlink()
    log.info(f"{output}: {len(packed)} photos in {len(shards)} shards" + f", {copies} copies left out" * deduplicate)
    if unreadable:
        log.warning(f"left out {len(unreadable)} unreadable photos (all in unreadable.txt): {listed(unreadable)}")
