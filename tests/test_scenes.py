"""The built-in scenes: a pure function, the same at any size, whose colours follow from what is depicted."""

import random
import subprocess
import sys
from functools import cache
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from colorize.color import rgb_to_grey, rgb_to_lab
from colorize.data.images import center_box
from colorize.data.luma_lookup import LumaLookup
from colorize.data.scene_painting import HUE_CLASSES, MIN_CHROMA, MIN_SIZE_PX, REGIONS
from colorize.data.scenes import Scene, draw_scene
from colorize.data.sources import Split, list_scenes
from colorize.metrics import mean_ciede2000

SAMPLE = 140


@cache
def sample(seed: int, size_px: int = 64) -> tuple[Tensor, Tensor]:
    """RGB ``(SAMPLE, 3, H, W)`` in [0, 1] and region ids ``(SAMPLE, H, W)``."""
    scenes = [draw_scene(seed, index, size_px) for index in range(SAMPLE)]
    rgb = np.stack([scene.rgb for scene in scenes]).transpose(0, 3, 1, 2)
    return torch.from_numpy(rgb).float() / 255, torch.from_numpy(np.stack([scene.regions for scene in scenes])).long()


def digest(scenes: list[Scene]) -> str:
    return sha256(b"".join(scene.rgb.tobytes() + scene.regions.tobytes() for scene in scenes)).hexdigest()


def test_a_scene_depends_on_its_arguments_alone() -> None:
    first = digest([draw_scene(5, index, 64) for index in range(4)])
    np.random.seed(1)
    random.seed(1)
    torch.manual_seed(1)
    assert digest([draw_scene(5, index, 64) for index in reversed(range(4))][::-1]) == first
    code = (
        "from hashlib import sha256\nfrom colorize.data.scenes import draw_scene\n"
        "scenes = [draw_scene(5, index, 64) for index in range(4)]\n"
        "print(sha256(b''.join(s.rgb.tobytes() + s.regions.tobytes() for s in scenes)).hexdigest())"
    )
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == first


def test_drawing_leaves_the_global_generators_alone() -> None:
    before = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state())  # type: ignore[index]
    draw_scene(0, 0, 64)
    after = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state())  # type: ignore[index]
    assert before[:2] == after[:2] and torch.equal(before[2], after[2])


def test_seeds_and_indices_give_different_scenes() -> None:
    scenes = [draw_scene(seed, index, 48) for seed in (-1, 0, 7) for index in (0, 1, 10**12)]
    assert len({scene.rgb.tobytes() for scene in scenes}) == len(scenes)
    for scene in scenes:
        assert scene.rgb.shape == (48, 48, 3) and scene.regions.shape == (48, 48)
        assert scene.rgb.dtype == scene.regions.dtype == np.uint8 and scene.regions.max() < len(REGIONS)


def halved(rgb: NDArray[np.uint8]) -> NDArray[np.float64]:
    size_px = len(rgb) // 2
    return rgb.astype(float).reshape(size_px, 2, size_px, 2, 3).mean(axis=(1, 3))


def test_a_scene_is_the_same_picture_at_any_size() -> None:
    for index in range(12):
        small, large = draw_scene(3, index, 64), draw_scene(3, index, 128)
        other = draw_scene(3, index + 100, 128)
        error = np.abs(halved(large.rgb) - small.rgb).mean()
        assert error < 6 and error < 0.25 * np.abs(halved(other.rgb) - small.rgb).mean()
        # A pixel's centre lies between the four of the larger mask.
        agree = [(large.regions[row::2, column::2] == small.regions) for row in (0, 1) for column in (0, 1)]
        assert np.mean(np.any(agree, axis=0)) > 0.97 and np.mean(agree) > 0.9
    for size_px in (MIN_SIZE_PX, 33, 220):
        assert draw_scene(3, 0, size_px).rgb.shape == (size_px, size_px, 3)
    with pytest.raises(ValueError, match="32"):
        draw_scene(0, 0, MIN_SIZE_PX - 1)


