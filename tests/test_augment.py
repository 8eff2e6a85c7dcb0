"""Augmentation: what is drawn for a photo, and that age and noise are on the grey alone."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torchvision.transforms.v2.functional import gaussian_blur

from colorize.color import rgb_to_grey
from colorize.data.augment import Augmentation, Noise, OldPhoto
from colorize.data.datasets import AugmentedDataset, Batch, collate, to_floats
from colorize.data.from_config import make_augmentation
from colorize.data.sources import Split, list_scenes
from colorize.runtime.schema import BadOption

EVERYTHING: dict[str, Any] = {
    "noise": 0.2,
    "old_gamma": 0.35,
    "old_contrast": 0.3,
    "old_blur_px": 0.7,
}


def test_options_draw_from_sequences_of_their_own() -> None:
    # As they were drawn before there were any options.
    boxes = {
        0: (False, (19.763160901661397, 19.3946850624798, 242.0407670758739, 197.66149135743126)),
        3: (True, (43.68648164176742, 0.897702774690682, 245.7922970338245, 195.52103141540715)),
    }
    for epoch, (flip, box) in boxes.items():
        plain = Augmentation().sample(7, epoch, "a.jpg")
        drawn = (plain.flip, plain.choose_box(300, 200))
        assert drawn == (flip, pytest.approx(box, rel=1e-12))
        assert (plain.noise, plain.old_photo) == (None, None)
        full = Augmentation(**EVERYTHING).sample(7, epoch, "a.jpg")
        assert (full.flip, full.choose_box(300, 200)) == drawn
        for name, value in EVERYTHING.items():
            alone = Augmentation(**{name: value}).sample(7, epoch, "a.jpg")
            of_full = {"noise": (full.noise, alone.noise)}
            if name.startswith("old_"):
                of_full[name] = tuple(getattr(one.old_photo, name.removeprefix("old_")) for one in (full, alone))
            one, other = of_full[name]
            assert one == other and (one or name == "old_blur_px")
    many = [Augmentation(**EVERYTHING).sample(0, epoch, "a.jpg") for epoch in range(200)]
    for values, least, most in (
        ([one.noise.std for one in many if one.noise], 0, 0.2),
        ([math.log(one.old_photo.gamma) for one in many if one.old_photo], -0.35, 0.35),
        ([one.old_photo.contrast for one in many if one.old_photo], 0.7, 1.3),
        ([one.old_photo.blur_px for one in many if one.old_photo], 0, 0.7),
    ):
        margin = 0.1 * (most - least)
        assert least <= min(values) < least + margin and most - margin < max(values) <= most

    assert 50 < sum(one.old_photo.blur_px > 0 for one in many if one.old_photo) < 84, "a third"


def shown(**options: float) -> Batch:
    """Eight scenes as a training step gets them."""
    scenes = list_scenes(8, Split(val_fraction=0.2, seed=1))
    sample = partial(Augmentation(**options).sample, 0, 0)
    dataset = AugmentedDataset(scenes, scenes.train, 48, sample=sample, max_tries=1)
    return to_floats(collate([dataset[index] for index in range(len(dataset))]), "cpu")


def test_age_and_noise_are_on_the_grey_alone() -> None:
    plain, noisy = shown(), shown(noise=0.3)
    assert noisy.grey.dtype == torch.float32 and noisy.grey.min() >= 0 and noisy.grey.max() <= 1
    spread = (noisy.grey - plain.grey).std(dim=(1, 2, 3))
    assert spread.max() < 0.31 and spread.max() > 2 * spread.min() > 0, "drawn for each photo"
    sample = Noise(0.1, seed=3)(200).float()
    assert sample.std().item() == pytest.approx(0.1, rel=0.02) and abs(sample.mean().item()) < 0.002
    assert not torch.equal(sample, Noise(0.1, seed=4)(200).float())
    aged, both = shown(old_gamma=0.35, old_contrast=0.3), shown(old_gamma=0.35, old_contrast=0.3, noise=0.3)
    for batch, clean in ((plain, plain), (noisy, plain), (aged, plain), (both, plain)):
        assert torch.equal(batch.rgb, clean.rgb) and torch.equal(batch.luma, rgb_to_grey(clean.rgb))
        assert (batch.grey is batch.luma) == (batch is plain)
        assert batch.grey.min() >= 0 and batch.grey.max() <= 1
    assert ((aged.grey - aged.luma).abs().mean(dim=(1, 2, 3)) > 0.005).all()
    rgb = (plain.rgb[:1] * 255).round().to(torch.uint8)
    old, noise, joint = (
        Augmentation(**options).sample(0, 0, "a.jpg").grey_change(rgb)
        for options in ({"old_gamma": 0.35}, {"noise": 0.3}, {"old_gamma": 0.35, "noise": 0.3})
    )
    assert old is not None and noise is not None and joint is not None
    torch.testing.assert_close(joint, old + noise)


def test_an_old_photo_is_blurred_then_its_gamma_and_contrast_change() -> None:
    grey = torch.rand(1, 1, 33, 40, generator=torch.Generator().manual_seed(0))
    expected = gaussian_blur(grey, [7, 7], [0.9, 0.9]) ** 1.3
    expected = expected.mean() + 0.8 * (expected - expected.mean())
    torch.testing.assert_close(OldPhoto(1.3, 0.8, 0.9)(grey), expected, atol=1e-5, rtol=0)
    assert (OldPhoto(1, 1, 0)(grey) - grey).abs().max() < 1e-6
    assert (OldPhoto(1, 0.5, 5)(grey) - grey.mean()).abs().max() < 0.1, "wide blurs too"


def test_values_out_of_range_are_bad_options(configure: Callable[..., Any]) -> None:
    for value, named in (
        ({"crop_scale": (0.9, 0.5)}, r"data\.crop_scale=\[0\.9, 0\.5\]: \[least, most\], above 0 and at most 1"),
        ({"crop_ratio": (0, 1)}, r"data\.crop_ratio=\[0, 1\]: \[least, most\], above 0"),
    ):
        with pytest.raises(ValueError, match=named):
            Augmentation(**value)
    overrides = ("data.noise=0.1", "data.flip=false")
    aged = ("data.old_photo.gamma=0.3", "data.old_photo.contrast=0.2", "data.old_photo.blur_px=0.5")
    data = configure("train", "phase=pretrain_gen", *overrides, *aged).data
    assert make_augmentation(data) == Augmentation(
        flip=False, noise=0.1, old_gamma=0.3, old_contrast=0.2, old_blur_px=0.5
    )
    for wrong in ("old_photo.gamma=-0.1", "noise=25", "noise=nan", "old_photo.blur_px=9"):
        with pytest.raises(BadOption, match=rf"data\.{wrong}.* is .*: give 0 to"):
            configure("train", "phase=pretrain_gen", f"data.{wrong}")
    data.crop_ratio = [1.0]
    with pytest.raises(BadOption, match=r"data\.crop_ratio=\[1\.0\]: \[least, most\]"):
        make_augmentation(data)
