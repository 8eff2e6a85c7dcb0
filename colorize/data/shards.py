"""Photos in tars with an index: an epoch of a hundred million needs no list of names, and no file for each photo.

In a folder, or below a URL, lie shard-00000.tar and so on, index.npy with a `ROW` for each photo, and index.json, the
`Contents`. Split and order follow from the index; a photo's name, by which its randomness goes, stands in its tar.
"""

import io
import json
import math
import tarfile
import time
from bisect import bisect_left, bisect_right
from collections import ChainMap
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self, cast

import numpy as np
from fsspec.core import url_to_fs
from fsspec.utils import merge_offset_ranges
from numpy.typing import NDArray

from colorize.data.loading import shuffled
from colorize.data.roots import is_url
from colorize.data.sources import Photos, Split, name_key
from colorize.photos.opening import UnreadableImage
from colorize.runtime.errors import UserError, brief
from colorize.runtime.files import digest, renamed_when_done

FORMAT = 1
ROW = np.dtype(
    [
        ("name", "<u8"),  # `name_key` of the identity, by which rows are sorted, those of val/ after all others
        ("offset", "<u8"),  # of the tar's member, in bytes
        ("length", "<u4"),  # of the member, its header included
        ("shard", "<u4"),
        ("colourfulness", "<f4"),
        ("width", "<u2"),  # 0, or in shards of before that of the photo, which nothing reads
        ("height", "<u2"),
    ]
)
"""One photo's record, of 32 bytes."""

BLOCK = 2048  # photos that lie together, and are read in an order of their own before those of another block
CHUNK = 1 << 16  # rows looked at together: what a processor's cache holds
HEADER = 4096  # bytes that hold a member's header, whatever its name
MERGED_GAP = 1 << 17  # bytes between two members up to which one request fetches both
TRIES = 4  # of a request

Rows = NDArray[np.int64]
Mask = NDArray[np.bool_]


def shares(keys: NDArray[np.uint64], seed: int, purpose: str) -> NDArray[np.float64]:
    """Return a number in [0, 1) for each photo, a function of its key, `seed` and `purpose`.

    It is the output function of SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators").
    """
    mixed = keys + np.uint64(int.from_bytes(digest(seed, purpose), "big"))
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return ((mixed ^ (mixed >> np.uint64(31))) >> np.uint64(11)) / 2.0**53


def shard_name(number: int) -> str:
    """Return the file of a shard."""
    return f"shard-{number:05}.tar"


@dataclass(frozen=True)
class Contents:
    """`index.json`."""

    photos: int
    val_from: int | None  # first row of the photos in val/; None where the source had none
    shard_bytes: list[int]  # sizes of the shards
    index: str  # digest of index.npy
    format: int = FORMAT


