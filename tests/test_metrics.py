"""Metrics against published figures and scikit-image, and the luma look-up on sets with a known answer."""

import math
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from skimage import color as skimage_color
from skimage.metrics import structural_similarity

from colorize.color import ciede2000, lab_to_rgb, merge_luma, rgb_to_grey, rgb_to_lab
from colorize.data.luma_lookup import LumaLookup
from colorize.metrics import (
    MeanMetrics,
    colourfulness,
    is_true_grey,
    mean_ciede2000,
    psnr,
    skill,
    skill_sums,
    ssim,
)
from colorize.runtime import distributed
from colorize.runtime.errors import UserError

# From Table 1 of Sharma, Wu & Dalal 2005: blues (1-6), a neutral colour (7-8), hues on either side of the discontinuity
# (9-16), large differences (17-19), small ones (21, 24), and near-neutral and dark ones (31-34).
SHARMA = [
    ((50.0, 2.6772, -79.7751), (50.0, 0.0, -82.7485), 2.0425),
    ((50.0, 3.1571, -77.2803), (50.0, 0.0, -82.7485), 2.8615),
    ((50.0, 2.8361, -74.0200), (50.0, 0.0, -82.7485), 3.4412),
    ((50.0, -1.3802, -84.2814), (50.0, 0.0, -82.7485), 1.0000),
    ((50.0, -0.9009, -85.5211), (50.0, 0.0, -82.7485), 1.0000),
    ((50.0, 0.0, 0.0), (50.0, -1.0, 2.0), 2.3669),
    ((50.0, -1.0, 2.0), (50.0, 0.0, 0.0), 2.3669),
    ((50.0, 2.4900, -0.0010), (50.0, -2.4900, 0.0009), 7.1792),
    ((50.0, 2.4900, -0.0010), (50.0, -2.4900, 0.0011), 7.2195),
    ((50.0, -0.0010, 2.4900), (50.0, 0.0009, -2.4900), 4.8045),
    ((50.0, -0.0010, 2.4900), (50.0, 0.0011, -2.4900), 4.7461),
    ((50.0, 2.5000, 0.0), (50.0, 0.0, -2.5000), 4.3065),
    ((50.0, 2.5000, 0.0), (73.0, 25.0, -18.0), 27.1492),
    ((50.0, 2.5000, 0.0), (61.0, -5.0, 29.0), 22.8977),
    ((50.0, 2.5000, 0.0), (56.0, -27.0, -3.0), 31.9030),
    ((50.0, 2.5000, 0.0), (50.0, 3.1736, 0.5854), 1.0000),
    ((50.0, 2.5000, 0.0), (50.0, 3.2592, 0.3350), 1.0000),
    ((60.2574, -34.0099, 36.2677), (60.4626, -34.1751, 39.4387), 1.2644),
    ((22.7233, 20.0904, -46.6940), (23.0331, 14.9730, -42.5619), 2.0373),
    ((90.8027, -2.0831, 1.4410), (91.1528, -1.6435, 0.0447), 1.4441),
    ((6.7747, -0.2908, -2.4247), (5.8714, -0.0985, -2.2286), 0.6377),
    ((2.0776, 0.0795, -1.1350), (0.9033, -0.0636, -0.5514), 0.9082),
]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_ciede2000_gives_the_published_differences(dtype: torch.dtype) -> None:
    lab1, lab2 = (
        torch.tensor([pair[side] for pair in SHARMA], dtype=dtype).T.reshape(3, 1, len(SHARMA)) for side in (0, 1)
    )
    expected = torch.tensor([pair[2] for pair in SHARMA], dtype=dtype).view(1, -1)
    torch.testing.assert_close(ciede2000(lab1, lab2), expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(ciede2000(lab2, lab1), expected, atol=1e-4, rtol=0)


def test_ciede2000_of_images_is_scikit_images() -> None:
    rgb1, rgb2 = torch.rand(2, 2, 3, 24, 32, generator=torch.Generator().manual_seed(0)).unbind()
    rgb2[0, :, :12] = rgb1[0, :, :12]
    lab1, lab2 = (skimage_color.rgb2lab(rgb.double().numpy(), channel_axis=1) for rgb in (rgb1, rgb2))
    expected = skimage_color.deltaE_ciede2000(lab1, lab2, channel_axis=1)
    per_pixel = ciede2000(torch.from_numpy(lab1), torch.from_numpy(lab2))
    assert per_pixel.shape == (2, 24, 32)
    assert np.abs(per_pixel.numpy() - expected).max() < 1e-6
    mean = mean_ciede2000(rgb1, rgb2)
    assert mean.numpy() == pytest.approx(expected.mean(axis=(1, 2)), abs=0.01)
    assert mean_ciede2000(rgb1, rgb1).tolist() == [0, 0]


def test_psnr_is_per_image_and_infinite_for_identical_ones() -> None:
    target = torch.full((3, 3, 8, 8), 0.5)
    prediction = target.clone()
    prediction[1] += 0.1
    prediction[2, 0] += 0.1  # one channel of three: a third of the error
    values = psnr(prediction, target)
    assert values[0].item() == math.inf
    assert values[1:].tolist() == pytest.approx([20, 20 + 10 * math.log10(3)], abs=1e-3)
    with pytest.raises(ValueError, match="uint8"):
        psnr(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), torch.zeros(1, 3, 8, 8))


