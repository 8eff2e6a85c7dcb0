"""JPEG to JPEG without a generation lost: the luma's DCT coefficients stay as they are, and new chroma is laid beside.

ITU-T T.81 (JPEG) names the markers and tables, JFIF 1.02 the YCbCr. `jpeglib` reads and writes the coefficients.
"""

import io
import math
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import numpy as np
from PIL import Image

from colorize.photos.opening import Turn
from colorize.photos.profiles import color_model, is_srgb

Plane = np.ndarray[Any, Any]

_HUFFMAN_FRAMES, _FRAMES = {0xC0, 0xC1, 0xC2}, set(range(0xC0, 0xD0))
_DHT, _SOS = 0xC4, 0xDA
_BLOCK = 8
_DCT = np.array(
    [
        [math.cos((2 * x + 1) * u * math.pi / 16) * (0.5 if u else 0.125**0.5) for x in range(_BLOCK)]
        for u in range(_BLOCK)
    ],
    np.float32,
)
"""The orthonormal DCT of eight samples: a row a frequency."""


class _Blocks(np.ndarray[Any, Any]):
    """Coefficients, int16, of which jpeglib makes no copy before it writes them: a photo's take twice its pixels."""

    def astype(self, *_: Any, **__: Any) -> "_Blocks":  # type: ignore[override]
        """Return the very array."""
        return self


