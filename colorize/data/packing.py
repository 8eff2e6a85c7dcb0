"""Photos into shards and their index, which `colorize.data.shards` reads."""

import io
import json
import tarfile
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import asdict, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch.utils.data import Dataset

from colorize.config import PackConfig
from colorize.data.generated import Manifest, SavedFiles
from colorize.data.images import load_rgb, png, read_thumbnail
from colorize.data.loading import make_loader
from colorize.data.shards import FORMAT, ROW, Contents, PackedPhotos, shard_name
from colorize.data.sources import Names, Photos, Split, list_folder, name_key
from colorize.data.survey import SIZE_PX, measure
from colorize.photos.opening import UnreadableImage, image_errors, opened
from colorize.runtime.errors import UserError, listed, writing
from colorize.runtime.files import clear_unfinished, digest, sha256, write_text, written_whole
from colorize.runtime.formats import WRITTEN_SUFFIXES
from colorize.runtime.log import log
from colorize.runtime.progress import tracked

SAMPLED = 100  # photos by which it is decided how many make a shard
IMAGES = 1024  # saved ones in a shard: the most that each rank makes again after a break
PACKED = np.dtype([("row", ROW), ("val", "?"), ("content", "<u8")])
"""A photo's record until all shards are written; `content` is a hash of its file."""

Packed = tuple[str, bytes | UnreadableImage, float]  # on its way into a shard: identity, file and colourfulness


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
    write_index(output, len(shards), has_val, config.deduplicate)


def is_written(output: Path, number: int) -> bool:
    """Return True if a shard is there whole, and what the index is to have of it."""
    return (output / shard_name(number)).with_suffix(".npz").exists()


def write_shard(output: Path, number: int, photos: Iterable[Packed]) -> None:
    """Write photos, in the order of their rows, into a shard, and beside it what the index is to have of it."""
    path, rows, unreadable = output / shard_name(number), list[Any](), list[str]()
    with written_whole(path) as file, tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, content, colour in photos:
            if isinstance(content, UnreadableImage):
                unreadable.append(f"{name}: {content}")
                continue
            member, offset = tarfile.TarInfo(name), tar.offset
            member.size = len(content)
            with writing(path):
                tar.addfile(member, io.BytesIO(content))
            row = (name_key(name), offset, tar.offset - offset, number, colour, 0, 0)
            rows.append((row, name.startswith("val/"), int.from_bytes(blake2b(content, digest_size=8).digest())))
    with written_whole(path.with_suffix(".npz")) as file:
        np.savez(file, rows=np.array(rows, PACKED), unreadable=np.array(unreadable, np.str_))


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
        try:
            if not is_written(self.output, number):
                places = range(number * self.count, min((number + 1) * self.count, len(self.names)))
                write_shard(self.output, number, (self._packed(self.names[place]) for place in places))
            return None
        except OSError as error:
            return error

    def _packed(self, name: str) -> Packed:
        try:
            content = self._content(name)
            return name, content, measure(read_thumbnail(content, SIZE_PX))[-1]
        except UnreadableImage as error:
            return name, error, 0.0

    def _content(self, name: str) -> bytes:
        with image_errors():
            content = self.photos.path(name).read_bytes()
        small = small_jpeg(content, self.config.short_px, self.config.quality) if self.config.short_px else None
        return small or content


class SavedShards(SavedFiles):
    """Images on their way to shards, each under its photo's identity, which the index has. A part is a shard."""

    def __init__(self, photos: PackedPhotos, split: str, output: Path) -> None:
        """Raise UserError where `output` holds shards of something else."""
        super().__init__(photos.of_split(split), output, IMAGES)
        self.contents, self.index = photos.reader.contents, output / "index.json"
        self.photos = digest(self.contents.index, sha256(photos.mask(split).tobytes()), IMAGES, size=16).hex()
        if (output / shard_name(0)).exists() and not (output / "manifest.json").exists():
            raise UserError(f"{output} holds other shards than of saved images: give another output=DIR")

    def has(self, part: range) -> bool:
        return self.index.exists() or is_written(self.output, part.start // IMAGES)

    def write(self, part: range, images: Iterable[tuple[str, Image.Image | UnreadableImage]]) -> None:
        files = ((name, image if isinstance(image, UnreadableImage) else png(image), 0.0) for name, image in images)
        write_shard(self.output, part.start // IMAGES, files)

    def finish(self, begun: Manifest, unreadable: Collection[str]) -> None:
        if not self.index.exists():
            write_index(self.output, len(self.parts), has_val=self.contents.val_from is not None)
        replace(begun, complete=True).write(self.output)


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


def write_index(output: Path, count: int, has_val: bool, deduplicate: bool = False) -> None:
    """Join what was kept of each of so many shards, and remove it."""
    shards = [output / shard_name(number) for number in range(count)]
    rows, unreadable, copies = list[Any](), list[str](), 0
    for path in shards:
        with np.load(path.with_suffix(".npz")) as part:  # one after the other: there may be more than can be open
            rows.append(part["rows"])
            unreadable += part["unreadable"].tolist()
    packed = np.concatenate(rows)
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
