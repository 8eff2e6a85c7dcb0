"""Films: what carrying colours along does to flicker, and what colouring a long film takes.

python benchmarks/film.py --checkpoint runs/demo/gan/checkpoints/best.ckpt --strip strip.png
python benchmarks/film.py --memory-minutes 10

Without a checkpoint, the true colours with a tint of their own in each frame stand in for a network's. Clips are drawn
(`benchmarks/clips.py`): a camera that pans and zooms, things that move on their own, cuts; with grain on the luma.
What grey scores is the luma's part of CDC and warping error, grain and motion, which no colours change.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import av
import cv2
import numpy as np
import torch
from PIL import Image

from benchmarks import common
from benchmarks.clips import (
    colour_distribution_consistency,
    colour_histograms,
    draw_clip,
    pan_over,
    warping_error,
)
from colorize.color import Plane, merge_luma
from colorize.config import PredictConfig
from colorize.inference import film
from colorize.inference.colorizer import Colorizer
from colorize.inference.torch_backend import TorchBackend
from colorize.metrics import colourfulness, mean_ciede2000
from colorize.photos.reading import Photo
from colorize.video.chroma import chroma_of, resized
from colorize.video.motion import Motion
from colorize.video.stabilize import Stabilizer

WIDTH, HEIGHT = 256, 192
REC_601 = (0.299, 0.114)


@dataclass
class Clips:
    """Frames of several clips, one after the other, with the network's colours."""

    truth: torch.Tensor  # (T, 3, H, W), at the grain's luma
    luma: torch.Tensor  # (T, 1, H, W) in [0, 1]
    flow: torch.Tensor
    seen: torch.Tensor
    first: torch.Tensor
    chroma: list[Any]  # (H, W, 2) of each frame, as the network gives it
    network_s: float


