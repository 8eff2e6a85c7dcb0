"""Augmentation of training photos: part and flip, by one sequence of random numbers; each other by one of its own."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from colorize.color import rgb_to_grey
from colorize.data.images import BoxChooser, center_box, image_rng, random_box


class Noise(NamedTuple):
    """Gaussian noise, independent from pixel to pixel."""

    std: float  # standard deviation, in grey units of [0, 1]
    seed: int

    def __call__(self, size_px: int) -> Tensor:
        """Return ``(1, size_px, size_px)`` float16, to be added to a grey in [0, 1]."""
        generator = torch.Generator().manual_seed(self.seed)
        return (self.std * torch.randn(1, size_px, size_px, generator=generator)).half()


class OldPhoto(NamedTuple):
    """The effect of an old lens, film and print on a grey: blur, then gamma, then contrast."""

    gamma: float
    contrast: float  # factor on the distances from the mean grey
    blur_px: float  # standard deviation of the blur; 0 for none

    def __call__(self, grey: Tensor) -> Tensor:
        """Age a grey of ``(1, 1, H, W)`` float32 in [0, 1]; contrast may take some values outside."""
        values = grey.numpy()  # whose sums and powers, unlike torch's, come out alike on any number of threads
        if self.blur_px:
            from scipy.ndimage import gaussian_filter  # here, since workers start faster without it

            reach = math.ceil(3 * self.blur_px)
            values = gaussian_filter(values, self.blur_px, axes=(2, 3), radius=reach, mode="mirror")
        values = values**self.gamma
        return torch.from_numpy(values.mean() + self.contrast * (values - values.mean()))


class SampledAugmentation(NamedTuple):
    """One photo's augmentation in one epoch. The default is the centre square as it is."""

    choose_box: BoxChooser = center_box
    flip: bool = False
    noise: Noise | None = None
    old_photo: OldPhoto | None = None

    def grey_change(self, rgb: Tensor) -> Tensor | None:
        """Return ``(1, 1, S, S)`` float16 to add to the grey of ``rgb``, ``(1, 3, S, S)`` uint8; ``None``: nothing."""
        noise = None if self.noise is None else self.noise(rgb.shape[-1]).unsqueeze(0)
        if self.old_photo is None:
            return noise
        grey = rgb_to_grey(rgb.float() / 255)
        change = (self.old_photo(grey) - grey).half()
        return change if noise is None else change + noise


@dataclass(frozen=True)
class Augmentation:
    """Ranges of each training photo's augmentation, as the schema explains them. Raises ValueError for a bad crop."""

    crop_scale: tuple[float, ...] = (0.5, 1.0)
    crop_ratio: tuple[float, ...] = (0.75, 1.3333)
    flip: bool = True
    noise: float = 0.0
    old_gamma: float = 0.0
    old_contrast: float = 0.0
    old_blur_px: float = 0.0

    def __post_init__(self) -> None:
        for name, given, most in (("crop_scale", self.crop_scale, 1), ("crop_ratio", self.crop_ratio, math.inf)):
            if len(given) != 2 or not 0 < given[0] <= given[1] <= most:
                raise ValueError(f"data.{name}={list(given)}: [least, most], above 0 and at most {most}")

    @property
    def modules(self) -> tuple[str, ...]:
        """Modules that worker processes need besides :mod:`colorize.data.datasets`: for blur."""
        return ("scipy.ndimage",) if self.old_blur_px else ()

    def sample(self, seed: int, epoch: int, identity: str) -> SampledAugmentation:
        rng = image_rng(seed, epoch, identity)
        flip = self.flip and rng.random() < 0.5
        choose_box = random_box(rng, self.crop_scale, self.crop_ratio)
        noise, old_photo = None, None
        if self.noise:
            rng = image_rng(seed, epoch, identity, "noise")
            noise = Noise(self.noise * rng.uniform(0, 1), rng.getrandbits(63))
        if any((self.old_gamma, self.old_contrast, self.old_blur_px)):
            rng = image_rng(seed, epoch, identity, "old_photo")
            gamma, contrast = (rng.uniform(-1, 1) for _ in range(2))
            blur_px = self.old_blur_px * rng.uniform(0, 1) * (rng.random() < 1 / 3)
            old_photo = OldPhoto(math.exp(self.old_gamma * gamma), 1 + self.old_contrast * contrast, blur_px)
        return SampledAugmentation(choose_box, flip, noise, old_photo)
