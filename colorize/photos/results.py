"""Writing a coloured photo: the pixels and what is known of them, whole or not at all."""

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from struct import error as struct_error
from typing import IO, Any

import numpy as np
from PIL import Image, PngImagePlugin

from colorize.photos.reading import Metadata
from colorize.photos.strip_files import ZLIB_LEVEL, Band, write_png, write_tiff
from colorize.runtime.files import written_whole
from colorize.runtime.formats import Format

_JPEG_MARKER_BYTES = 65533
_XMP_HEADER_BYTES = 29


@dataclass(frozen=True)
class BandedImage:
    """An image in colour, computed band by band as it is used.

    Attributes:
        width: in pixels.
        height: in pixels.
        channels: 3, RGB, or 4, RGBA with opacity that is not multiplied into the colours.
        bits: 8 or 16 a channel.
        bands: makes its pixels from top to bottom, `(rows, width, channels)` of uint8 or uint16.
        ycc: makes the same for JPEG in a third of the time, as YCbCr (JFIF) with one chroma for each 2 x 2; or None.
    """

    width: int
    height: int
    channels: int
    bits: int
    bands: Callable[[], Iterator[Band]]
    ycc: Callable[[], Image.Image] | None = None

    @classmethod
    def of(cls, image: Image.Image) -> "BandedImage":
        """Wrap an RGB or RGBA image of Pillow."""

        def bands() -> Iterator[Band]:
            rows = max(1, (1 << 18) // image.width)
            for top in range(0, image.height, rows):
                yield np.asarray(image.crop((0, top, image.width, min(top + rows, image.height))))

        return cls(image.width, image.height, len(image.getbands()), 8, bands)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Width and height in pixels, channels, and bits a channel."""
        return self.width, self.height, self.channels, self.bits

    def to_image(self) -> Image.Image:
        """Return it as a Pillow image (8 bits: RGB or RGBA)."""
        image, top = Image.new("RGB" if self.channels == 3 else "RGBA", (self.width, self.height)), 0
        for band in self.bands():
            image.paste(Image.fromarray(band if self.bits == 8 else (band >> 8).astype(np.uint8)), (0, top))
            top += len(band)
        return image

    def to_array(self) -> np.ndarray[Any, Any]:
        """Return it as an array (height, width, channels) of its own depth."""
        array = np.empty((self.height, self.width, self.channels), np.uint8 if self.bits == 8 else np.uint16)
        top = 0
        for band in self.bands():
            array[top : top + len(band)] = band
            top += len(band)
        return array


def save(path: Path, image: BandedImage, format: Format, metadata: Metadata, quality: int) -> list[str]:
    """Write an image and its metadata, whole or not at all. Folders are created.

    Args:
        image: the pixels; `format.can_hold(*image.shape)` is true.
        format: the format of the file.
        metadata: of the source.
        quality: of lossy formats, 1 to 100.

    Returns:
        What of the metadata this file could not take, in words.

    Raises:
        OSError: it cannot be written.
    """
    left_out: list[str] = []
    if format.name == "JPEG":
        metadata = _fit_jpeg(metadata, left_out)
    with written_whole(path) as file:
        try:
            _write(file, image, format, metadata, quality)
        except OSError:
            raise
        except (ValueError, TypeError, KeyError, OverflowError, struct_error):
            # Metadata that was read but cannot be written again. (The same for the image itself would fail again.)
            file.seek(0)
            file.truncate()
            left_out.append("its metadata, which is damaged")
            _write(file, image, format, Metadata(), quality)
    return left_out


def _write(file: IO[bytes], image: BandedImage, format: Format, metadata: Metadata, quality: int) -> None:
    if format.name == "TIFF":
        tags = Image.Exif()
        tags.load(metadata.exif)
        if metadata.xmp is not None:
            tags[700] = metadata.xmp
        write_tiff(file, image.width, image.height, image.bands(), tags, metadata.icc, metadata.dpi)
        return
    info = PngImagePlugin.PngInfo()
    if format.name == "PNG":
        for key, value in metadata.text.items():
            info.add_itxt(key, value)
        if metadata.xmp is not None:
            info.add_itxt("XML:com.adobe.xmp", metadata.xmp.decode("utf-8", "replace"))
    if image.bits == 16:
        if metadata.icc is not None:
            info.add(b"iCCP", b"ICC Profile\0\0" + zlib.compress(metadata.icc))
        if metadata.dpi is not None:
            per_metre = (round(value / 0.0254).to_bytes(4, "big") for value in metadata.dpi)
            info.add(b"pHYs", b"".join(per_metre) + b"\x01")
        write_png(file, image.width, image.height, image.bands(), info, metadata.exif.removeprefix(b"Exif\0\0"))
        return
    options: dict[str, Any] = {
        "exif": metadata.exif,
        "icc_profile": metadata.icc,
        "dpi": metadata.dpi,
        "xmp": metadata.xmp,
    }
    options = {name: value for name, value in options.items() if value}
    if format.name == "PNG":
        options |= {"pnginfo": info, "compress_level": ZLIB_LEVEL}
    elif format.lossy:
        options["quality"] = quality
        if format.name == "JPEG" and metadata.comment is not None:
            options["comment"] = metadata.comment
    made = image.ycc() if format.name == "JPEG" and image.ycc is not None else image.to_image()
    made.save(file, format=format.name, **options)


def _fit_jpeg(metadata: Metadata, left_out: list[str]) -> Metadata:
    """Leave out what does not fit into the segments of a JPEG file, which hold 64 KiB each."""
    if len(metadata.exif) > _JPEG_MARKER_BYTES:
        left_out.append("its EXIF data, which is too long for a JPEG")
        metadata = replace(metadata, exif=b"")
    if metadata.xmp is not None and len(metadata.xmp) > _JPEG_MARKER_BYTES - _XMP_HEADER_BYTES:
        left_out.append("its XMP packet, which is too long for a JPEG")
        metadata = replace(metadata, xmp=None)
    return metadata
