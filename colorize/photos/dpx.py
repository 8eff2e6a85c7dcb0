"""DPX (SMPTE 268M): frames of scanned film, read by FFmpeg; written as RGB with all else that the header said."""

from collections.abc import Iterable
from typing import IO, Literal

import numpy as np
from PIL import Image

from colorize.color import Plane
from colorize.photos.deep import image_of, scaled
from colorize.photos.tiff import UnreadableImage, UnreadKind

STARTS = (b"SDPX", b"XPDS")  # first bytes of a file, big and little endian

_HEADER_BYTES = 2048
_RGB, _REC_709 = 50, 6


def open_dpx(file: IO[bytes]) -> Image.Image:
    """Read a DPX of one image, RGB or grey, of 8, 10, 12 or 16 bits; see :func:`colorize.photos.deep.image_of`.

    `info["dpx"]` is its header. Raises UnreadableImage where PyAV is not installed.
    """
    try:
        import av
    except ImportError:
        raise UnreadableImage("a DPX file, which needs PyAV: pip install 'colorize[video]'") from None
    header = file.read(_HEADER_BYTES)
    until = int.from_bytes(header[4:8], _byte_order(header))  # FFmpeg's end sooner, before what is of television
    header = header[:until].ljust(_HEADER_BYTES, b"\xff")
    file.seek(0)
    with av.open(file, "r", format="dpx_pipe") as container:
        frame = next(iter(container.decode(video=0)))
    assert isinstance(frame, av.VideoFrame)
    name, bits = frame.format.name, frame.format.components[0].bits
    if bits == 8 and name in ("gray", "rgb24", "rgba", "abgr"):
        samples = frame.to_ndarray(format="gray" if name == "gray" else "rgb24")
    elif bits > 8 and name.startswith(("gray", "gbrp", "gbrap", "rgb48", "rgba64")):
        samples = scaled(frame.to_ndarray(), np.arange(1 << bits), 65535)
    else:
        raise UnreadKind(f"a DPX file of {name} pixels, which is not read")
    image = image_of(np.atleast_3d(samples)[..., :3])
    image.format = "DPX"
    image.info |= {"dpx": header, "unused": len(frame.format.components) // 4}
    return image


def _byte_order(header: bytes | bytearray) -> Literal["little", "big"]:
    return "little" if header.startswith(b"XPDS") else "big"


def write_dpx(file: IO[bytes], width: int, height: int, bits: int, bands: Iterable[Plane], header: bytes) -> None:
    """Write an uncompressed RGB DPX, of the depth and byte order of `header`; if that is empty, of `bits`.

    `header` is that of the source, whose time code, film edge code and transfer characteristic stay. `bands` are the
    pixels from top to bottom, (rows, width, 3) uint8 or uint16.
    """
    made = bytearray(header)
    if not made:
        made += b"\xff" * _HEADER_BYTES  # which says that a field is not known
        made[:4], made[8:16], made[36:660] = b"SDPX", b"V1.0".ljust(8, b"\0"), bytes(624)
        made[801:804] = bytes((_REC_709, _REC_709, bits))
    order, bits = _byte_order(made), made[803]
    row_bytes = 4 * (width if bits == 10 else -(-width * 3 * (1 if bits == 8 else 2) // 4))  # whole words of 32 bits
    words = {4: 2048, 16: 2048 + height * row_bytes, 24: 1664, 28: 384, 32: 0}
    words |= {772: width, 776: height, 780: 0, 808: 2048, 812: 0, 816: 0}
    halves = {768: 0, 770: 1, 804: int(bits in (10, 12)), 806: 0}
    for size, fields in ((4, words), (2, halves)):
        for at, value in fields.items():
            made[at : at + size] = value.to_bytes(size, order)
    made[800] = _RGB
    file.write(made)
    for band in bands:
        full = np.iinfo(band.dtype).max
        samples = np.rint(band.astype(np.float32) * (((1 << bits) - 1) / full)).astype(np.uint32)
        if bits == 10:
            coded = samples[..., 0] << 22 | samples[..., 1] << 12 | samples[..., 2] << 2
        else:
            coded = (samples << 4 if bits == 12 else samples).astype(np.uint8 if bits == 8 else np.uint16)
        coded = coded.astype(coded.dtype.newbyteorder(order))
        rows = coded.reshape(len(band), -1).view(np.uint8)
        file.write(np.pad(rows, ((0, 0), (0, row_bytes - rows.shape[1]))).tobytes())
