"""Telling films by their names and first bytes, without PyAV."""

import os

FILM_SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm")
"""Suffixes of films that are written; a result keeps it, others become Matroska (`.mkv`)."""

READ_SUFFIXES = frozenset(FILM_SUFFIXES).union(
    (".avi", ".mpg", ".mpeg", ".m2v", ".vob", ".wmv", ".asf", ".flv", ".f4v", ".mts", ".m2ts", ".3gp", ".3g2", ".ogv"),
    (".ogm", ".dv", ".mxf", ".divx", ".qt", ".y4m", ".rmvb", ".wtv", ".h264", ".264", ".h265", ".hevc", ".m1v", ".mpv"),
)
"""Suffixes of files that are meant to be films: their faults are told."""

_SOUND_SUFFIXES = frozenset((".m4a", ".m4b", ".mka", ".ogg", ".oga", ".opus", ".spx", ".wma"))
STILL_BRANDS = (
    *(b"heic", b"heix", b"heim", b"heis", b"mif1", b"mif2", b"msf1", b"miaf", b"MiHE", b"MiHB", b"avif", b"avis"),
    *(b"jpeg", b"j2ki", b"crx ", b"M4A ", b"M4B "),
)
"""Brands of ISO media files that hold photos, or sound, and no film."""

_STARTS = (
    b"\x1aE\xdf\xa3",  # Matroska, WebM
    b"FLV\x01",
    b"0&\xb2u\x8ef\xcf\x11",  # ASF: Windows Media
    *(b"\0\0\x01\xba", b"\0\0\x01\xb3"),  # MPEG-1 and -2: program stream, video alone
    b"OggS",
    b"\x06\x0e+4\x02\x05\x01\x01",  # MXF
    b"YUV4MPEG2",
    b"\x1f\x07\0",  # DV
    b".RMF",  # RealMedia
    b"nut/multimedia container\0",
    b"DKIF",  # IVF
)
_TRANSPORT_PACKETS = ((0, 188), (4, 192))


def is_film(path: str | os.PathLike[str]) -> bool:
    """Return true if a file begins as a film or is called as one. Animated GIFs are photos, sound is neither."""
    suffix = os.path.splitext(path)[1].lower()
    return suffix not in _SOUND_SUFFIXES and (begins_as_film(path) or suffix in READ_SUFFIXES)


def begins_as_film(path: str | os.PathLike[str]) -> bool:
    """Return true if the first bytes of a file are those of a container for moving pictures."""
    try:
        if not os.path.isfile(path):  # reading a pipe would wait for ever
            return False
        with open(path, "rb") as file:
            head = file.read(1024)
    except OSError:
        return False
    if head.startswith(_STARTS) or (head[:4] == b"RIFF" and head[8:12] == b"AVI "):
        return True
    if head[4:8] == b"ftyp":
        return head[8:12] not in STILL_BRANDS
    if head[4:8] in (b"moov", b"mdat", b"wide", b"pnot", b"skip") and int.from_bytes(head[:4], "big") >= 8:
        return True  # QuickTime without a brand
    return any(
        len(head) > first + 4 * step and all(head[first + k * step] == 0x47 for k in range(5))
        for first, step in _TRANSPORT_PACKETS
    )