def test_colourfulness_is_hasler_and_suesstrunks_with_signs() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 20, 30))
    for image, value in zip(pixels, colourfulness(torch.from_numpy(pixels) / 255), strict=True):
        red, green, blue = (plane.ravel() for plane in image)
        rg, yb = red - green, 0.5 * (red + green) - blue
        expected = np.hypot(rg.std(), yb.std()) + 0.3 * np.hypot(rg.mean(), yb.mean())
        assert value.item() == pytest.approx(expected, rel=1e-5)
    halves = torch.zeros(2, 3, 4, 4)
    halves[0] = 0.3  # grey
    halves[1, 0, :2], halves[1, 1, 2:] = 0.2, 0.2  # red above green: rg is 51 and -51, yb is 25.5
    assert colourfulness(halves).tolist() == pytest.approx([0, 51 + 0.3 * 25.5], abs=1e-4)


def test_ssim_is_scikit_images_with_gaussian_windows() -> None:
    first = torch.rand(2, 3, 40, 56, generator=torch.Generator().manual_seed(0))
    second = (first + 0.2 * torch.rand(2, 3, 40, 56, generator=torch.Generator().manual_seed(1))).clamp(0, 1)
    first[0, :, :, 28:] = 0.5  # flat on one side
    for one, other, value in zip(first, second, ssim(first, second), strict=True):
        expected = structural_similarity(
            255 * one.double().numpy(),
            255 * other.double().numpy(),
            data_range=255,
            channel_axis=0,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
        assert value.item() == pytest.approx(expected, abs=1e-5)
    assert ssim(first, first).tolist() == pytest.approx([1, 1], abs=1e-4)
    with pytest.raises(ValueError, match="at least 11 px"):
        ssim(first[..., :10], second[..., :10])


def test_cf_abs_takes_absolute_values_first() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 20, 30))
    for image, value in zip(pixels, colourfulness(torch.from_numpy(pixels) / 255, absolute=True), strict=True):
        red, green, blue = (plane.ravel() for plane in image)
        rg, yb = abs(red - green), abs(0.5 * (red + green) - blue)
        expected = np.hypot(rg.std(), yb.std()) + 0.3 * np.hypot(rg.mean(), yb.mean())
        assert value.item() == pytest.approx(expected, rel=1e-5)
    assert (
        colourfulness(torch.from_numpy(pixels) / 255, absolute=True) < colourfulness(torch.from_numpy(pixels) / 255)
    ).all()


def test_a_true_grey_has_no_coloured_pixel() -> None:
    photos = torch.full((3, 3, 8, 8), 100 / 255)
    photos[1, 0, 2, 2] = 102 / 255  # a codec's rounding
    photos[2, 0, 2, 2] = 103 / 255
    assert is_true_grey(photos).tolist() == [True, True, False]


def test_luma_lookup_gives_the_mean_colour_of_each_grey() -> None:
    # Both have a luma of 0.5 (bin 128 after rounding): a reddish and a bluish one, three to one.
    reddish = torch.tensor([0.5 + 0.701 * 0.2, 0.5 - 0.299 * 0.2, 0.5 - 0.299 * 0.2])
    bluish = torch.tensor([0.5 - 0.114 * 0.2, 0.5 - 0.114 * 0.2, 0.5 + 0.886 * 0.2])
    lookup = LumaLookup()
    for colour in (reddish, reddish, reddish, bluish):
        lookup.update(colour.view(1, 3, 1, 1).expand(2, 3, 4, 4))
    coloured = lookup.predict(torch.full((1, 1, 2, 2), 0.5))
    expected = (0.75 * reddish + 0.25 * bluish).view(1, 3, 1, 1).expand(1, 3, 2, 2)
    torch.testing.assert_close(coloured, expected, atol=1e-5, rtol=0)


def test_luma_lookup_interpolates_between_greys_it_has_seen() -> None:
    with pytest.raises(UserError, match="no photo"):
        LumaLookup().predict(torch.zeros(1, 1, 1, 1))
    offset = torch.tensor([0.701, -0.299, -0.299]).view(1, 3, 1, 1)
    lookup = LumaLookup()
    lookup.update(100 / 255 + 0.1 * offset)
    lookup.update(200 / 255 + 0.2 * offset)
    grey = torch.tensor([[[[90.0, 100.0, 150.0, 200.0, 210.0]]]]) / 255
    expected = grey + torch.tensor([0.1, 0.1, 0.15, 0.2, 0.2]).view(1, 1, 1, 5) * offset
    torch.testing.assert_close(lookup.predict(grey), expected, atol=1e-5, rtol=0)