class Reader:
    """Reads members of shards by their rows in the index, and holds those that were read last."""

    def __init__(self, root: str, file: Path, contents: Contents) -> None:
        self.root, self.file, self.contents = root, file, contents
        self.index = np.asarray(np.load(file, mmap_mode="r"))
        # Two of each: what was read ahead, and what was read alone since, which leaves the first as it is.
        self._names: ChainMap[int, str] = ChainMap({}, {})
        self._held: ChainMap[str, bytes | UnreadableImage] = ChainMap({}, {})

    def __reduce__(self) -> Any:  # to a worker, which maps the same file
        return Reader, (self.root, self.file, self.contents)

    def chunks(self) -> Iterator[tuple[slice, NDArray[Any]]]:
        """Yield the index in parts, read and not mapped: what is looked at once need not stay in memory."""
        first = self.file.stat().st_size - len(self.index) * ROW.itemsize
        for start in range(0, len(self.index), CHUNK):
            rows = np.fromfile(self.file, ROW, min(CHUNK, len(self.index) - start), offset=first + start * ROW.itemsize)
            yield slice(start, start + len(rows)), rows

    def fetch(self, rows: Rows, alone: bool = False) -> None:
        """Read members, and hold them in place of those before that were read ahead, or else `alone`."""
        members = list(self._members(rows, None))
        self._names.maps[alone] = {row: name for row, name, _ in members}
        self._held.maps[alone] = {name: content for _, name, content in members}

    def name(self, row: int) -> str:
        """Return a photo's identity, and hold what is in it."""
        if row not in self._names:
            self.fetch(np.array([row]), alone=True)
        return self._names[row]

    def names(self, rows: Rows) -> Iterator[str]:
        """Yield identities, of which the headers alone are read."""
        for start in range(0, len(rows), BLOCK):
            yield from (name for _, name, _ in self._members(rows[start : start + BLOCK], HEADER))

    def content(self, identity: str) -> bytes:
        """Return a photo's file. Raises UnreadableImage."""
        if identity not in self._held:
            self.fetch(self.find([identity]), alone=True)
        found = self._held.get(identity, UnreadableImage("is not in the shards"))
        if isinstance(found, UnreadableImage):
            raise found
        return found

    def find(self, identities: Iterable[str]) -> Rows:
        """Return the rows of those of some photos that are in the index."""
        keys, found = self.index["name"], []
        middle = len(keys) if self.contents.val_from is None else self.contents.val_from
        for identity in identities:
            key = name_key(identity)
            for low, high in ((0, middle), (middle, len(keys))):
                row = bisect_left(keys, key, low, high)
                if row < high and keys[row] == key:
                    found.append(row)
        return np.array(found, np.int64)

    def _members(self, rows: Rows, most: int | None) -> Iterator[tuple[int, str, bytes | UnreadableImage]]:
        """Yield row, identity and file of members, of which at most so many bytes are read."""
        found = self.index[rows]
        paths, starts = [shard_name(shard) for shard in found["shard"].tolist()], found["offset"].tolist()
        ends = (found["offset"] + np.minimum(found["length"], most or found["length"])).tolist()
        raw = self._ranges(paths, starts, ends, 0 if most else MERGED_GAP)
        for row, key, path, start, content in zip(
            rows.tolist(), found["name"].tolist(), paths, starts, raw, strict=True
        ):
            try:
                if isinstance(content, Exception):
                    raise content
                member = tarfile.TarFile(fileobj=io.BytesIO(content)).next()
                if member is None or name_key(member.name) != key:
                    raise UnreadableImage("the shard has another photo here than the index")
                own = content[member.offset_data : member.offset_data + member.size]
                damaged = None if most or len(own) == member.size else UnreadableImage("the shard ends in it")
                yield row, member.name, damaged or own
            except Exception as error:  # without a header there is no name: the place stands for it
                yield row, f"{path}@{start}", UnreadableImage(brief(error))

    def _ranges(self, paths: list[str], starts: list[int], ends: list[int], gap: int) -> Iterator[bytes | Exception]:
        """Read parts of files, neighbours up to `gap` bytes apart by one request, and all at once."""
        system, below = url_to_fs(self.root)
        wanted = sorted(zip(*merge_offset_ranges(paths, starts, ends, max_gap=gap), strict=True))
        found: dict[tuple[str, int, int], Any] = {}
        for attempt in range(TRIES):
            lacking = [part for part in wanted if not isinstance(found.get(part), (bytes, FileNotFoundError))]
            if lacking:
                time.sleep(2 ** (attempt - 1) if attempt else 0)
                names, *limits = map(list, zip(*lacking, strict=True))
                files = [f"{below.rstrip('/')}/{name}" for name in names]
                found |= zip(lacking, system.cat_ranges(files, *limits, on_error="return"), strict=True)
        for path, start, end in zip(paths, starts, ends, strict=True):
            part = wanted[bisect_right(wanted, (path, start, math.inf)) - 1]
            content = found[part]
            yield content[start - part[1] : end - part[1]] if isinstance(content, bytes) else content


