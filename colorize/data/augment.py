"""Augmentation of training photos: which part, mirrored, turned, in which light, and the noise on their grey.

Everything that is drawn is a function of (seed, epoch, identity). Crop and flip share one sequence of random numbers;
rotation, colour and noise have one each, so that switching one on changes nothing that another draws.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from colorize.data.images import center_box, image_rng, random_box
from colorize.data.tilt import Box


@dataclass(frozen=True)
class Jitter:
    """Factors on a photo's brightness, contrast and saturation, and the turn of its hues (1: once around)."""

    brightness: float
    contrast: float
    saturation: float
    hue: float

    def __call__(self, rgb: Tensor) -> Tensor:
        """Changes the light and the colours, in the order of the fields.

        Args:
            rgb: ``(3, H, W)`` uint8.

        Returns:
            The same, rounded only once.
        """
        # Here, since workers start in half the time without it; see `Augmentation.modules`.
        from torchvision.transforms.v2 import functional

        floats = rgb.float() / 255
        floats = functional.adjust_brightness(floats, self.brightness)
        floats = functional.adjust_contrast(floats, self.contrast)
        floats = functional.adjust_saturation(floats, self.saturation)
        if self.hue:  # the detour over HSV is as dear as all the rest
            floats = functional.adjust_hue(floats, self.hue)
        return (floats * 255).round().to(torch.uint8)


@dataclass(frozen=True)
class Noise:
    """Gaussian noise, independent from pixel to pixel."""

    std: float
    """Standard deviation, in grey units of [0, 1]."""
    seed: int

    def __call__(self, size_px: int) -> Tensor:
        """``(1, size_px, size_px)`` float16, to be added to a grey in [0, 1]."""
        generator = torch.Generator().manual_seed(self.seed)
        return (self.std * torch.randn(1, size_px, size_px, generator=generator)).half()


@dataclass(frozen=True)
class Treatment:
    """How one photo is shown in one epoch. The default is the centre square as it is."""

    choose_box: Callable[[int, int], Box] = center_box
    flip: bool = False
    angle_deg: float = 0.0
    jitter: Jitter | None = None
    noise: Noise | None = None


@dataclass(frozen=True)
class Augmentation:
    """What may happen to a training photo; each of the last six is off at 0.

    Raises:
        ValueError: a value out of its range.
    """

    crop_scale: tuple[float, float] = (0.5, 1.0)
    """Least and greatest share of the area that a crop takes."""
    crop_ratio: tuple[float, float] = (0.75, 1.3333)
    """Least and greatest width over height of a crop."""
    flip: bool = True
    """Whether every other photo is mirrored, at random."""
    rotation_deg: float = 0.0
    """Greatest turn either way. The crop is turned within the photo; see :func:`colorize.data.tilt.tilt`."""
    brightness: float = 0.0
    """Colours are multiplied by a factor of up to 1 ± this."""
    contrast: float = 0.0
    """Distances from the photo's mean grey are."""
    saturation: float = 0.0
    """Distances of each colour from its own grey are."""
    hue: float = 0.0
    """Hues turn by up to this share of the colour circle either way."""
    noise: float = 0.0
    """Greatest standard deviation of the noise on the grey, in grey units of [0, 1]. The target never gets any."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        low, high = self.crop_scale
        if not 0 < low <= high <= 1:
            raise ValueError(f"data.crop_scale=[{low}, {high}] must be two rising shares, above 0 and at most 1")
        low, high = self.crop_ratio
        if not 0 < low <= high:
            raise ValueError(f"data.crop_ratio=[{low}, {high}] must be two rising ratios above 0")
        limits = {
            "rotation_deg": (self.rotation_deg, 180.0),
            "jitter.brightness": (self.brightness, 1.0),
            "jitter.contrast": (self.contrast, 1.0),
            "jitter.saturation": (self.saturation, 1.0),
            "jitter.hue": (self.hue, 0.5),
            "noise": (self.noise, 1.0),
        }
        for name, (value, most) in limits.items():
            if not 0 <= value <= most:
                raise ValueError(f"data.{name}={value} must be from 0 to {most:g}")

    @property
    def jitters(self) -> bool:
        """Whether colours change."""
        return any((self.brightness, self.contrast, self.saturation, self.hue))

    @property
    def modules(self) -> tuple[str, ...]:
        """What worker processes need besides :mod:`colorize.data.datasets`."""
        return ("torchvision.transforms.v2.functional",) if self.jitters else ()

    def treatment(self, seed: int, epoch: int, identity: str) -> Treatment:
        """What happens to this photo in this epoch."""
        rng = image_rng(seed, epoch, identity)
        flip = self.flip and rng.random() < 0.5
        choose_box = random_box(rng, self.crop_scale, self.crop_ratio)
        angle_deg, jitter, noise = 0.0, None, None
        if self.rotation_deg:
            angle_deg = self.rotation_deg * image_rng(seed, epoch, identity, "rotation").uniform(-1, 1)
        if self.jitters:
            rng = image_rng(seed, epoch, identity, "jitter")
            brightness, contrast, saturation, hue = (rng.uniform(-1, 1) for _ in range(4))
            jitter = Jitter(
                brightness=1 + self.brightness * brightness,
                contrast=1 + self.contrast * contrast,
                saturation=1 + self.saturation * saturation,
                hue=self.hue * hue,
            )
        if self.noise:
            rng = image_rng(seed, epoch, identity, "noise")
            noise = Noise(self.noise * rng.uniform(0, 1), rng.getrandbits(63))
        return Treatment(choose_box, flip, angle_deg, jitter, noise)