def make_clips(options: argparse.Namespace) -> Clips:
    """Draw the clips, and let the network colour them frame by frame."""
    rng, frames, lumas, chroma, seconds = np.random.default_rng(0), [], [], [], 0.0
    colorizer = Colorizer.from_checkpoint(options.checkpoint, "cpu") if options.checkpoint else None
    for drawn in _frames(options):
        grey = drawn.rgb.astype(np.float32) @ np.array((0.299, 0.587, 0.114), np.float32)
        luma = np.clip(grey + rng.normal(0, options.grain, grey.shape), 0, 255).round().astype(np.uint8)
        if colorizer is None:
            tint = cv2.resize(rng.normal(0, 0.05, (3, 4, 2)), (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
            given = chroma_of(drawn.rgb.transpose(2, 0, 1).astype(np.float32) / 255, REC_601) + tint.astype(np.float32)
        else:
            begin = time.process_time()
            made = colorizer.render([Photo(luma)], options.render_px)[0]
            seconds += time.process_time() - begin
            given = resized(chroma_of(made, REC_601), luma.shape)
        frames.append(drawn)
        lumas.append(torch.from_numpy(luma).float()[None] / 255)
        chroma.append(given)
    luma = torch.stack(lumas)
    rgb = torch.from_numpy(np.stack([frame.rgb for frame in frames])).permute(0, 3, 1, 2).float() / 255
    return Clips(
        truth=_eight_bits(merge_luma(rgb, luma)),
        luma=luma,
        flow=torch.from_numpy(np.stack([frame.flow for frame in frames])).permute(0, 3, 1, 2),
        seen=torch.from_numpy(np.stack([frame.seen for frame in frames])),
        first=torch.tensor([frame.first for frame in frames]),
        chroma=chroma,
        network_s=seconds / len(frames),
    )


def _frames(options: argparse.Namespace) -> Iterator[Any]:
    count = 20 if options.quick else 60
    if options.photos is None:
        for index in range(1 if options.quick else options.clips):
            yield from draw_clip(0, index, count, WIDTH, HEIGHT)
        return
    found = sorted(path for path in Path(options.photos).rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    pictures = (Image.open(path).convert("RGB") for path in found)
    large = (picture for picture in pictures if picture.width >= 1.2 * WIDTH and picture.height >= 1.2 * HEIGHT)
    for index, picture in enumerate(islice(large, options.clips * 2)):
        yield from pan_over(np.asarray(picture), index, count // 2, WIDTH, HEIGHT)


def carried(clips: Clips, every: int = 1) -> tuple[list[Any], float]:
    """Chroma as `stabilize=true` gives it, and the seconds of the processor it took a frame."""
    motion, stabilizer, planes, begin = Motion(), Stabilizer(), [], time.process_time()
    for number, (luma, chroma) in enumerate(
        zip((clips.luma[:, 0] * 255).round().byte().numpy(), clips.chroma, strict=True)
    ):
        link = motion.follow(luma)
        planes += stabilizer.add(luma.shape, chroma if link is None or number % every == 0 else None, link)
    planes += stabilizer.finish()
    return planes, (time.process_time() - begin) / len(planes)


def coloured(clips: Clips, chroma: list[Any]) -> torch.Tensor:
    """RGB of the clips with this chroma."""
    blue, red = torch.from_numpy(np.stack(chroma)).unbind(dim=3)
    red, blue = 1.402 * red, 1.772 * blue
    green = -(REC_601[0] * red + REC_601[1] * blue) / (1 - sum(REC_601))
    offsets = torch.stack((red, green, blue), dim=1)
    parts = [slice(start, start + 16) for start in range(0, len(offsets), 16)]
    return torch.cat([_eight_bits(merge_luma(clips.luma[part] + offsets[part], clips.luma[part])) for part in parts])


def _eight_bits(rgb: torch.Tensor) -> torch.Tensor:
    return (rgb * 255).round() / 255


def figures(clips: Clips, rgb: torch.Tensor) -> dict[str, float]:
    """What is measured of a coloured film."""
    same = [number for number in range(len(rgb) - 1) if not clips.first[number + 1]]
    errors = [
        warping_error(rgb[[n]], rgb[[n + 1]], clips.flow[[n]], clips.seen[[n]]) for n in same if clips.seen[n].any()
    ]
    return {
        "CDC (1e-3)": 1e3 * colour_distribution_consistency(colour_histograms(rgb), clips.first.cumsum(0)),
        "warping error (1e-4)": 1e4 * float(torch.cat(errors).mean()),
        "CIEDE2000": float(
            torch.cat([mean_ciede2000(*pair) for pair in zip(rgb.split(8), clips.truth.split(8), strict=True)]).mean()
        ),
        "colourfulness": float(colourfulness(rgb).mean()),
    }


def write_strip(rows: list[torch.Tensor], path: Path, start: int, count: int = 8) -> None:
    """Consecutive frames: a row for each way."""
    strip = Image.new("RGB", (count * WIDTH, len(rows) * HEIGHT))
    for row, rgb in enumerate(rows):
        for column in range(count):
            pixels = (rgb[start + column] * 255).byte().permute(1, 2, 0).numpy()
            strip.paste(Image.fromarray(pixels), (column * WIDTH, row * HEIGHT))
    strip.save(path)


def flicker_table(options: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each way to colour the clips."""
    clips = make_clips(options)
    alone = coloured(clips, clips.chroma)
    grey = clips.luma.expand(-1, 3, -1, -1)
    rows = [{"way": name, **figures(clips, rgb)} for name, rgb in (("truth", clips.truth), ("grey", grey))]
    rows.append({"way": "frame by frame", **figures(clips, alone), "network ms": 1e3 * clips.network_s})
    shown = [alone]
    for every in (1, 2, 3, 4):
        planes, seconds = carried(clips, every)
        rgb = coloured(clips, planes)
        shown.append(rgb)
        name = "stabilize=true" + (f" every={every}" if every > 1 else "")
        rows.append(
            {
                "way": name,
                **figures(clips, rgb),
                "network ms": 1e3 * clips.network_s / every,
                "carrying ms": 1e3 * seconds,
            }
        )
    if options.strip:
        write_strip([shown[0], shown[1], shown[2], clips.truth], options.strip, options.strip_start)
    return rows


def _stand_in(self: Colorizer, photos: list[Photo], *_: Any) -> list[Plane]:
    made = []
    for photo in photos:
        small = torch.from_numpy(photo.luma[::2, ::2].astype(np.float32) / 255)
        made.append((small + torch.tensor([0.2, 0.05, -0.1])[:, None, None]).numpy())
    return made


def film_memory(minutes: float) -> list[dict[str, Any]]:
    """Colour a drawn film of so many minutes with a stand-in for the network; memory held at moments of it."""
    from colorize.networks.preprocessing import Preprocessing
    from colorize.networks.unet import UNet

    unet = UNet(encoder="resnet10_half", width_factor=0.25)
    Colorizer.render = _stand_in  # type: ignore[method-assign,assignment]
    colorizer, rate = Colorizer(TorchBackend(unet, "cpu", "32-true"), Preprocessing(64)), 25
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        source, total = Path(folder) / "in.mkv", int(minutes * 60 * rate)
        _write(source, total, rate)
        marks, begin = {int(m * 60 * rate) for m in (0.2, 1, 2, 5, 10) if m < minutes} | {total}, time.perf_counter()

        def tick(done: int, _: int | None) -> None:
            if done in marks and (not rows or rows[-1]["frames"] != done):
                held = int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6
                taken = time.perf_counter() - begin
                rows.append(
                    {"frames": done, "minutes": done / rate / 60, "held MB": held, "frames per s": done / taken}
                )

        film.colour_film(colorizer, str(source), Path(folder) / "out.mp4", PredictConfig(checkpoint=str(source)), tick)
    return rows


def _write(path: Path, frames: int, rate: int) -> None:
    clip = [frame.rgb for frame in draw_clip(1, 0, 50, 160, 120)]
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=rate, options={"preset": "ultrafast"})
        video.width, video.height, video.pix_fmt = 160, 120, "yuv420p"
        sound = container.add_stream("aac", rate=16000, layout="mono")
        for number in range(frames):
            back = number % 98
            grey = clip[back if back < 50 else 98 - back].mean(axis=2).astype(np.uint8)
            frame = av.VideoFrame.from_ndarray(np.dstack([grey] * 3), "rgb24")
            frame.pts, frame.time_base = number, Fraction(1, rate)
            container.mux(video.encode(frame))
            heard = av.AudioFrame.from_ndarray(np.zeros((1, 16000 // rate), np.int16), format="s16", layout="mono")
            heard.sample_rate, heard.pts, heard.time_base = 16000, number * (16000 // rate), Fraction(1, 16000)
            container.mux(sound.encode(heard))
        container.mux(video.encode())
        container.mux(sound.encode())


def main() -> None:
    """Run from the command line."""
    parser = common.parser(__doc__)
    parser.add_argument("--checkpoint", help="whose colours flicker (default: a stand-in)")
    parser.add_argument("--render-px", type=int, help="short side of what the network is shown")
    parser.add_argument("--photos", help="folder of photos for the camera to pan over, instead of drawn clips")
    parser.add_argument("--clips", type=int, default=3, help="clips of 60 frames")
    parser.add_argument("--grain", type=float, default=3.0, help="standard deviation of the luma's grain, of 255")
    parser.add_argument("--strip", type=Path, help="picture to write: consecutive frames, a row for each way")
    parser.add_argument("--strip-start", type=int, default=4, help="its first frame")
    parser.add_argument("--memory-minutes", type=float, default=0.5, help="length of the film whose memory is measured")
    options = parser.parse_args()
    common.start(options)
    cv2.setNumThreads(torch.get_num_threads())
    rows = flicker_table(options)
    print(common.table(rows, "Flicker: frame by frame, and with colours carried along"))
    memory, peak = common.in_child(film_memory, 0.1 if options.quick else options.memory_minutes)
    print(common.table(memory, f"Memory of a film of 160 x 120 px, its network a stand-in; peak {peak:.0f} MB"))
    common.save("film", {"flicker": rows, "memory": memory, "peak_mb": peak}, options)


if __name__ == "__main__":
    main()
