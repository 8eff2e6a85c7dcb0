"""Sound and subtitles of a film's source on their way into the result: copied where it can hold them."""

import io
from collections import Counter
from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import partial
from typing import Any, cast

import av
from av.container import InputContainer, OutputContainer
from av.subtitles.subtitle import AssSubtitle, SubtitleSet

from colorize.video.probing import Film, Joins, demuxed, video_streams

_LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1", 8: "7.1"}
_AT_MOST_16_BITS = ("pcm_u8", "pcm_s8", "pcm_mulaw", "pcm_alaw", "pcm_s16le", "pcm_s16be", "pcm_u16le", "pcm_u16be")
_TEXTS = ("ass", "ssa", "subrip", "srt", "text", "mov_text", "webvtt")
_TEXT_CODECS = {"mp4": "mov_text", "mov": "mov_text", "matroska": "subrip", "webm": "webvtt"}


class Tracks:
    """All that a source has beside its frames. Each track is copied, coded anew or left out by itself.

    `film` is the source, whose joins the tracks follow, `source` and `result` are opened; streams are added to the
    result, which begins at the source's `origin` and ends at `end`, in seconds (None: with the source). `notes` are
    what could not be kept as it was, in words.
    """

    def __init__(
        self, film: Film, source: InputContainer, result: OutputContainer, origin: Fraction, end: Fraction | None
    ) -> None:
        self._film, self._source, self._origin, self._end = film, source, origin, end
        self._whole = end is None and origin == film.start
        kind = result.format.name.split(",")[0]
        self._has_edit_lists = kind in ("mp4", "mov")
        self._results: dict[int, Any] = {}
        self._coded: dict[int, _Coded] = {}
        self._texts: set[int] = set()
        self._lost: Counter[int] = Counter()
        self._kept: Counter[int] = Counter()
        others = [stream for stream in video_streams(source) if stream.index != film.stream]
        notes = [f"without its other moving pictures ({_codec(stream)}), track {stream.index}" for stream in others]
        self.notes = notes
        sound, subtitles = cast("list[Any]", source.streams.audio), cast("list[Any]", source.streams.subtitles)
        if film.retimed:
            lost = [words for words, there in (("sound", sound), ("subtitles", subtitles)) if there]
            if lost:
                notes.append(f"without its {' and '.join(lost)}: at fps={float(film.rate):g} they would not fit")
            sound = subtitles = []
        for stream in sound:
            name = _codec(stream)
            if (made := _added(result, partial(OutputContainer.add_stream_from_template, template=stream))) is not None:
                self._results[stream.index] = made
                continue
            coded = (_added(result, partial(_sound, stream, layout)) for layout in _layouts(stream))
            made = next((one for one in coded if one is not None), None)
            if made is None:
                notes.append(f"without its sound ({name or 'of unknown kind'})")
                continue
            self._results[stream.index], self._coded[stream.index] = made, _Coded(made)
            fewer = made.layout.nb_channels < stream.codec_context.layout.nb_channels
            layout = f", in {made.layout.name}" if fewer else ""
            notes.append(f"its sound ({name}) coded anew, as {made.codec_context.name}{layout}")
        for stream in subtitles:
            name, text, header = _codec(stream), _TEXT_CODECS.get(kind), b""
            if name in _TEXTS:
                stream.codec_context.open(strict=False)  # only then does it say how the text is set
                header = stream.codec_context.subtitle_header
            if (made := _added(result, partial(OutputContainer.add_stream_from_template, template=stream))) is not None:
                self._results[stream.index] = made
            elif header and text is not None:
                written: Any = result.add_stream(text)
                written.codec_context.subtitle_header = header
                written.time_base = Fraction(1, 1000)
                self._results[stream.index] = written
                self._texts.add(stream.index)
            else:
                notes.append(f"without its subtitles ({name or 'of unknown kind'})")
        for index, track in self._results.items():
            told = source.streams[index].metadata.items()
            track.metadata.update((k, text) for k, text in told if k.lower() in ("language", "title", "handler_name"))
            track.disposition = source.streams[index].disposition
        if kind == "matroska":
            for attachment in source.streams.attachments:
                if attachment.name and attachment.mimetype:
                    result.add_attachment(attachment.name, attachment.mimetype, attachment.data)
        if self._whole and not film.retimed and (chapters := source.chapters()):
            result.set_chapters(chapters)

    def packets(self) -> Iterator[tuple[int, Any, Fraction]]:
        """Yield packets in the order of the source: the source's track, the result's packet, its time in seconds."""
        if not self._results:
            return
        if not self._whole and self._origin > 0 and self._film.sure_seeks:
            self._source.seek(int(self._origin * av.time_base), backward=True)
        over: set[int] = set()
        joins = Joins(self._film.stream)
        pictures = [self._film.stream] if self._film.joins else []  # which say in what part of the file one is
        for packet in demuxed(self._source, [*pictures, *self._results]):
            index = packet.stream.index
            if packet.pts is None or packet.time_base is None:
                continue
            later = round(joins.later_s(packet, self._film.joins) / packet.time_base)
            if index == self._film.stream:
                continue
            packet.pts += later
            packet.dts = packet.pts if packet.dts is None else packet.dts + later
            time, length = packet.pts * packet.time_base, (packet.duration or 0) * packet.time_base
            if self._end is not None and time >= self._end:
                over.add(index)
                if len(over) == len(self._results):
                    break
                continue
            if index in self._texts:
                if self._whole or time + length > self._origin:
                    yield from self._tried(index, self._as_text(index, packet, time, length))
            elif time < self._origin and not self._whole:
                continue
            elif index in self._coded:
                yield from self._tried(index, self._encoded(index, packet))
            elif not packet.is_discard or self._has_edit_lists:  # else what the source has cut out would be heard
                shift = round(self._origin / packet.time_base)
                packet.pts -= shift
                packet.dts -= shift
                packet.stream = self._results[index]
                yield index, packet, time - self._origin
        for index, track in self._coded.items():
            yield from self._tried(index, self._encoded(index, None))
            yield from self._tried(index, track.finish())

    def given(self, index: int, taken: bool) -> None:
        """Take note of whether the result took a packet of a track."""
        (self._kept if taken else self._lost)[index] += 1

    def losses(self) -> Iterator[str]:
        for index in self._results:
            stream: Any = self._source.streams[index]
            what = f"{'sound' if stream.type == 'audio' else 'subtitles'} ({_codec(stream)})"
            if self._lost[index] and not self._kept[index]:
                yield f"without its {what}, which cannot be decoded or does not fit"
            elif self._lost[index]:
                yield f"without {self._lost[index]} damaged bits of its {what}"

    def _tried(self, index: int, packets: Iterator[tuple[Any, Fraction]]) -> Iterator[tuple[int, Any, Fraction]]:
        try:
            for packet, time in packets:
                yield index, packet, time
        except (av.FFmpegError, ValueError):  # of PyAV's, what does not fit together is a ValueError
            self.given(index, taken=False)

    def _encoded(self, index: int, packet: Any) -> Iterator[tuple[Any, Fraction]]:
        """Encode a packet of sound; of None, what its decoder still holds."""
        track = self._coded[index]
        for frame in cast("Any", self._source.streams[index]).decode(None) if packet is None else packet.decode():
            if frame.pts is None or frame.time_base is None:  # the last ones of some codecs: they follow on
                frame.time_base, frame.pts = track.unit, round(track.heard_s / track.unit)
            else:
                frame.pts -= round(self._origin / frame.time_base)
            track.unit, time = frame.time_base, frame.pts * frame.time_base
            track.heard_s = time + Fraction(frame.samples, frame.sample_rate)
            if self._end is None or time < self._end - self._origin:
                yield from track.encode(frame)

    def _as_text(self, index: int, packet: Any, time: Fraction, length: Fraction) -> Iterator[tuple[Any, Fraction]]:
        found = packet.stream.codec_context.decode2(packet)
        lines = [rect.ass for rect in found or () if isinstance(rect, AssSubtitle)]
        until = time + length if self._end is None else min(time + length, self._end)
        begin = max(time, self._origin) - self._origin if not self._whole else time - self._origin
        shown = until - self._origin - begin
        for line in lines:
            text = SubtitleSet.create(line, 0, round(shown * 1000), pts=round(begin * av.time_base))
            made = self._results[index].codec_context.encode_subtitle(text)
            made.time_base = Fraction(1, 1000)
            made.pts = made.dts = round(begin * 1000)
            made.duration = round(shown * 1000)
            made.stream = self._results[index]
            yield made, begin