def test_every_region_occurs_and_faces_are_small_and_large() -> None:
    _, regions = sample(1)
    share = torch.stack([(regions == number).flatten(1).float().mean(dim=1) for number in range(len(REGIONS))])
    assert {REGIONS[number] for number in range(len(REGIONS)) if share[number].max() == 0} == set()
    scenes_with = dict(zip(REGIONS, (share > 0).float().mean(dim=1).tolist(), strict=True))
    assert min(scenes_with[name] for name in ("sky", "sea", "grass", "sand", "foliage", "roof", "skin")) > 0.25
    skin = share[REGIONS.index("skin")]
    assert (skin > 0.08).sum() >= 6 and ((skin > 0) & (skin < 0.01)).sum() >= 6
    # Free colours tell nothing: they stay few. Clouds are free as well, but all of them are pale.
    free = [number for number, name in enumerate(REGIONS) if HUE_CLASSES[name] is None and name != "cloud"]
    assert share[free].sum(dim=0).mean() < 0.12


def interior(mask: Tensor) -> Tensor:
    """The pixels whose eight neighbours are of the same region; edges are mixed by the anti-aliasing."""
    return -torch.nn.functional.max_pool2d(-mask[:, None].float(), 3, stride=1, padding=1)[:, 0] > 0.5


def test_regions_have_the_hues_that_people_expect() -> None:
    rgb, regions = sample(2, 96)
    _, a, b = rgb_to_lab(rgb).unbind(dim=1)
    hue, chroma = torch.rad2deg(torch.atan2(b, a)), torch.hypot(a, b)
    for number, name in enumerate(REGIONS):
        if (limits := HUE_CLASSES[name]) is None:
            continue
        inside = interior(regions == number)
        counted = inside & (chroma >= MIN_CHROMA)
        right = (hue[counted] - limits[0]) % 360 <= limits[1] - limits[0]
        assert len(right) > 50 and right.float().mean() > 0.95, name
        if name != "hair":  # black and grey hair has no hue
            assert counted.sum() > 0.85 * inside.sum(), name


def test_grey_alone_does_not_give_the_colours_away() -> None:
    (rgb, regions), (new_rgb, new_regions) = sample(1), sample(4)
    grey = rgb_to_grey(new_rgb)
    everywhere, by_region = LumaLookup(), torch.zeros_like(new_rgb)
    everywhere.update(rgb)
    for number in range(len(REGIONS)):  # the oracle: the mean colour of each grey within the region
        lookup, here = LumaLookup(), new_regions == number
        lookup.update(rgb.movedim(1, -1)[regions == number].T[None, :, :, None])
        by_region.movedim(1, -1)[here] = lookup.predict(grey[:, 0][here][None, None, :, None])[0, :, :, 0].T
    error = float(mean_ciede2000(everywhere.predict(grey), new_rgb).mean())
    oracle_error = float(mean_ciede2000(by_region, new_rgb).mean())
    assert error > 14 and oracle_error < 6 and error > 2.5 * oracle_error


def test_sea_and_grass_differ_in_grain_but_hardly_in_grey_and_place() -> None:
    rgb, regions = sample(1)
    grey = rgb_to_grey(rgb)[:, 0]
    rows = torch.arange(64.0)[None, :, None].expand_as(grey)
    grain, quartiles, heights = {}, {}, {}
    for name in ("sea", "grass"):
        mask = regions == REGIONS.index(name)
        inside = interior(mask)[:, :-1, :-1]
        across, down = grey.diff(dim=2)[:, :-1].abs()[inside], grey.diff(dim=1)[:, :, :-1].abs()[inside]
        grain[name] = float(across.mean() / down.mean())
        quartiles[name] = grey[mask].quantile(torch.tensor([0.25, 0.75])).tolist()
        heights[name] = float(rows[mask].mean())
    assert grain["sea"] < 0.7 and grain["grass"] > 1.4  # waves lie, blades stand
    lows, highs = zip(*quartiles.values(), strict=True)
    assert (min(highs) - max(lows)) / (max(highs) - min(lows)) > 0.5
    assert abs(heights["sea"] - heights["grass"]) < 8


def test_scenes_take_the_place_of_photos() -> None:
    scenes = list_scenes(200, Split(val_fraction=0.1, seed=3))
    assert len(scenes.train) + len(scenes.val) == 200
    assert not set(scenes.train) & set(scenes.val)
    name = scenes.train[5]
    whole = scenes.square(name, 64, center_box)
    assert np.array_equal(np.asarray(whole), draw_scene(3, int(name.split("-")[1]), 64).rgb)
    # A part is drawn at its own size, and shows what that part of the whole shows.
    part = scenes.square(name, 64, lambda width, height: (width / 2, 0, width, height / 2))
    expected = whole.resize((64, 64), Image.Resampling.BICUBIC, box=(32, 0, 64, 32))
    assert np.abs(np.asarray(part, float) - np.asarray(expected, float)).mean() < 12