class Chosen:
    """Rows of an index, in its order, as bits: of a hundred million 13 MB, which each worker process gets."""

    def __init__(self, mask: Mask) -> None:
        self.rows = len(mask)
        self._bits = np.zeros(-(-len(mask) // BLOCK) * BLOCK // 8, np.uint8)
        self._bits[: -(-len(mask) // 8)] = np.packbits(mask, bitorder="little")
        self._ends = np.cumsum(np.bitwise_count(self._bits).reshape(-1, BLOCK // 8).sum(axis=1, dtype=np.int64))

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, positions: Rows) -> Rows:
        """Return the rows that have these places among those chosen."""
        found, blocks = np.empty(len(positions), np.int64), np.searchsorted(self._ends, positions, side="right")
        for block in np.unique(blocks):
            here = blocks == block
            bits = np.unpackbits(self._bits[block * BLOCK // 8 : (block + 1) * BLOCK // 8], bitorder="little")
            before = self._ends[block - 1] if block else 0
            found[here] = block * BLOCK + np.flatnonzero(bits)[positions[here] - before]
        return found

    def mask(self) -> Mask:
        return np.unpackbits(self._bits, count=self.rows, bitorder="little").view(np.bool_)


class Identities(Sequence[str]):
    """Identities of photos in shards, each read from its tar when it is asked for."""

    def __init__(self, reader: Reader, rows: Chosen | Rows) -> None:
        self.reader, self.rows = reader, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return Identities(self.reader, self.rows[np.arange(*index.indices(len(self)))])
        return self.reader.name(int(self.rows[np.array([range(len(self))[index]])][0]))

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), CHUNK):
            yield from self.reader.names(self.rows[np.arange(start, min(start + CHUNK, len(self)))])


class BlockOrder:
    """Numbers below `size` in an order of blocks and within each, made when it is reached; `key` decides it.

    The first block begins at any number, and the last goes on from 0: which photos lie together differs by epoch.
    """

    def __init__(self, size: int, *key: object) -> None:
        self.size, self.key = size, key
        self.shift = int.from_bytes(digest(*key, "shift"), "big") % max(1, size)
        self._blocks = shuffled(size // BLOCK, *key).tolist()

    def __getitem__(self, part: slice) -> Rows:
        start, stop, _ = part.indices(self.size)
        blocks = range(start // BLOCK, -(-stop // BLOCK))
        found = np.concatenate([np.empty(0, np.int64), *map(self._block, blocks)])
        return found[start - blocks.start * BLOCK :][: stop - start]

    def _block(self, number: int) -> Rows:
        block, count = number, self.size % BLOCK
        if number < len(self._blocks):
            block, count = self._blocks[number], BLOCK
        return (block * BLOCK + shuffled(count, *self.key, block).numpy() + self.shift) % self.size


@dataclass(frozen=True)
class PackedPhotos(Photos):
    """Photos in shards."""

    on_disk: ClassVar[bool] = False
    reader: Reader

    def content(self, identity: str) -> bytes:
        return self.reader.content(identity)

    def mask(self, split: str) -> Mask:
        """Mask of the rows of train, val or all."""
        train, val = (cast(Any, part).rows.mask() for part in (self.train, self.val))
        return {"train": train, "val": val, "all": train | val}[split]

    def of_split(self, split: str) -> Sequence[str]:
        return Identities(self.reader, Chosen(self.mask(split)))

    def only(self, keys: NDArray[np.uint64]) -> Self:
        return self.where(
            lambda rows: np.searchsorted(keys, rows["name"], "right") > np.searchsorted(keys, rows["name"])
        )

    def where(self, holds: Callable[[NDArray[Any]], Mask]) -> Self:
        """Return the photos of whose rows `holds`, which is given parts of the index, is true."""
        mask = np.concatenate([holds(rows) for _, rows in self.reader.chunks()])
        train, val = (Identities(self.reader, Chosen(mask & self.mask(split))) for split in ("train", "val"))
        return replace(self, train=train, val=val)

    def portable(self, identities: Sequence[str]) -> Sequence[str]:
        found = isinstance(identities, Identities)
        return identities if found else Identities(self.reader, self.reader.find(identities))

    def read_ahead(self, identities: Sequence[str], indices: Sequence[int]) -> None:
        self.reader.fetch(cast(Identities, identities).rows[np.array(indices)])

    def order(self, size: int, seed: int, epoch: int) -> BlockOrder:
        return BlockOrder(size, seed, epoch)


def list_shards(root: str, split: Split, runs_dir: str | Path) -> PackedPhotos:
    """List the photos of shards in the split of their source, if it had val/, or one by hashes.

    The index of a URL is fetched once, into the cache in `runs_dir`. Raises UserError for shards that are not whole.
    """
    reader = open_shards(root, runs_dir)
    val_from = reader.contents.val_from
    mask, is_val = np.zeros((2, len(reader.index)), np.bool_)
    is_val[len(is_val) if val_from is None else val_from :] = True
    for part, rows in reader.chunks():
        if val_from is None:
            is_val[part] = shares(rows["name"], split.seed, "split") < split.val_fraction
        mask[part] = ~is_val[part]
        if split.train_fraction < 1:
            mask[part] &= shares(rows["name"], split.seed, "subset") < split.train_fraction
    if split.max_val is not None:  # the first by the hash that the rows are in the order of
        is_val[np.flatnonzero(is_val)[split.max_val :]] = False
    train, val = (Identities(reader, Chosen(part)) for part in (mask, is_val))
    if not len(train) or not len(val):
        raise UserError(f"{root}: {len(train)} training and {len(val)} validation photos: change what chooses them")
    return PackedPhotos(root, train, val, reader)


def open_shards(root: str, runs_dir: str | Path) -> Reader:
    """Open shards to read. Raises UserError for shards that are not there, or not as their index says."""
    file = Path(root, "index.npy")
    try:
        system, below = url_to_fs(root)
        below = below.rstrip("/")
        found = json.loads(system.cat_file(f"{below}/index.json"))
        if found["format"] != FORMAT:
            raise UserError(f"{root} has format {found['format']}; this program reads {FORMAT}: make its shards again")
        contents = Contents(**found)
        if not contents.photos:
            raise UserError(f"{root} holds no photos: run colorize.pack on others")
        if is_url(root):
            if len(system.cat_file(f"{below}/index.json", start=1, end=3)) != 2:
                raise UserError(f"data.root={root}: its server gives whole files only, no ranges of bytes")
            file = Path(runs_dir) / ".cache" / f"shards-{contents.index}.npy"
            if not file.exists():
                with renamed_when_done(file) as unfinished:
                    system.get_file(f"{below}/index.npy", str(unfinished))
        for number, size in enumerate([] if is_url(root) else contents.shard_bytes):
            if (there := Path(root, shard_name(number)).stat().st_size) != size:
                raise UserError(f"{root}/{shard_name(number)} has {there} bytes, not {size}: copy or make it again")
        reader = Reader(root, file, contents)
    except FileNotFoundError as error:
        lacking = Path(error.filename or "index.json").name
        lacking += ": run colorize.pack (of saved images, colorize.generate), or take data=folder"
        raise UserError(f"{root} has no {lacking}") from error
    except (OSError, ValueError, ImportError, KeyError, TypeError) as error:
        raise UserError(f"{root}: {brief(error)}; it is to hold shards whole and unchanged") from error
    if reader.index.dtype != ROW or reader.index.shape != (contents.photos,):
        raise UserError(f"{file} is not the index of {contents.photos} photos: copy or make it again")
    return reader
