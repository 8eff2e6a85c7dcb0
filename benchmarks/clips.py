"""Drawn films whose motion is known, and how much a film's colours flicker.

A camera pans and zooms over a scene in which things move on their own, and cuts. Every pixel's colour, and where it is
in the next frame, follow from the drawing: what the measures need.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import grid_sample, max_pool2d

from colorize.data.scenes import REGIONS, Scene, draw_scene

Array = NDArray[Any]
_Place = tuple[float, float, float]
"""Where a layer's picture is seen: pixel (x, y) of the frame shows pixel (x * scale + left, y * scale + top) of it."""

DETAIL = 1.5
"""Pixels of a drawn scene behind one of the frame, at a zoom of 1."""

_THINGS = (("skin", "hair", "eye", "lips", "clothes"), ("boat",), ("trunk", "foliage"), ("wall", "roof", "door"))
_SEARCH_PX = 48


@dataclass(frozen=True)
class ClipFrame:
    """A frame of a drawn film.

    Attributes:
        rgb: ``(H, W, 3)`` uint8, sRGB-encoded: its true colours.
        flow: ``(H, W, 2)`` float32: how far right and down, in pixels, what is seen here has moved in the next frame.
        seen: ``(H, W)`` bool: whether it is seen there too, wholly: not covered, not outside, not mixed with another
            layer at an edge. Nowhere in the last frame of a shot.
        first: whether a shot begins with this frame.
    """

    rgb: Array
    flow: Array
    seen: Array
    first: bool