def test_skill_is_blind_to_strength_and_to_whatever_follows_from_luma() -> None:
    # Bright parts are bluish and dark ones reddish, by half: each blob of a photo has a colour of its own besides.
    noise = torch.Generator().manual_seed(0)
    lab = torch.nn.functional.interpolate(
        torch.rand(24, 3, 6, 6, generator=noise), size=(48, 48), mode="bilinear", align_corners=False
    )
    light = 15 + 70 * lab[:, :1]
    tint = (0.5 - light / 100) * torch.tensor([40.0, 40.0]).view(1, 2, 1, 1)
    photos = lab_to_rgb(torch.cat([light, tint + 60 * (lab[:, 1:] - 0.5)], dim=1)).clamp(0, 1)
    trained, truth = photos[:12], photos[12:]
    grey, lookup = rgb_to_grey(truth), LumaLookup()
    lookup.update(trained)
    known = lookup.predict(grey)

    def stronger(times: float, rgb: torch.Tensor) -> torch.Tensor:
        return merge_luma(grey + times * (rgb - grey), grey)

    def found(prediction: torch.Tensor) -> float:
        return float(skill(skill_sums(prediction, truth, known).sum(dim=0)))

    assert found(known) == 0 and found(truth) == pytest.approx(1)
    sepia = {times: found(stronger(times, known)) for times in (0, 0.5, 1.5, 3)}
    assert all(abs(value) < 0.1 for value in sepia.values()), sepia
    lab_known, lab_truth = rgb_to_lab(known), rgb_to_lab(truth)
    halved = lab_to_rgb(lab_known + 0.5 * (lab_truth - lab_known))
    assert found(halved) == pytest.approx(1, abs=1e-3), "blind to strength"
    assert found(stronger(0.5, truth)) > 0.9
    assert found(lab_to_rgb(2 * lab_known - lab_truth)) == pytest.approx(-1, abs=1e-3)
    # Sums over pixels, so that a photo of more pixels counts for more: not the mean of the photos' cosines.
    mixed = torch.cat([truth[:6], stronger(3, known)[6:]])
    own, true = (rgb_to_lab(rgb)[:, 1:] - lab_known[:, 1:] for rgb in (mixed, truth))
    assert found(mixed) == pytest.approx(torch.cosine_similarity(own.flatten(), true.flatten(), dim=0).item(), abs=1e-5)


def test_means_resume_to_the_bit_with_each_ranks_own_and_with_any_number_of_ranks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    values = torch.rand(2, 12, generator=torch.Generator().manual_seed(0))
    place = threading.local()

    def on_ranks(size: int, work: Callable[[MeanMetrics, int], Any]) -> list[Any]:
        """What each rank, a thread here, returns."""
        given, all_here = [None] * size, threading.Barrier(size)

        def gathered(own: Any) -> list[Any]:
            given[place.rank] = own
            all_here.wait()
            found = list(given)
            all_here.wait()
            return found

        def run(rank: int) -> Any:
            place.rank = rank
            return work(MeanMetrics(), rank)

        monkeypatch.setattr(distributed, "gathered", gathered)
        monkeypatch.setattr(distributed, "world_size", lambda: size)
        with ThreadPoolExecutor(size) as ranks:
            return list(ranks.map(run, range(size)))

    def add(means: MeanMetrics, rank: int, steps: slice) -> None:
        for value in values[rank, steps]:
            means.add({"content": value})

    def whole(means: MeanMetrics, rank: int) -> Any:
        add(means, rank, slice(5))
        state = means.state()
        add(means, rank, slice(5, None))
        return state, means.means()

    def resumed(means: MeanMetrics, rank: int) -> Any:
        means.restore(state)
        add(means, rank, slice(5, None))
        return means.means()

    def restored(means: MeanMetrics, rank: int) -> Any:
        means.restore(state)
        return means.means()

    monkeypatch.setattr(torch.distributed, "get_rank", lambda: place.rank)
    [(state, expected), other] = on_ranks(2, whole)
    assert other == (state, expected)
    assert on_ranks(2, resumed) == [expected, expected]
    for size in (1, 3):
        assert on_ranks(size, restored) == [{"content": pytest.approx(float(values[:, :5].mean()))}] * size
    state = {"sums": {"content": torch.tensor(3.0)}, "counts": {"content": 2}}  # of 0.2.0: the mean of the ranks' sums
    assert on_ranks(2, restored) == [{"content": 1.5}] * 2
