"""Colours that stay: less flicker, nothing across cuts and edges; the drawn films and the metrics that show it."""

from itertools import islice

import cv2
import numpy as np
import pytest
import torch

from benchmarks import clips
from benchmarks.clips import ClipFrame, draw_clip
from colorize import color, metrics
from colorize.video.chroma import chroma_of
from colorize.video.motion import Motion
from colorize.video.stabilize import Stabilizer
from tests.filming import grey_frames


@pytest.fixture(scope="module")
def clip() -> list[ClipFrame]:
    """A drawn film with cuts."""
    return list(draw_clip(3, 1, 18, 112, 80, shot_frames=14, speed=1.5))


def flickering(clip: list[ClipFrame]) -> tuple[torch.Tensor, torch.Tensor]:
    """Its true colours, and the same but for a tint of its own in each frame, at the same luma."""
    rgb = torch.from_numpy(np.stack([frame.rgb for frame in clip])).permute(0, 3, 1, 2).float() / 255
    noise = 0.1 * torch.randn(len(clip), 3, 3, 4, generator=torch.Generator().manual_seed(0))
    tint = torch.nn.functional.interpolate(noise, rgb.shape[-2:], mode="bicubic")
    return rgb, color.merge_luma(rgb + tint, color.rgb_to_grey(rgb))


def stabilized(clip: list[ClipFrame], given: torch.Tensor, every: int = 1) -> torch.Tensor:
    motion, stabilizer, planes = Motion(), Stabilizer(), []
    grey = color.rgb_to_grey(given)
    for number, rgb in enumerate(given):
        luma = (grey[number, 0] * 255).round().byte().numpy()
        link = motion.follow(luma)
        assert (link is None) == clip[number].first
        chroma = chroma_of(rgb.numpy(), (0.299, 0.114)) if link is None or number % every == 0 else None
        planes += stabilizer.add(luma.shape, chroma, link)
    planes += stabilizer.finish()
    blue, red = torch.from_numpy(np.stack(planes)).unbind(dim=3)
    red, blue = 1.402 * red, 1.772 * blue
    green = -(0.299 * red + 0.114 * blue) / 0.587
    return color.merge_luma(grey + torch.stack((red, green, blue), dim=1), grey)


def test_carried_colours_flicker_less_and_are_nearer_to_the_truth(clip: list[ClipFrame]) -> None:
    truth, given = flickering(clip)
    shots = torch.tensor([frame.first for frame in clip]).cumsum(0)
    assert shots[-1] > 0
    same = [number for number in range(len(clip) - 1) if not clip[number + 1].first]
    flow = torch.from_numpy(np.stack([frame.flow for frame in clip])).permute(0, 3, 1, 2)[same]
    seen = torch.from_numpy(np.stack([frame.seen for frame in clip]))[same]

    def figures(rgb: torch.Tensor) -> tuple[float, float, float]:
        error = clips.warping_error(rgb[same], rgb[[number + 1 for number in same]], flow, seen)
        cdc = clips.colour_distribution_consistency(clips.colour_histograms(rgb), shots)
        return cdc, float(error.mean()), float(metrics.mean_ciede2000(rgb, truth).mean())

    before, floor = figures(given), figures(truth)
    for every in (1, 2):
        after = figures(stabilized(clip, given, every))
        assert after[0] - floor[0] < (before[0] - floor[0]) / 2
        assert after[1] - floor[1] < (before[1] - floor[1]) / 4
        assert after[2] < before[2]