@dataclass(frozen=True)
class StoredLuma:
    """The luma of a JPEG as its file has it.

    `content` is the file without metadata, `width` and `height` its size as it is stored, in pixels; `turn` makes it
    upright (None: it is).
    """

    content: bytes
    width: int
    height: int
    turn: Turn | None

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels, upright."""
        return (self.height, self.width) if self.turn is not None and self.turn.swap else (self.width, self.height)

    def decoded(self) -> Plane:
        """Return the upright luma, (H, W) uint8, for results that are no JPEG."""
        with Image.open(io.BytesIO(self.content)) as image:
            image.draft("L", image.size)
            grey = image.convert("L")
        return np.asarray(grey if self.turn is None else grey.transpose(self.turn.method))

    def with_chroma(self, blue: Plane, red: Plane, quality: int) -> bytes:
        """Return a baseline JPEG, upright, of this luma and of Cb and Cr, uint8, of its size or half of it, rounded up.

        It holds no metadata, but for a JFIF header of libjpeg's. The chroma is compressed by `quality`, 1 to 100.
        Raises OSError where the coefficients cannot be read or written.
        """
        jpeglib = _jpeglib()
        luma, luma_steps = self._coefficients()
        width, height = self.size
        steps = _chroma_steps(quality)
        planes = [_transformed(plane, steps) for plane in (blue, red)]
        blocks = (np.ascontiguousarray(plane).view(_Blocks) for plane in (luma, *planes))
        made = jpeglib.from_dct(*blocks, qt=np.stack([luma_steps, steps]), quant_tbl_no=np.array([0, 1, 1], np.int16))
        made.height, made.width = height, width
        half = (2, 2) if blue.shape != (height, width) else (1, 1)
        made.samp_factor = np.array([half, (1, 1), (1, 1)], np.int32)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "coloured.jpg")
            made.write_dct(str(path))
            return path.read_bytes()

    def _coefficients(self) -> tuple[Plane, Plane]:
        """Return the upright blocks, (rows, columns, 8, 8) int16, and the steps they are quantised by, (8, 8)."""
        jpeglib = _jpeglib()
        rows, columns = -(-self.height // _BLOCK), -(-self.width // _BLOCK)
        # All that `jpeglib.read_dct` would find out by decoding the file once more; as of a grey one, for its luma.
        stored = jpeglib.DCTJPEG(
            **dict.fromkeys(("quant_tbl_no", "markers", "huffmans", "Y", "Cb", "Cr", "K", "qt", "progressive_mode")),
            path="the photo",
            content=self.content,
            height=self.height,
            width=self.width,
            block_dims=np.array([[rows, columns]], np.int32),
            samp_factor=np.array([[1, 1]], np.int32),
            jpeg_color_space=jpeglib.JCS_GRAYSCALE,
            num_scans=1,
        )
        luma, _, steps = stored.load()
        if self.turn is None:
            return luma, steps[0]
        # A mirror image has its blocks in reverse, and those frequencies negated that are odd along the mirrored axis.
        odd = np.where(np.arange(_BLOCK) % 2, -1, 1).astype(np.int16)
        if self.turn.mirror_x:
            luma = luma[:, ::-1] * odd
        if self.turn.mirror_y:
            luma = luma[::-1] * odd[:, None]
        return (luma.transpose(1, 0, 3, 2), steps[0].T) if self.turn.swap else (luma, steps[0])


def stored_luma(image: Image.Image, content: bytes, turn: Turn | None) -> StoredLuma | str:
    """Return the luma of a JPEG that was opened and not loaded, or why it cannot be taken over as it is stored.

    `content` is the whole file, `turn` makes the image upright. The reason follows "encoded anew:" in a message.
    """
    jpeg, icc = cast("Any", image), image.info.get("icc_profile")
    components, identifiers = jpeg.layer, tuple(layer[0] for layer in jpeg.layer)
    if len(components) not in (1, 3):
        return "it is CMYK"
    of_rgb = (
        "jfif" not in image.info and image.info.get("adobe_transform", 0 if identifiers == (82, 71, 66) else 1) == 0
    )
    if len(components) == 3 and of_rgb:
        return "it is stored as RGB, without luma"
    if len(components) == 3 and any(layer[side] > components[0][side] for layer in components for side in (1, 2)):
        return "its luma is coarser than its chroma"
    if (color_model(icc) == "RGB" and not is_srgb(icc)) or (color_model(icc) == "GRAY" and len(components) == 1):
        return "its colour profile is not sRGB"
    stored = (image.width, image.height)
    if turn is not None and any(turn[axis] and stored[axis - 2] % _BLOCK for axis in (2, 3)):
        return f"turned upright at a size that is no multiple of {_BLOCK} px"
    if (bare := _without_metadata(content)) is None:
        return "of a kind whose coefficients are not read (arithmetic coding, lossless, or more than 8 bits)"
    if _jpeglib() is None:
        return "the package jpeglib is not installed"
    return StoredLuma(bare, *stored, turn)


def header(made: bytes) -> bytes:
    """Return the metadata segments of a JPEG: APPn and comments."""
    return b"".join(made[start:end] for marker, start, end in _segments(made) if _is_metadata(marker))


def with_header(made: bytes, head: bytes) -> bytes:
    """Return a JPEG with the segments `head` for its metadata."""
    return b"".join((b"\xff\xd8", head, *_bare(made)))


def _is_metadata(marker: int) -> bool:
    return 0xE0 <= marker <= 0xEF or marker == 0xFE


def _bare(content: bytes) -> Iterator[bytes]:
    """Yield the tables and the frame header of a JPEG, and then all its scans at once."""
    for marker, start, end in _segments(content):
        if marker == _SOS:
            yield content[start:]
        elif not _is_metadata(marker):
            yield content[start:end]


def _segments(content: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield the marker, start and end of each segment as far as the header of the first scan.

    Raises ValueError where there is none.
    """
    at, marker = 2, 0
    while marker != _SOS:
        if content[at : at + 1] != b"\xff" or len(content) < at + 4:
            raise ValueError("not a JPEG, or cut off")
        marker = content[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        end = at + 2 + int.from_bytes(content[at + 2 : at + 4], "big")
        yield marker, at, end
        at = end


def _without_metadata(content: bytes) -> bytes | None:
    """Return a JPEG that consists of tables and scans; None where it is one of those that are not read."""
    try:
        frames = [
            content[start + 1 : start + 5 : 3] for marker, start, _ in _segments(content) if marker in _FRAMES - {_DHT}
        ]
        readable = len(frames) == 1 and frames[0][0] in _HUFFMAN_FRAMES and frames[0][1] == 8
        return b"".join((b"\xff\xd8", *_bare(content))) if readable else None
    except ValueError:
        return None


@lru_cache(1)
def _jpeglib() -> Any:
    """Return the library, or None on machines that there is none for."""
    try:
        import jpeglib
    except ImportError:
        return None
    jpeglib.version.set("turbo210")
    return jpeglib


@lru_cache(100)
def _chroma_steps(quality: int) -> Plane:
    """Return the table that libjpeg quantises chroma by, (8, 8)."""
    file = io.BytesIO()
    Image.new("RGB", (16, 16)).save(file, "JPEG", quality=quality)
    with Image.open(file) as made:
        return np.array(cast("Any", made).quantization[1], np.uint16).reshape(_BLOCK, _BLOCK)


def _transformed(plane: Plane, steps: Plane) -> Plane:
    """Return the quantised coefficients of an 8-bit plane, its last rows and columns repeated to whole blocks."""
    height, width = plane.shape
    rows, columns = -(-height // _BLOCK), -(-width // _BLOCK)
    padded = np.pad(plane, ((0, rows * _BLOCK - height), (0, columns * _BLOCK - width)), "edge")
    blocks = np.empty((rows, columns, _BLOCK, _BLOCK), np.int16)
    for row, line in enumerate(padded.reshape(rows, _BLOCK, columns, _BLOCK)):
        shifted = line.transpose(1, 0, 2).astype(np.float32) - 128
        blocks[row] = np.rint(_DCT @ shifted @ _DCT.T / steps)
    return blocks
