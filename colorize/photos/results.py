"""Writing a coloured photo: the pixels and what is known of them, whole or not at all."""

import io
import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from struct import error as struct_error
from typing import IO, Any

import numpy as np
from PIL import Image, PngImagePlugin
from PIL.ExifTags import Base

from colorize.color import Plane
from colorize.photos.boxes import jp2_file
from colorize.photos.deep import eight_bits
from colorize.photos.dpx import write_dpx
from colorize.photos.jpeg import StoredLuma, with_metadata_of
from colorize.photos.metadata import Metadata, photoshop_block, resolution_tags
from colorize.photos.opening import load_plugin
from colorize.photos.tags import ICC, IPTC, XMP, Tag, long, pack, short, unpack
from colorize.runtime.files import written_whole
from colorize.runtime.formats import Format

_PHOTOSHOP = b"Photoshop 3.0\0"
_JPEG_SEGMENT_BYTES = 65533
_PARTS: dict[str, tuple[str, int | None]] = {
    "exif": ("EXIF data", 0),
    "xmp": ("XMP packet", 29),
    "iptc": ("IPTC captions", 26),
    "icc": ("colour profile", None),
    "dpi": ("resolution", None),
    "text": ("texts", None),
    "comment": ("comment", 0),
    "dpx": ("DPX header", None),
}
"""The fields of metadata in words, and how much stands before each in its segment of a JPEG, if it has a single one."""

_LEVEL = 1
"""Of zlib, for a PNG's one stream, and of libdeflate, for a TIFF's strips: less than half the time of zlib at 3. The
PNG is 5 % larger than Pillow would make it at that (twenty photographs), the TIFF no larger."""