def test_no_colour_crosses_a_cut_or_the_edge_of_what_moves() -> None:
    """A red square moves over green; after a cut all is blue. What is two pixels from an edge keeps its own colour."""
    rng = np.random.default_rng(0)
    ground, thing = rng.integers(60, 120, (48, 64)), rng.integers(140, 220, (20, 20))
    ground, thing = (texture.repeat(2, 0).repeat(2, 1) for texture in (ground, thing))
    motion, stabilizer, planes, wanted = Motion(), Stabilizer(), [], []
    for number in range(20):
        luma, chroma = ground.copy(), np.zeros((96, 128, 2), np.float32)
        chroma[:] = (-0.2, -0.2) if number < 12 else (0.3, 0)
        if number < 12:
            x = 10 + 4 * number
            luma[30:70, x : x + 40], chroma[30:70, x : x + 40] = thing, (0, 0.3)
        else:
            luma = 255 - luma[::-1, ::-1]
        wanted.append(chroma)
        planes += stabilizer.add(luma.shape, chroma, motion.follow(luma.astype(np.uint8)))
    planes += stabilizer.finish()
    for plane, own in zip(planes, wanted, strict=True):
        off = np.abs(plane - own).max(axis=2)
        edge = cv2.morphologyEx(own[..., 1], cv2.MORPH_GRADIENT, np.ones((5, 5), np.uint8)) > 0
        assert (off > 0.05)[~edge].mean() < 0.001 and (off > 0.05).mean() < 0.015
    assert np.abs(planes[12] - wanted[12]).max() < 1e-5


def test_black_between_two_scenes_parts_them() -> None:
    bright = grey_frames(1)[0]
    motion = Motion()
    dim = (bright // 20).astype(np.uint8)  # a fade: what is left to see of the scene has no contrast
    assert [motion.follow(luma) is None for luma in (bright, bright, dim, dim, bright, bright)] == [True, False] + [
        True
    ] * 3 + [False]


# ------------------------------------------------------------------------------------------------------- clips, metrics


def test_a_clip_shows_what_its_flow_says(clip: list[ClipFrame]) -> None:
    assert [frame.first for frame in clip].count(True) > 1 and clip[0].first
    rgb = torch.from_numpy(np.stack([frame.rgb for frame in clip])).permute(0, 3, 1, 2).float() / 255
    flow = torch.from_numpy(np.stack([frame.flow for frame in clip])).permute(0, 3, 1, 2)
    seen = torch.from_numpy(np.stack([frame.seen for frame in clip]))
    for number, frame in enumerate(clip[:-1]):
        if clip[number + 1].first:
            assert not frame.seen.any()
            continue
        pair = (rgb[[number]], rgb[[number + 1]])
        right = clips.warping_error(*pair, flow[[number]], seen[[number]])
        wrong = clips.warping_error(*pair, -flow[[number]], seen[[number]])
        assert right < 0.001 and right < wrong / 3 and frame.seen.mean() > 0.6
    again = list(islice(draw_clip(3, 1, 18, 112, 80, shot_frames=14, speed=1.5), 2))
    assert all(np.array_equal(one.rgb, other.rgb) for one, other in zip(clip[:2], again, strict=True))


def test_cdc_and_warping_error_agree_with_other_computations() -> None:
    from scipy.spatial.distance import jensenshannon

    film = (
        torch.rand(7, 3, 9, 11, generator=torch.Generator().manual_seed(0)) ** torch.arange(1, 8)[:, None, None, None]
    )
    values = (film * 255).round().numpy().astype(int)
    counts = [[np.bincount(channel.ravel(), minlength=256) for channel in frame] for frame in values]
    shots = torch.tensor([0, 0, 0, 0, 0, 1, 1])
    steps = []
    for step in (1, 2, 4):
        pairs = [(t, t + step) for t in range(7 - step) if shots[t] == shots[t + step]]
        steps.append(np.mean([jensenshannon(counts[a][c], counts[b][c]) ** 2 for a, b in pairs for c in range(3)]))
    assert clips.colour_distribution_consistency(clips.colour_histograms(film), shots) == pytest.approx(np.mean(steps))

    one = torch.rand(1, 3, 6, 8, generator=torch.Generator().manual_seed(1))
    flow = torch.zeros(1, 2, 6, 8)
    flow[:, 0], flow[:, 1] = 2, -1
    moved = torch.roll(one, (-1, 2), dims=(2, 3))
    seen = torch.zeros(1, 6, 8, dtype=torch.bool)
    seen[:, 1:, :6] = True
    assert clips.warping_error(one, moved, flow, seen) == pytest.approx(0, abs=1e-12)
    moved[0, :, 0, 2] += 0.5  # where (1, 0) has gone
    assert float(clips.warping_error(one, moved, flow, seen)) == pytest.approx(0.25 / 30, rel=1e-4)
