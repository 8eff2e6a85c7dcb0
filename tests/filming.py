"""What the tests of films share: tiny films of any kind, made by FFmpeg, and what is in a file."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.subtitles.subtitle import SubtitleSet

ASS_HEADER = b"""[Script Info]
ScriptType: v4.00+

[V4+ Styles]
Format: Name, Fontname, Fontsize, PrimaryColour, BackColour, Alignment
Style: Default,Arial,16,&Hffffff,&H0,2

[Events]
Format: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text
"""
SUBTITLES = ("Hello there", "Good bye")
MILLISECOND = Fraction(1, 1000)


def grey_frames(count: int, width: int = 64, height: int = 48) -> list[np.ndarray[Any, Any]]:
    """Coded luma (16 to 235) of a texture that moves by a pixel a frame."""
    rng = np.random.default_rng(0)
    texture = rng.integers(40, 200, (height // 4 + 1, (width + count) // 4 + 1)).repeat(4, 0).repeat(4, 1)
    return [texture[:height, index : index + width].astype(np.uint8) for index in range(count)]


def write_film(
    path: Path,
    frames: Sequence[np.ndarray[Any, Any]] | None = None,
    times: Sequence[int] | None = None,
    codec: str = "libx264",
    pixel_format: str = "yuv420p",
    sound: str | None = None,
    subtitles: str | None = None,
    turn: int = 0,
    pixel_aspect: Fraction | None = None,
    time_base: Fraction = MILLISECOND,
    options: dict[str, str] | None = None,
    sound_s: float | None = None,
    rate: Fraction | int = 25,
) -> Path:
    """A grey film of 25 frames a second, or of frames at `times`; its sound is as long as its frames, or `sound_s`."""
    frames = grey_frames(12) if frames is None else frames
    times = [round(index / 25 / time_base) for index in range(len(frames))] if times is None else times
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(path, "w") as container:
        video = container.add_stream(codec, rate=rate, options=options or {})
        video.height, video.width = frames[0].shape
        video.pix_fmt, video.codec_context.time_base = pixel_format, time_base
        if pixel_aspect is not None:
            video.codec_context.sample_aspect_ratio = pixel_aspect
        if turn:
            video.set_display_rotation(turn)
        heard = container.add_stream(sound, rate=48000, layout="mono") if sound else None
        read = container.add_stream(subtitles) if subtitles else None
        if read is not None:
            read.codec_context.subtitle_header = ASS_HEADER
            read.metadata["language"] = "fra"
        for luma, time in zip(frames, times, strict=True):
            frame = av.VideoFrame(luma.shape[1], luma.shape[0], pixel_format)
            planes = [luma, *(np.full((plane.height, plane.width), 128, np.uint8) for plane in frame.planes[1:])]
            for plane, values in zip(frame.planes, planes, strict=True):
                np.frombuffer(plane, np.uint8).reshape(plane.height, -1)[:, : plane.width] = values
            frame.pts, frame.time_base = time, time_base
            container.mux(video.encode(frame))
        container.mux(video.encode())
        if heard is not None:
            tone = (8000 * np.sin(np.arange(round(48000 * (sound_s or len(frames) / 25))) / 17)).astype(np.int16)
            for start in range(0, len(tone), 960):
                piece = av.AudioFrame.from_ndarray(tone[None, start : start + 960], format="s16", layout="mono")
                piece.sample_rate, piece.pts, piece.time_base = 48000, start, Fraction(1, 48000)
                container.mux(heard.encode(piece))
            container.mux(heard.encode())
        for number, text in enumerate(SUBTITLES if read is not None else ()):
            line = SubtitleSet.create(f"{number},0,Default,,0,0,0,,{text}".encode(), 0, 150, pts=number * 200_000)
            packet = read.codec_context.encode_subtitle(line)
            packet.stream, packet.time_base, packet.duration = read, MILLISECOND, 150
            packet.pts = packet.dts = 200 * number
            container.mux(packet)
    return path


@dataclass
class Found:
    """What is in a film.

    Attributes:
        luma: of each frame as it is coded.
        rgb: of each frame.
        times: of each frame, in seconds.
        sound: the packets of sound, in bytes.
        subtitles: their texts, each with its time in seconds.
        codecs: of its streams.
        stream: width, height, pixel aspect, of the pictures.
        end: when the last frame ends, in seconds.
    """

    luma: list[np.ndarray[Any, Any]]
    rgb: list[np.ndarray[Any, Any]]
    times: list[float]
    sound: list[bytes]
    subtitles: list[tuple[float, str]]
    codecs: list[str]
    stream: tuple[int, int, Fraction]
    end: float


def read_film(path: Path) -> Found:
    with av.open(path) as container:
        video = container.streams.video[0]
        frames = list(container.decode(video))
        aspect = video.sample_aspect_ratio or video.codec_context.sample_aspect_ratio or Fraction(1)
        stream = (video.width, video.height, aspect)
        length = float(video.duration * video.time_base) if video.duration else None
        codecs = [stream.codec_context.codec.canonical_name for stream in container.streams]
    luma = []
    for frame in frames:
        plane = frame.planes[0]
        deep = np.uint8 if frame.format.components[0].bits == 8 else np.uint16
        luma.append(np.frombuffer(plane, deep).reshape(plane.height, -1)[:, : plane.width].copy())
    sound, subtitles, end = [], [], 0.0
    with av.open(path) as container:
        for packet in container.demux():
            if packet.stream.type == "audio" and packet.size:
                sound.append(bytes(packet))
            elif packet.stream.type == "subtitle" and packet.size:
                found = packet.stream.codec_context.decode2(packet)
                for rect in found or ():
                    subtitles.append((float(packet.pts * packet.time_base), rect.dialogue.decode()))
            elif packet.stream.type == "video" and packet.pts is not None:
                end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
    if length is not None:
        end = length
    rgb = [frame.to_ndarray(format="rgb24") for frame in frames]
    return Found(luma, rgb, [float(frame.time) for frame in frames], sound, subtitles, codecs, stream, end)
