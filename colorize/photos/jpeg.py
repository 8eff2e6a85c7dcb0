"""JPEG to JPEG: the luma's DCT coefficients stay as they are, new chroma is laid beside (ITU-T T.81, JFIF 1.02)."""

import io
import tempfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import numpy as np
from PIL import Image

from colorize.color import Plane
from colorize.photos.opening import Turn
from colorize.photos.profiles import color_model, is_srgb

_SOI, _DHT, _SOS = b"\xff\xd8", 0xC4, 0xDA
_HUFFMAN_FRAMES = {0xC0, 0xC1, 0xC2}
_BLOCK = 8


class _Blocks(np.ndarray[Any, Any]):
    """Coefficients, int16, of which jpeglib makes no copy before it writes them: a photo's take twice its pixels."""

    def astype(self, *_: Any, **__: Any) -> "_Blocks":  # type: ignore[override]
        return self


@dataclass(frozen=True)
class StoredLuma:
    """Luma of a JPEG as stored: `content` without metadata, stored `width` and `height`; `turn` makes it upright."""

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
        halved = blue.shape != self.size[::-1]
        *planes, chroma_steps = _coded(blue, red, quality)  # first, since the luma takes most memory
        luma, luma_steps = self._coefficients()
        made = _jpeglib().from_dct(
            *(np.ascontiguousarray(plane).view(_Blocks) for plane in (luma, *planes)),
            qt=np.stack([luma_steps, chroma_steps]),
            quant_tbl_no=np.array([0, 1, 1], np.int16),
        )
        made.width, made.height = self.size
        made.samp_factor = np.array([(2, 2) if halved else (1, 1), (1, 1), (1, 1)], np.int32)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "coloured.jpg")
            made.write_dct(str(path))
            return path.read_bytes()

    def _coefficients(self) -> tuple[Plane, Plane]:
        """Return the upright blocks, (rows, columns, 8, 8) int16, and the steps they are quantised by, (8, 8)."""
        stored = _read(self.content, self.width, self.height)
        luma, steps = stored.Y, stored.qt[0]
        if self.turn is None:
            return luma, steps
        # A mirror image has its blocks in reverse, and those frequencies negated that are odd along the mirrored axis.
        odd = np.where(np.arange(_BLOCK) % 2, -1, 1).astype(np.int16)
        if self.turn.mirror_x:
            luma = luma[:, ::-1] * odd
        if self.turn.mirror_y:
            luma = luma[::-1] * odd[:, None]
        return (luma.transpose(1, 0, 3, 2), steps.T) if self.turn.swap else (luma, steps)


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
    try:
        _, bare, frames = _parts(content)
    except ValueError as error:
        return f"it is {error}"
    if len(frames) != 1 or frames[0][1] not in _HUFFMAN_FRAMES or frames[0][4:5] != b"\x08":
        return "of a kind whose coefficients are not read (arithmetic coding, lossless, or more than 8 bits)"
    if _jpeglib() is None:
        return "the package jpeglib is not installed"
    return StoredLuma(_SOI + bare, *stored, turn)


def with_metadata_of(said: bytes, made: bytes) -> bytes:
    """Return the JPEG `made` with the metadata of another one: APPn segments and comments."""
    return _SOI + _parts(said)[0] + _parts(made)[1]


def _parts(content: bytes) -> tuple[bytes, bytes, list[bytes]]:
    """Return a JPEG's metadata; its tables, frame header and scans; frame headers. Raises ValueError without a scan."""
    said, coded, frames = list[bytes](), list[bytes](), list[bytes]()
    at, marker = len(_SOI), 0
    while marker != _SOS:
        if content[at : at + 1] != b"\xff" or len(content) < at + 4:
            raise ValueError("not a JPEG, or cut off")
        marker = content[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        end = at + 2 + int.from_bytes(content[at + 2 : at + 4], "big")
        segment = content[at:] if marker == _SOS else content[at:end]
        (said if 0xE0 <= marker <= 0xEF or marker == 0xFE else coded).append(segment)
        frames += [segment] * (0xC0 <= marker <= 0xCF and marker != _DHT)
        at = end
    return b"".join(said), b"".join(coded), frames


def _coded(blue: Plane, red: Plane, quality: int) -> tuple[Plane, Plane, Plane]:
    """Return the blocks of Cb and Cr as Pillow compresses them, and the steps they are quantised by, (8, 8)."""
    sample, saved = Image.new("YCbCr", (_BLOCK, _BLOCK)), io.BytesIO()
    sample.save(saved, "JPEG", quality=quality)
    with Image.open(saved) as image:
        steps = cast("Any", image).quantization[1]
    coded = []
    for plane in (blue, red):
        saved, grey = io.BytesIO(), Image.fromarray(plane)
        grey.save(saved, "JPEG", qtables=[steps])
        coded.append(_read(saved.getvalue(), *grey.size))
    return coded[0].Y, coded[1].Y, coded[0].qt[0]


def _read(content: bytes, width: int, height: int) -> Any:
    """Read the coefficients of a JPEG's first component, of this size in pixels, as if it were a grey one."""
    jpeglib = _jpeglib()
    # All that `jpeglib.read_dct` would find out by decoding the file once more.
    found = jpeglib.DCTJPEG(
        **dict.fromkeys(("quant_tbl_no", "markers", "huffmans", "Y", "Cb", "Cr", "K", "qt", "progressive_mode")),
        path="the photo",
        content=content,
        height=height,
        width=width,
        block_dims=np.array([[-(-height // _BLOCK), -(-width // _BLOCK)]], np.int32),
        samp_factor=np.array([[1, 1]], np.int32),
        jpeg_color_space=jpeglib.JCS_GRAYSCALE,
        num_scans=1,
    )
    found.load()
    return found


@lru_cache(1)
def _jpeglib() -> Any:
    try:
        import jpeglib
    except ImportError:
        return None
    jpeglib.version.set("turbo210")
    return jpeglib