def draw_clip(
    seed: int, index: int, frames: int, width: int, height: int, shot_frames: int = 36, speed: float = 1.0
) -> Iterator[ClipFrame]:
    """Draws a film: always the same for the same arguments.

    Args:
        seed: of the set of films.
        index: of the film in it.
        frames: how many.
        width: of a frame in pixels.
        height: of a frame in pixels, at least 32.
        shot_frames: greatest length of a shot; the shortest has about half of that.
        speed: factor on all motion. At 1, camera and things move by up to 1 % of the width a frame each.

    Yields:
        The frames in order; memory does not grow with their number.
    """
    dice = np.random.default_rng([seed, index])
    shot = done = 0
    while done < frames:
        length = min(int(dice.integers(shot_frames // 2, shot_frames + 1)), frames - done)
        layers = [_background(seed, 1000 * index + shot, width, height)]
        layers += [_thing(seed, 1000 * index + shot, number, height) for number in range(2)]
        paths = [_camera(dice, layers[0], width, height, length, speed)]
        paths += [_path(dice, layer, width, height, length, speed) for layer in layers[1:]]
        for time in range(length):
            here, there = ([path[min(when, length - 1)] for path in paths] for when in (time, time + 1))
            yield _frame(layers, here, there, width, height, first=time == 0, last=time == length - 1)
        shot, done = shot + 1, done + length


def write_clip(path: Path, frames: int, width: int = 1280, height: int = 720, grain: float = 3.0) -> None:
    """Write a drawn film in grey, with grain of that standard deviation (of 255), as H.264."""
    rng, weights = np.random.default_rng(0), np.array((0.299, 0.587, 0.114), np.float32)
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=24, options={"preset": "fast", "crf": "20"})
        video.width, video.height, video.pix_fmt = width, height, "gray"
        for drawn in draw_clip(0, 0, frames, width, height):
            grey = drawn.rgb.astype(np.float32) @ weights
            noisy = (grey + rng.normal(0, grain, grey.shape)).clip(0, 255).round().astype(np.uint8)
            container.mux(video.encode(av.VideoFrame.from_ndarray(noisy, "gray")))
        container.mux(video.encode())


def pan_over(
    picture: Array, seed: int, frames: int, width: int, height: int, speed: float = 1.0
) -> Iterator[ClipFrame]:
    """One shot of a camera that moves over a photo, ``(H, W, 3)`` uint8, larger than a frame; else as `draw_clip`."""
    opaque = torch.full((1, *picture.shape[:2]), 1.0)
    layer = torch.cat([torch.from_numpy(picture.copy()).permute(2, 0, 1).float() / 255, opaque])
    path = _camera(np.random.default_rng(seed), layer, width, height, frames, speed)
    for time in range(frames):
        last = time == frames - 1
        yield _frame([layer], [path[time]], [path[time + (not last)]], width, height, first=time == 0, last=last)


def _background(seed: int, number: int, width: int, height: int) -> Tensor:
    return _layer(draw_scene(seed, number, math.ceil(DETAIL * 1.6 * max(width, height))), None)


def _thing(seed: int, number: int, which: int, height: int) -> Tensor:
    """A cut-out of another scene: the first, from an index that depends on the arguments, with enough of it."""
    kind = (number + which) % len(_THINGS)
    index = _with_thing(seed, 1_000_000 + 100 * number + 50 * which, kind)
    return _layer(draw_scene(seed, index, max(_SEARCH_PX, round(DETAIL * height))), _THINGS[kind])


@lru_cache(maxsize=256)
def _with_thing(seed: int, start: int, kind: int) -> int:
    shares = {}
    for index in range(start, start + 50):
        regions = draw_scene(seed, index, _SEARCH_PX).regions
        shares[index] = np.isin(regions, [REGIONS.index(name) for name in _THINGS[kind]]).mean()
        if 0.06 < shares[index] < 0.4:
            return index
    return max(shares, key=lambda index: shares[index])


def _layer(scene: Scene, things: tuple[str, ...] | None) -> Tensor:
    """A scene, or what of it shows certain things, as ``(4, H, W)``: RGB in [0, 1] and opacity."""
    rgb = torch.from_numpy(scene.rgb).permute(2, 0, 1).float() / 255
    if things is None:
        return torch.cat([rgb, torch.ones_like(rgb[:1])])
    mask = torch.from_numpy(np.isin(scene.regions, [REGIONS.index(name) for name in things])).float()[None]
    mask = 1 - max_pool2d(1 - mask, 3, stride=1, padding=1)  # the drawing's edges are mixed with what was behind
    rows, columns = mask[0].amax(1).nonzero().flatten(), mask[0].amax(0).nonzero().flatten()
    if len(rows) == 0:
        return torch.zeros(4, 8, 8)
    box = (slice(None), slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1))
    return torch.cat([rgb, mask])[box]


def _camera(dice: Any, layer: Tensor, width: int, height: int, length: int, speed: float) -> list[_Place]:
    """The camera's way over the background, which it never leaves."""
    sides = layer.shape[-1], layer.shape[-2]
    scale = DETAIL * dice.uniform(0.75, 1.05) * np.exp(dice.uniform(-0.004, 0.004) * speed * np.arange(length))
    scale = np.minimum(scale, min(sides[0] / width, sides[1] / height))
    centre = []
    for extent, side in zip((width, height), sides, strict=True):
        start, room = side / 2 + dice.uniform(-0.2, 0.2) * side, scale * extent / 2
        path = start + dice.uniform(-1, 1) * 0.01 * width * DETAIL * speed * np.arange(length)
        centre.append(np.clip(path, room, side - room) - room)
    return list(zip(scale.tolist(), centre[0].tolist(), centre[1].tolist(), strict=True))


def _path(dice: Any, layer: Tensor, width: int, height: int, length: int, speed: float) -> list[_Place]:
    """A thing's way through the frame."""
    time, scale = np.arange(length), DETAIL * dice.uniform(0.7, 1.4)
    grow = scale * np.exp(dice.uniform(-0.003, 0.003) * speed * time)
    steps = 0.01 * width * speed * dice.uniform(-1, 1, size=2)
    middle = np.array((width, height)) * dice.uniform(0.3, 0.7, size=2)
    places = []
    for moment in time:
        x, y = middle + steps * (moment - length / 2)
        size = grow[moment]
        places.append((float(size), layer.shape[-1] / 2 - float(x * size), layer.shape[-2] / 2 - float(y * size)))
    return places


def _frame(
    layers: list[Tensor], here: list[_Place], there: list[_Place], width: int, height: int, first: bool, last: bool
) -> ClipFrame:
    x, y = torch.meshgrid(torch.arange(width) + 0.5, torch.arange(height) + 0.5, indexing="xy")
    rgb, top = torch.zeros(3, height, width), torch.zeros(height, width, dtype=torch.long)
    pure = torch.ones(height, width, dtype=torch.bool)
    flow = torch.zeros(2, height, width)
    for number, (layer, place, after) in enumerate(zip(layers, here, there, strict=True)):
        *colour, alpha = _sampled(layer, place, x, y)
        rgb = rgb + alpha * (torch.stack(colour) - rgb)
        covers = alpha > 0.99
        pure &= covers | (alpha < 0.01)
        top = torch.where(covers, number, top)
        moved = [
            (axis * place[0] + place[1 + side] - after[1 + side]) / after[0] - axis for side, axis in enumerate((x, y))
        ]
        flow = torch.where(covers, torch.stack(moved), flow)
    seen = ~max_pool2d((~pure).float()[None], 3, stride=1, padding=1)[0].bool()
    new_x, new_y = x + flow[0], y + flow[1]
    seen &= (new_x > 1) & (new_x < width - 1) & (new_y > 1) & (new_y < height - 1)
    for number, (layer, after) in enumerate(zip(layers, there, strict=True)):
        if number:
            alpha = _sampled(layer, after, new_x, new_y)[3]
            seen &= torch.where(top == number, alpha > 0.99, (alpha < 0.01) | (top > number))
    pixels = (rgb.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    return ClipFrame(pixels, flow.permute(1, 2, 0).numpy(), (seen & (not last)).numpy(), first)


def _sampled(layer: Tensor, place: _Place, x: Tensor, y: Tensor) -> Tensor:
    """The layer ``(4, H, W)`` as seen at pixels (x, y); transparent beyond its edges."""
    scale, left, top = place
    height, width = layer.shape[-2:]
    grid = torch.stack(((x * scale + left) * 2 / width - 1, (y * scale + top) * 2 / height - 1), dim=-1)
    sampled = grid_sample(layer[None], grid[None], mode="bilinear", padding_mode="border", align_corners=False)[0]
    inside = (grid.abs() < 1).all(dim=-1)
    return torch.cat([sampled[:3], sampled[3:] * inside])


def colour_histograms(rgb: Tensor) -> Tensor:
    """How often each of 256 values occurs in each channel.

    Args:
        rgb: ``(B, 3, H, W)``, RGB in [0, 1].

    Returns:
        ``(B, 3, 256)`` float64 on the CPU; each channel's sums to 1.
    """
    values = (rgb.detach().cpu() * 255).round().clamp(0, 255).long().flatten(2)
    counts = torch.zeros(*values.shape[:2], 256, dtype=torch.float64)
    counts.scatter_add_(2, values, torch.ones_like(values, dtype=torch.float64))
    return counts / values.shape[2]


def colour_distribution_consistency(histograms: Tensor, shots: Tensor | None = None) -> float:
    """CDC of a film: how far its colours wander from frame to frame. A grey film has the lowest: report it beside.

    Liu et al., "Temporally consistent video colorization with deep feature propagation and self-regularization
    learning", Computational Visual Media 10, 2024: the Jensen-Shannon divergence (natural logarithm) of the histograms
    of frames t and t + step, mean over channels and frames, then over the steps 1, 2 and 4.

    Args:
        histograms: ``(T, 3, 256)``, of :func:`colour_histograms`, frame by frame.
        shots: ``(T,)``, the number of the shot that each frame is of; pairs over a cut are left out. None: one shot.

    Returns:
        From 0 to log 2; NaN where no two frames are a step apart.
    """
    means = []
    for step in (1, 2, 4):
        one, other = histograms[:-step], histograms[step:]
        if shots is not None:
            same = shots[:-step] == shots[step:]
            one, other = one[same], other[same]
        if len(one):
            middle = (one + other) / 2
            divergence = (torch.xlogy(one, one / middle) + torch.xlogy(other, other / middle)).nan_to_num(0.0) / 2
            means.append(float(divergence.sum(dim=2).mean()))
    return sum(means) / len(means) if means else math.nan


def warping_error(frame: Tensor, following: Tensor, flow: Tensor, seen: Tensor) -> Tensor:
    """How much a film's colours change along its motion: mean square over what is seen in both frames, and channels.

    Lai et al., "Learning blind video temporal consistency", ECCV 2018, with the motion given.

    Args:
        frame: ``(B, 3, H, W)``, RGB in [0, 1].
        following: the frames after them, the same.
        flow: ``(B, 2, H, W)``, how far right and down, in pixels, each pixel of `frame` has moved in `following`.
        seen: ``(B, H, W)`` bool, whether it is seen there at all.

    Returns:
        ``(B,)``; NaN where nothing is.
    """
    height, width = frame.shape[-2:]
    columns = torch.arange(width, dtype=frame.dtype, device=frame.device)
    rows = torch.arange(height, dtype=frame.dtype, device=frame.device)
    x, y = columns + flow[:, 0], rows[:, None] + flow[:, 1]
    grid = torch.stack(((2 * x + 1) / width - 1, (2 * y + 1) / height - 1), dim=-1)
    warped = grid_sample(following, grid, mode="bilinear", padding_mode="border", align_corners=False)
    square = (frame - warped).square().mean(dim=1) * seen
    return square.sum(dim=(1, 2)) / seen.sum(dim=(1, 2))
