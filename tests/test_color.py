"""Colour conversions against Pillow and scikit-image, and what merge_luma promises."""

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import color as skimage_color

from colorize.color import lab_to_rgb, merge_luma, rgb_to_grey, rgb_to_lab


def random_rgb(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def test_grey_is_pillows_grey() -> None:
    pixels = (random_rgb(40, 50, 3) * 255).round().byte().numpy()
    pillow = np.asarray(Image.fromarray(pixels).convert("L")) / 255
    grey = rgb_to_grey(torch.from_numpy(pixels).permute(2, 0, 1) / 255)
    assert grey.shape == (1, 40, 50)
    # Pillow rounds to whole levels, in fixed point.
    assert np.abs(grey[0].numpy() - pillow).max() < 0.51 / 255


def test_lab_is_scikit_images_lab_and_comes_back() -> None:
    rgb = random_rgb(2, 3, 30, 20)
    lab = rgb_to_lab(rgb)
    assert lab.dtype == torch.float32
    expected = skimage_color.rgb2lab(rgb.double().numpy(), channel_axis=1)
    # Their white point differs from the matrix's own in the fifth digit.
    assert np.abs(lab.numpy() - expected).max() < 0.02
    torch.testing.assert_close(lab_to_rgb(lab), rgb, atol=2e-5, rtol=0)


def test_neutral_colours_have_no_chroma_in_lab() -> None:
    grey = torch.linspace(0, 1, 256).view(1, 1, 256).expand(3, 1, 256)
    lab = rgb_to_lab(grey)
    assert lab[1:].abs().max() < 1e-4
    assert lab[0, 0, 0].item() == pytest.approx(0, abs=1e-4) and lab[0, 0, -1].item() == pytest.approx(100, abs=1e-4)


def test_lab_stays_in_float32_under_autocast() -> None:
    rgb = random_rgb(1, 3, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(rgb_to_lab(rgb), rgb_to_lab(rgb.clone()), atol=0, rtol=0)
        assert rgb_to_lab(rgb.bfloat16()).dtype == torch.float32
        inside = rgb_to_lab(rgb)
    torch.testing.assert_close(inside, rgb_to_lab(rgb), atol=0, rtol=0)


def test_lab_outside_the_gamut_is_finite_and_outside() -> None:
    rgb = lab_to_rgb(torch.tensor([50.0, -120.0, 100.0]).view(3, 1, 1))
    assert rgb.isfinite().all() and rgb.min() < 0


def test_merge_luma_keeps_luma_and_gamut() -> None:
    rgb = random_rgb(4, 3, 40, 40) * 3 - 1  # far outside on both sides
    grey = random_rgb(4, 1, 40, 40, seed=1)
    grey[0, :, 0], grey[0, :, 1] = 0, 1
    merged = merge_luma(rgb, grey)
    assert merged.min() >= 0 and merged.max() <= 1
    torch.testing.assert_close(rgb_to_grey(merged), grey, atol=2e-6, rtol=0)


def test_merge_luma_keeps_colours_that_fit_and_the_hue_of_those_that_do_not() -> None:
    rgb = random_rgb(1, 3, 20, 20)
    torch.testing.assert_close(merge_luma(rgb, rgb_to_grey(rgb)), rgb, atol=1e-6, rtol=0)

    red = torch.tensor([1.0, 0.0, 0.0]).view(3, 1, 1)
    merged = merge_luma(red, torch.full((1, 1, 1), 0.9)).flatten()
    # The chroma of red is (0.701, -0.299, -0.299); at 0.9 there is room for 0.1 upwards, a share of 0.1 / 0.701.
    expected = torch.tensor([1.0, 0.9 - 0.299 * 0.1 / 0.701, 0.9 - 0.299 * 0.1 / 0.701])
    torch.testing.assert_close(merged, expected, atol=1e-6, rtol=0)


def test_shapes_are_checked() -> None:
    with pytest.raises(ValueError, match="3, H, W"):
        rgb_to_grey(torch.zeros(2, 1, 4, 4))
