"""Sound and subtitles of a film's source on their way into the result: copied where it can hold them."""

import io
from collections.abc import Callable, Iterator
from contextlib import suppress
from fractions import Fraction
from functools import partial
from typing import Any, cast

import av
from av.container import InputContainer, OutputContainer
from av.subtitles.subtitle import AssSubtitle, SubtitleSet

from colorize.video.reading import Clock

_LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1", 8: "7.1"}
_TEXTS = ("ass", "ssa", "subrip", "srt", "text", "mov_text", "webvtt")
_TEXT_CODECS = {"mp4": "mov_text", "mov": "mov_text", "matroska": "subrip", "webm": "webvtt"}
_ASS_HEADER = b"""[Script Info]
ScriptType: v4.00+

[V4+ Styles]
Format: Name, Fontname, Fontsize, PrimaryColour, SecondaryColour, OutlineColour, BackColour, Bold, Italic, Underline, \
StrikeOut, ScaleX, ScaleY, Spacing, Angle, BorderStyle, Outline, Shadow, Alignment, MarginL, MarginR, MarginV, Encoding
Style: Default,Arial,16,&Hffffff,&Hffffff,&H0,&H0,0,0,0,0,100,100,0,0,1,1,0,2,10,10,10,1

[Events]
Format: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text
"""


class Tracks:
    """All that a source has beside its pictures. Each track is copied, coded anew or left out by itself.

    Args:
        source: the opened source.
        result: the opened result, to which streams are added.
        origin: the time of the source at which the result begins, in seconds.
        end: the time at which it ends; None: with the source.
        notes: gets what could not be kept as it was, in words.
    """

    def __init__(
        self, source: InputContainer, result: OutputContainer, origin: Fraction, end: Fraction | None, notes: list[str]
    ) -> None:
        self._source, self._origin, self._end, self._notes = source, origin, end, notes
        self._whole = end is None and origin == Fraction(source.start_time or 0, av.time_base)
        kind = result.format.name.split(",")[0]
        self._has_edit_lists = kind in ("mp4", "mov")
        self._copied: dict[int, Any] = {}
        self._coded: dict[int, Any] = {}
        self._texts: dict[int, Any] = {}
        self._heard: dict[int, tuple[Fraction, Fraction]] = {}
        for stream in cast("list[Any]", source.streams.audio):
            name = _codec(stream)
            if _takes(result, partial(_copy, stream)):
                self._copied[stream.index] = _copy(stream, result)
            elif _takes(result, partial(_sound, stream)):
                made = self._coded[stream.index] = _sound(stream, result)
                notes.append(f"its sound ({name}) coded anew, as {made.codec_context.name}")
            else:
                notes.append(f"without its sound ({name or 'of unknown kind'})")
        for stream in cast("list[Any]", source.streams.subtitles):
            name, text = _codec(stream), _TEXT_CODECS.get(kind)
            if _takes(result, partial(_copy, stream)):
                self._copied[stream.index] = _copy(stream, result)
            elif name in _TEXTS and text is not None:
                written: Any = result.add_stream(text)
                stream.codec_context.open(strict=False)  # only then does it say how the text is set
                written.codec_context.subtitle_header = stream.codec_context.subtitle_header or _ASS_HEADER
                written.time_base = Fraction(1, 1000)
                self._texts[stream.index] = written
            else:
                notes.append(f"without its subtitles ({name or 'of unknown kind'})")
        for index, track in {**self._copied, **self._coded, **self._texts}.items():
            track.metadata.update(_language(source.streams[index].metadata))
            track.disposition = source.streams[index].disposition
        if kind == "matroska":
            for attachment in source.streams.attachments:
                if attachment.name and attachment.mimetype:
                    result.add_attachment(attachment.name, attachment.mimetype, attachment.data)
        if self._whole and (chapters := source.chapters()):
            result.set_chapters(chapters)

    def packets(self) -> Iterator[tuple[Any, Fraction]]:
        """Packets of the result in the order of the source, each with its time in seconds."""
        wanted = [self._source.streams[index] for index in (*self._copied, *self._coded, *self._texts)]
        if not wanted:
            return
        if not self._whole and self._origin > 0:
            self._source.seek(int(self._origin * av.time_base), backward=True)
        over: set[int] = set()
        clocks = {stream.index: Clock() for stream in wanted if stream.type == "audio"}
        for packet in self._source.demux(wanted):
            index = packet.stream.index
            if packet.pts is None or packet.time_base is None:
                continue
            if index in clocks:
                clocks[index].follow(packet.pts, packet.duration or 0, packet.time_base)
            clock = clocks.get(index) or next(iter(clocks.values()), Clock())  # subtitles keep to the sound
            later = round(clock.later_s / packet.time_base)
            packet.pts += later
            packet.dts = packet.pts if packet.dts is None else packet.dts + later
            time, length = packet.pts * packet.time_base, (packet.duration or 0) * packet.time_base
            if self._end is not None and time >= self._end:
                over.add(index)
                if len(over) == len(wanted):
                    break
                continue
            if index in self._texts:
                if self._whole or time + length > self._origin:
                    yield from self._as_text(index, packet, time, length)
            elif time < self._origin and not self._whole:
                continue
            elif index in self._coded:
                yield from self._encoded(index, _decoded(packet))
            elif not packet.is_discard or self._has_edit_lists:  # else what the source has cut out would be heard
                shift = round(self._origin / packet.time_base)
                packet.pts -= shift
                packet.dts -= shift
                packet.stream = self._copied[index]
                yield packet, time - self._origin
        for index, track in self._coded.items():
            with suppress(av.FFmpegError):
                yield from self._encoded(index, cast("Any", self._source.streams[index]).decode(None))
            if index not in self._heard:
                self._notes.append(f"nothing of its sound ({_codec(self._source.streams[index])}) can be decoded")
            for made in track.encode(None):
                yield made, made.pts * made.time_base

    def _encoded(self, index: int, frames: list[Any]) -> Iterator[tuple[Any, Fraction]]:
        for frame in frames:
            if frame.pts is None or frame.time_base is None:  # the last ones of some codecs: they follow on
                heard_s, unit = self._heard.get(index, (Fraction(0), Fraction(1, frame.sample_rate)))
                frame.time_base, frame.pts = unit, round(heard_s / unit)
            else:
                frame.pts -= round(self._origin / frame.time_base)
            time = frame.pts * frame.time_base
            self._heard[index] = time + Fraction(frame.samples, frame.sample_rate), frame.time_base
            if self._end is not None and time >= self._end - self._origin:
                continue
            for made in self._coded[index].encode(_laid_out(frame)):
                yield made, made.pts * made.time_base

    def _as_text(self, index: int, packet: Any, time: Fraction, length: Fraction) -> Iterator[tuple[Any, Fraction]]:
        found = packet.stream.codec_context.decode2(packet)
        lines = [rect.ass for rect in found or () if isinstance(rect, AssSubtitle)]
        until = time + length if self._end is None else min(time + length, self._end)
        begin = max(time, self._origin) - self._origin if not self._whole else time - self._origin
        shown = until - self._origin - begin
        for line in lines:
            text = SubtitleSet.create(line, 0, round(shown * 1000), pts=round(begin * av.time_base))
            made = self._texts[index].codec_context.encode_subtitle(text)
            made.time_base = Fraction(1, 1000)
            made.pts = made.dts = round(begin * 1000)
            made.duration = round(shown * 1000)
            made.stream = self._texts[index]
            yield made, begin