@dataclass(frozen=True)
class BandedImage:
    """An image in colour, computed band by band as it is used.

    Sizes are in pixels; `channels` is 3, RGB, or 4, RGBA with opacity that is not multiplied into the colours; `bits` 8
    or 16 a channel. `bands` makes the pixels from top to bottom, `(rows, width, channels)` of uint8 or uint16.

    For JPEG (JFIF's YCbCr) `luma` is (H, W) uint8, or as a file has it, and `chroma` makes Cb and Cr, uint8, of its
    size or, if it is told so, of half of it, rounded up; None: the pixels say it.
    """

    width: int
    height: int
    channels: int
    bits: int
    bands: Callable[[], Iterator[Plane]]
    luma: Plane | StoredLuma | None = None
    chroma: Callable[[bool], tuple[Plane, Plane]] | None = None

    @classmethod
    def of(cls, pixels: Plane) -> "BandedImage":
        height, width, channels = pixels.shape
        rows = max(1, (1 << 18) // width)
        bits = pixels.dtype.itemsize * 8
        return cls(width, height, channels, bits, lambda: (pixels[top : top + rows] for top in range(0, height, rows)))

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Width and height in pixels, channels, and bits a channel."""
        return self.width, self.height, self.channels, self.bits

    def to_image(self) -> Image.Image:
        image, top = Image.new("RGB" if self.channels == 3 else "RGBA", (self.width, self.height)), 0
        for band in self.bands():
            image.paste(Image.fromarray(eight_bits(band)), (0, top))
            top += len(band)
        return image

    def to_array(self) -> Plane:
        return np.concatenate(list(self.bands()))


def save(
    path: Path, image: BandedImage, format: Format, metadata: Metadata, quality: int, chroma: str = "420"
) -> list[str]:
    """Write an image and its source's metadata, whole or not at all; return in words what of them the file cannot take.

    The format can hold the image (`format.can_hold(*image.shape)`); `quality` of lossy ones is 1 to 100; `chroma` of
    JPEG is 420, half the size, or 444, the whole. Folders are created. Raises OSError where it cannot be written.
    """
    metadata, left_out = _fit(metadata, format)
    with written_whole(path) as file:
        try:
            return left_out + _write(file, image, format, metadata, quality, chroma == "420")
        except (ValueError, TypeError, KeyError, OverflowError, struct_error):
            # Metadata that was read but cannot be written again. (The same for the image itself would fail again.)
            file.seek(0)
            file.truncate()
            said = _write(file, image, format, Metadata(), quality, chroma == "420")
            return [*left_out, "its metadata, which is damaged", *said]


def _write(
    file: IO[bytes], image: BandedImage, format: Format, metadata: Metadata, quality: int, halved: bool
) -> list[str]:
    options: dict[str, Any] = {"exif": metadata.exif, "icc_profile": metadata.icc, "xmp": metadata.xmp}
    options |= {"dpi": metadata.dpi, "comment": metadata.comment}
    options = {name: value for name, value in options.items() if value}
    if format.name == "TIFF":
        write_tiff(file, image.width, image.height, image.bands(), metadata)
    elif format.name == "DPX":
        write_dpx(file, image.width, image.height, image.bits, image.bands(), metadata.dpx)
    elif format.name == "PNG":
        write_png(file, image.width, image.height, image.bands(), _png_chunks(metadata))
    elif format.name == "JPEG2000":
        import imagecodecs  # takes a fifth of a second

        kind, threads, pixels = "jp2" if format.keeps else "j2k", os.cpu_count() or 1, image.to_array()
        made = bytes(imagecodecs.jpeg2k_encode(pixels, codecformat=kind, reversible=True, numthreads=threads))
        file.write(jp2_file(made, metadata) if format.keeps else made)  # a bare codestream says nothing of its image
    elif format.name == "JPEG":
        if metadata.iptc is not None:
            segment = _PHOTOSHOP + photoshop_block(metadata.iptc)
            options["extra"] = b"\xff\xed" + (len(segment) + 2).to_bytes(2, "big") + segment
        return _write_jpeg(file, image, options, quality, halved)
    else:
        if format.plugin:
            load_plugin(format)
        if format.lossy:
            options |= {"quality": quality, "lossless": format.name in ("WEBP", "JXL") and quality == 100}
        if metadata.dpi is not None and "exif" in format.keeps:  # which has no other place for it
            tags = unpack(metadata.exif)
            options["exif"] = b"Exif\0\0" + pack(tags._replace(main=tags.main | resolution_tags(metadata)))
        if format.name == "JXL" and "exif" in options:  # where TIFF begins, which its plugin leaves out
            options["exif"] = bytes(4) + options["exif"].removeprefix(b"Exif\0\0")
        image.to_image().save(file, format=format.name, **options)
    return []


def _write_jpeg(file: IO[bytes], image: BandedImage, options: dict[str, Any], quality: int, halved: bool) -> list[str]:
    left_out = list[str]()
    if image.luma is None or image.chroma is None:
        made = image.to_image()
    else:
        luma, planes = image.luma, image.chroma(halved)
        if isinstance(luma, StoredLuma):
            head = io.BytesIO()
            Image.new("L", (8, 8)).save(head, "JPEG", **options)
            try:
                file.write(with_metadata_of(head.getvalue(), luma.with_chroma(*planes, quality)))
                return []
            except OSError as error:
                if error.errno is not None:  # the system's; libjpeg's have none
                    raise
            left_out.append("its luma as it was stored, which libjpeg cannot read")
            luma = luma.decoded()
        whole = [plane.repeat(2, 0).repeat(2, 1)[: len(luma), : luma.shape[1]] if halved else plane for plane in planes]
        made = Image.merge("YCbCr", [Image.fromarray(plane) for plane in (luma, *whole)])
    made.save(file, "JPEG", quality=quality, subsampling="4:2:0" if halved else "4:4:4", **options)
    return left_out


def _png_chunks(metadata: Metadata) -> PngImagePlugin.PngInfo:
    info = PngImagePlugin.PngInfo()
    if metadata.icc is not None:
        info.add(b"iCCP", b"ICC Profile\0\0" + zlib.compress(metadata.icc))
    if metadata.dpi is not None:
        per_metre = (round(value / 0.0254).to_bytes(4, "big") for value in metadata.dpi)
        info.add(b"pHYs", b"".join(per_metre) + b"\x01")
    for key, value in metadata.text.items():
        info.add_itxt(key, value)
    if metadata.xmp is not None:
        info.add_itxt("XML:com.adobe.xmp", metadata.xmp.decode("utf-8", "replace"))
    if metadata.iptc is not None:  # as ImageMagick and ExifTool keep it
        block = photoshop_block(metadata.iptc)
        info.add_text("Raw profile type iptc", f"\niptc\n{len(block):8}\n{block.hex()}\n", zip=True)
    if metadata.exif:
        info.add(b"eXIf", metadata.exif.removeprefix(b"Exif\0\0"))
    return info


def _fit(metadata: Metadata, format: Format) -> tuple[Metadata, list[str]]:
    """Leave out what a format cannot hold; the segments of a JPEG hold 64 KiB each. Also return it in words."""
    left_out = []
    for name, (words, before) in _PARTS.items():
        value = getattr(metadata, name)
        if not value:
            continue
        too_long = format.name == "JPEG" and before is not None and len(value) > _JPEG_SEGMENT_BYTES - before
        if too_long or (name not in format.keeps and name != "icc"):  # the image is sRGB then
            reason = "which is too long for a JPEG" if too_long else f"for which a {format.name} has no place"
            left_out.append(f"its {words}, {reason}")
            metadata = replace(metadata, **{name: getattr(Metadata(), name)})
    return metadata, left_out


def write_png(file: IO[bytes], width: int, height: int, bands: Iterable[Plane], info: PngImagePlugin.PngInfo) -> None:
    """Write a PNG (W3C, third edition) of uint8 or uint16 `bands` from top to bottom, after the chunks of `info`."""
    file.write(b"\x89PNG\r\n\x1a\n")
    compressor = zlib.compressobj(_LEVEL)
    for number, band in enumerate(bands):
        if not number:
            colour_type = {3: 2, 4: 6}[band.shape[2]]
            bits = 8 * band.dtype.itemsize
            header = (width.to_bytes(4, "big"), height.to_bytes(4, "big"), bytes((bits, colour_type, 0, 0, 0)))
            PngImagePlugin.putchunk(file, b"IHDR", *header)
            for name, data, *_ in info.chunks:
                PngImagePlugin.putchunk(file, name, data)
        big_endian = band.astype(band.dtype.newbyteorder(">"), copy=False)
        rows = np.ascontiguousarray(big_endian).view(np.uint8).reshape(len(band), -1)
        filtered = np.empty((len(band), rows.shape[1] + 1), np.uint8)
        filtered[:, 0] = 1  # filter Sub: the difference to the pixel on the left
        step = band.dtype.itemsize * band.shape[2]
        filtered[:, 1 : step + 1] = rows[:, :step]
        np.subtract(rows[:, step:], rows[:, :-step], out=filtered[:, step + 1 :])
        if data := compressor.compress(filtered.tobytes()):
            PngImagePlugin.putchunk(file, b"IDAT", data)
    PngImagePlugin.putchunk(file, b"IDAT", compressor.flush())
    PngImagePlugin.putchunk(file, b"IEND")


def write_tiff(file: IO[bytes], width: int, height: int, bands: Iterable[Plane], metadata: Metadata) -> None:
    """Write a TIFF 6.0 in strips, deflated with the horizontal predictor, 8 or 16 bits a channel.

    `bands` are the pixels from top to bottom; each makes a strip, so that all but the last have the same number of
    rows. `metadata` is for its directory, with those of EXIF and GPS.
    """
    from imagecodecs import deflate_encode  # takes a tenth of a second, and few results are TIFFs

    strips: list[bytes] = []
    rows_per_strip = channels = bits = 0
    for strip in bands:
        channels, bits = strip.shape[2], strip.dtype.itemsize * 8
        rows_per_strip = rows_per_strip or len(strip)
        little = strip.astype(strip.dtype.newbyteorder("<"))
        little[:, 1:] -= strip[:, :-1]
        strips.append(bytes(deflate_encode(little.tobytes(), _LEVEL)))
    sizes = [len(strip) for strip in strips]
    tags = unpack(metadata.exif)
    main = tags.main | resolution_tags(metadata)
    for number, data in ((XMP, metadata.xmp), (IPTC, metadata.iptc), (ICC, metadata.icc)):
        if data is not None:
            main[number] = Tag(7, data)  # undefined
    main |= {
        Base.ImageWidth: long(width),
        Base.ImageLength: long(height),
        Base.BitsPerSample: short(*(bits,) * channels),
        Base.Compression: short(8),  # deflate
        Base.PhotometricInterpretation: short(2),  # RGB
        Base.StripOffsets: long(*sizes),
        Base.SamplesPerPixel: short(channels),
        Base.RowsPerStrip: long(rows_per_strip),
        Base.StripByteCounts: long(*sizes),
        Base.PlanarConfiguration: short(1),
        Base.Predictor: short(2),
    }
    if channels == 4:
        main[Base.ExtraSamples] = short(2)  # opacity, not multiplied into the colours
    tags = tags._replace(main=main)
    main[Base.StripOffsets] = long(*accumulate(sizes[:-1], initial=len(pack(tags))))
    file.write(pack(tags))
    for data in strips:
        file.write(data)