class _Coded:
    """A track of sound that is coded anew; its source may change its kind. The last frame ended at `heard_s`."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        self.heard_s, self.unit = Fraction(0), Fraction(1, 1000)
        self._kind: tuple[str, str, int] | None = None
        self._resampler: Any = None

    def encode(self, frame: Any) -> Iterator[tuple[Any, Fraction]]:
        usual = _LAYOUTS.get(frame.layout.nb_channels)
        if "channels" in frame.layout.name and usual is not None:  # it says how many it has, and not which
            made = av.AudioFrame.from_ndarray(frame.to_ndarray(), frame.format.name, usual)
            made.sample_rate, made.pts, made.time_base = frame.sample_rate, frame.pts, frame.time_base
            frame = made
        kind = (frame.format.name, frame.layout.name, frame.sample_rate)
        if kind != self._kind:
            yield from self._resampled(None)
            context = self.stream.codec_context
            self._kind, self._resampler = kind, av.AudioResampler(context.format, context.layout, context.sample_rate)
        yield from self._resampled(frame)

    def finish(self) -> Iterator[tuple[Any, Fraction]]:
        yield from self._resampled(None)
        for packet in self.stream.encode(None):
            yield packet, packet.pts * packet.time_base

    def _resampled(self, frame: Any) -> Iterator[tuple[Any, Fraction]]:
        for made in self._resampler.resample(frame) if self._resampler is not None else ():
            for packet in self.stream.encode(made):
                yield packet, packet.pts * packet.time_base


def _added(result: OutputContainer, add: Callable[[OutputContainer], Any]) -> Any | None:
    """Return the track that `add` makes in `result`; None where a file of its kind cannot be begun with it."""
    try:
        with av.open(io.BytesIO(), "w", format=result.format.name.split(",")[0]) as trial:
            add(trial)
            trial.start_encoding()
    except (av.FFmpegError, ValueError):
        return None
    return add(result)


def _codec(stream: Any) -> str:
    context = stream.codec_context
    return "" if context is None else str(context.codec.canonical_name)


def _layouts(stream: Any) -> list[str]:
    """Return the layouts in which a track of sound may be coded anew, best first; none where it cannot be decoded."""
    context = stream.codec_context
    if context is None or not context.layout.nb_channels:
        return []
    usual = _LAYOUTS.get(context.layout.nb_channels)
    return [name for name in (context.layout.name, usual, "stereo") if name is not None and "channels" not in name]


def _sound(stream: Any, layout: str, result: OutputContainer) -> Any:
    kind, source = result.format.name.split(",")[0], _codec(stream)
    name = {"mp4": "aac", "mov": "aac", "webm": "libopus"}.get(kind)
    if name is None:  # Matroska
        name = "flac" if source.startswith("pcm_") else "aac"
    rates, rate = av.Codec(name, "w").audio_rates, stream.codec_context.sample_rate
    rate = 48000 if name == "libopus" else min(rates, key=lambda known: abs(known - rate)) if rates else rate
    made: Any = result.add_stream(name, rate=rate, layout=layout)
    if name == "flac":
        made.codec_context.format = "s16" if source in _AT_MOST_16_BITS else "s32"
    return made