def _takes(result: OutputContainer, add: Callable[[OutputContainer], Any]) -> bool:
    """Whether a file of the kind of `result` can be begun with a certain track in it."""
    kind = "matroska" if result.format.name.startswith("matroska") else result.format.name.split(",")[0]
    try:
        with av.open(io.BytesIO(), "w", format=kind) as trial:
            if add(trial) is None:
                return False
            trial.start_encoding()
    except (av.FFmpegError, ValueError):
        return False
    return True


def _codec(stream: Any) -> str:
    context = stream.codec_context
    return "" if context is None else str(context.codec.canonical_name)


def _copy(stream: Any, result: OutputContainer) -> Any:
    return result.add_stream_from_template(stream)


def _sound(stream: Any, result: OutputContainer) -> Any:
    """A stream of the result's own kind of sound, None where FFmpeg cannot decode the source's."""
    kind, context = result.format.name.split(",")[0], stream.codec_context
    if context is None or not context.layout.nb_channels:
        return None
    name = {"mp4": "aac", "mov": "aac", "webm": "libopus"}.get(kind)
    if name is None:  # Matroska: what was not compressed loses nothing
        name = "flac" if _codec(stream).startswith("pcm_") else "aac"
    rates = av.Codec(name, "w").audio_rates
    rate = 48000 if name == "libopus" else context.sample_rate
    rate = min(rates, key=lambda known: abs(known - rate)) if rates else rate
    return result.add_stream(name, rate=rate, layout=_LAYOUTS.get(context.layout.nb_channels, "stereo"))


def _decoded(packet: Any) -> list[Any]:
    try:
        return list(packet.decode())
    except av.FFmpegError:
        return []  # a damaged bit of sound is a short silence


def _laid_out(frame: Any) -> Any:
    """A frame that says how many channels it has, and not which, with those that are usual."""
    usual = _LAYOUTS.get(frame.layout.nb_channels)
    if "channels" not in frame.layout.name or usual is None:
        return frame
    made = av.AudioFrame.from_ndarray(frame.to_ndarray(), frame.format.name, usual)
    made.sample_rate, made.pts, made.time_base = frame.sample_rate, frame.pts, frame.time_base
    return made


def _language(metadata: dict[str, str]) -> dict[str, str]:
    return {key: text for key, text in metadata.items() if key.lower() in ("language", "title", "handler_name")}
