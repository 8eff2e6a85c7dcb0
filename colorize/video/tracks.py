"""Sound and subtitles of a film's source on their way into the result: copied where it can hold them."""

from collections.abc import Iterator
from fractions import Fraction
from typing import Any, cast

import av
from av.container import InputContainer, OutputContainer
from av.subtitles.subtitle import AssSubtitle, SubtitleSet

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
    """All that a source has beside its pictures.

    Args:
        source: the opened source.
        result: the opened result, to which streams are added.
        origin: the time of the source at which the result begins, in seconds.
        end: the time at which it ends; None: with the source.
        sound: "copied" where the result can hold it, else coded anew; "coded anew" all of it; or "left out".
        notes: gets what could not be kept as it was, in words.
    """

    def __init__(
        self,
        source: InputContainer,
        result: OutputContainer,
        origin: Fraction,
        end: Fraction | None,
        sound: str,
        notes: list[str],
    ) -> None:
        self._source, self._origin, self._end = source, origin, end
        self._whole = end is None and origin == Fraction(source.start_time or 0, av.time_base)
        kind = result.format.name.split(",")[0]
        holds = None if kind == "matroska" else result.supported_codecs  # Matroska: nearly all; it is tried
        self._copied: dict[int, Any] = {}
        self._coded: dict[int, Any] = {}
        self._texts: dict[int, Any] = {}
        for stream in cast("list[Any]", source.streams.audio):
            name = _codec(stream)
            if sound == "copied" and (holds is None or name in holds):
                self._copied[stream.index] = result.add_stream_from_template(stream)
            elif sound != "left out" and stream.codec_context is not None and (made := _sound(result, stream)):
                self._coded[stream.index] = made
                notes.append(f"its sound ({name}) coded anew, as {made.codec_context.name}")
            else:
                notes.append(f"without its sound ({name or 'of unknown kind'})")
        for stream in cast("list[Any]", source.streams.subtitles):
            name, text = _codec(stream), _TEXT_CODECS.get(kind)
            if sound == "copied" and ((holds is None and name != "mov_text") or (holds is not None and name in holds)):
                self._copied[stream.index] = result.add_stream_from_template(stream)
            elif sound != "left out" and name in _TEXTS and text is not None:
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
        for packet in self._source.demux(wanted):
            index = packet.stream_index
            if packet.pts is None or packet.time_base is None:
                if index in self._coded and packet.size == 0:
                    yield from self._encoded(index, packet, flush=True)
                continue
            time = packet.pts * packet.time_base
            if self._end is not None and time >= self._end:
                over.add(index)
                if len(over) == len(wanted):
                    break
                continue
            if time < self._origin and not self._whole:
                continue
            if index in self._coded:
                yield from self._encoded(index, packet)
            elif index in self._texts:
                yield from self._as_text(index, packet)
            else:
                shift = round(self._origin / packet.time_base)
                packet.pts -= shift
                packet.dts = packet.pts if packet.dts is None else packet.dts - shift
                packet.stream = self._copied[index]
                yield packet, time - self._origin
        if self._end is not None:
            for index in self._coded:
                yield from self._flushed(index)

    def _encoded(self, index: int, packet: Any, flush: bool = False) -> Iterator[tuple[Any, Fraction]]:
        try:
            frames = packet.decode()
        except av.FFmpegError:
            return  # a damaged bit of sound is a short silence
        for frame in frames:
            if frame.pts is not None:
                frame.pts -= round(self._origin / frame.time_base)
            for made in self._coded[index].encode(frame):
                yield made, made.pts * made.time_base
        if flush:
            yield from self._flushed(index)

    def _flushed(self, index: int) -> Iterator[tuple[Any, Fraction]]:
        for made in self._coded[index].encode(None):
            yield made, made.pts * made.time_base

    def _as_text(self, index: int, packet: Any) -> Iterator[tuple[Any, Fraction]]:
        found = packet.stream.codec_context.decode2(packet)
        lines = [rect.ass for rect in found or () if isinstance(rect, AssSubtitle)]
        length = (packet.duration or 0) * packet.time_base
        time = packet.pts * packet.time_base - self._origin
        for line in lines:
            text = SubtitleSet.create(line, 0, round(length * 1000), pts=round(time * av.time_base))
            made = self._texts[index].codec_context.encode_subtitle(text)
            made.time_base = Fraction(1, 1000)
            made.pts = made.dts = round(time * 1000)
            made.duration = round(length * 1000)
            made.stream = self._texts[index]
            yield made, time


def _codec(stream: Any) -> str:
    context = stream.codec_context
    return "" if context is None else str(context.codec.canonical_name)


def _sound(result: OutputContainer, stream: Any) -> Any:
    """A stream of the result's own kind of sound, None where it has none."""
    name = {"aac": "aac", "opus": "libopus", "vorbis": "libopus"}.get(result.default_audio_codec)
    if name is None:
        name = result.default_audio_codec if result.default_audio_codec != "none" else None
    if name is None:
        return None
    context = stream.codec_context
    rate = 48000 if name == "libopus" else context.sample_rate
    return result.add_stream(name, rate=rate, layout=context.layout.name)


def _language(metadata: dict[str, str]) -> dict[str, str]:
    return {key: text for key, text in metadata.items() if key.lower() in ("language", "title", "handler_name")}
