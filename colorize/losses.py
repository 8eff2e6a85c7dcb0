"""The losses of generator and critic, as pure tensor functions: pixel, perceptual and adversarial."""

from collections.abc import Iterator, Sequence
from itertools import islice, pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.nn.utils.fusion import fuse_conv_bn_eval

from colorize.errors import UserError
from colorize.networks.convolution import Conv2d
from colorize.networks.layers import imagenet_std, init_conv, normalize_imagenet

_VGG16_BLOCKS = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))  # (channels, convolutions), a max pool after each
_BEFORE_POOLS_3_4_5 = {"vgg16": (15, 22, 29), "vgg16_bn": (22, 32, 42)}
PIXEL_LOSSES = ("mse", "l1")


class VGGFeatures(nn.Module):
    """Features of VGG-16 (Simonyan & Zisserman 2015), for a perceptual loss; never trained.

    Randomly initialised; its tensors have torchvision's names (`features.*`), up to the last layer that is needed.
    It stays in evaluation mode whatever `train()` says, and no parameter requires a gradient.

    Args:
        name: "vgg16_bn" (with batch norm) or "vgg16".
        layers: ascending indices into torchvision's `features`; by default the ReLUs before pools 3, 4 and 5.

    Raises:
        UserError: an unknown name, or layers that are not ascending indices of this network.
    """

    def __init__(self, name: str = "vgg16_bn", layers: Sequence[int] | None = None) -> None:
        super().__init__()
        if name not in _BEFORE_POOLS_3_4_5:
            raise UserError(f"unknown VGG {name!r}: one of {', '.join(_BEFORE_POOLS_3_4_5)}")
        self.name = name
        self.layers = tuple(_BEFORE_POOLS_3_4_5[name] if layers is None else layers)
        ascending = all(before < index for before, index in pairwise((-1, *self.layers)))
        layers_needed = max(self.layers, default=-1) + 1
        self.features = nn.Sequential(*islice(self._build(batch_norm=name == "vgg16_bn"), layers_needed))
        if not self.layers or not ascending or len(self.features) < layers_needed:
            raise UserError(f"layers {list(self.layers)} of {name}: give ascending indices of its `features`")
        for index, layer in enumerate(self.features):
            if isinstance(layer, nn.ReLU):
                layer.inplace = index - 1 not in self.layers  # what is handed out must not be overwritten
        self.requires_grad_(False)
        self.eval()

    @staticmethod
    def _build(batch_norm: bool) -> Iterator[nn.Module]:
        in_channels = 3
        for channels, convolutions in _VGG16_BLOCKS:
            for _ in range(convolutions):
                conv = Conv2d(in_channels, channels, 3, padding=1)
                init_conv(conv, "relu", mode="fan_out")
                yield conv
                if batch_norm:
                    yield nn.BatchNorm2d(channels)
                yield nn.ReLU()
                in_channels = channels
            yield nn.MaxPool2d(2)

    def fold_norms(self) -> "VGGFeatures":
        """Make each batch norm part of the convolution before it, once the weights are there; the same to rounding."""
        for index, layer in enumerate(self.features):
            if isinstance(layer, nn.BatchNorm2d) and index - 1 not in self.layers:
                conv = self.features[index - 1]
                assert isinstance(conv, nn.Conv2d)
                self.features[index - 1] = fuse_conv_bn_eval(conv, layer)
                self.features[index] = nn.Identity()
        return self

    def round_to(self, dtype: torch.dtype) -> None:
        """Keep the convolutions' weights in half precision, rather than have autocast round them on every pass."""
        for layer in self.features:
            if isinstance(layer, nn.Conv2d):
                layer.to(dtype)

    def train(self, mode: bool = True) -> "VGGFeatures":
        """Stay in evaluation mode."""
        return super().train(False)

    def forward(self, rgb: Tensor) -> list[Tensor]:
        """`(B, 3, H, W)` RGB in [0, 1] -> the features of `layers`, in this order."""
        x = normalize_imagenet(rgb).to(next(self.parameters()).dtype)
        features = []
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index in self.layers:
                features.append(x)
        return features


class ContentLoss(nn.Module):
    """Distance of a coloured image to the original: perceptual loss (Johnson et al. 2016) plus pixel loss.

    Args:
        vgg: the features to compare; None: pixels only.
        feature_weights: one for each layer of `vgg`.
        pixel: "mse" or "l1", on ImageNet-normalised pixels.
        pixel_weight: of the pixel loss.

    Terms with weight zero are not computed.

    Raises:
        UserError: an unknown pixel loss, a negative weight, or another number of weights than layers.
    """

    def __init__(
        self,
        vgg: VGGFeatures | None,
        feature_weights: Sequence[float] = (20.0, 70.0, 10.0),
        pixel: str = "mse",
        pixel_weight: float = 1.0,
    ) -> None:
        super().__init__()
        if pixel not in PIXEL_LOSSES:
            raise UserError(f"unknown pixel loss {pixel!r}: one of {', '.join(PIXEL_LOSSES)}")
        if vgg is not None and len(feature_weights) != len(vgg.layers):
            raise UserError(
                f"{len(feature_weights)} feature weights for {len(vgg.layers)} VGG layers: give one for each"
            )
        if min((pixel_weight, *feature_weights)) < 0:
            raise UserError(f"negative weight among pixel {pixel_weight} and features {list(feature_weights)}")
        self.vgg = vgg
        self.feature_weights = tuple(feature_weights)
        self.pixel = pixel
        self.pixel_weight = pixel_weight

    def forward(self, prediction: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Weighted terms of the loss; their sum is the loss.

        Args:
            prediction: `(B, 3, H, W)` RGB, nominally [0, 1]; the only one to receive a gradient.
            target: `(B, 3, H, W)` RGB in [0, 1].

        Returns:
            Float32 scalars: "pixel", and "feature_0", "feature_1"... by the position in `vgg.layers` (mean absolute
            differences), less those whose weight is zero: none at all where every weight is.
        """
        terms = {}
        if self.pixel_weight:
            # The mean cancels out of the difference of two normalised images.
            difference = (prediction.float() - target.detach().float()) / imagenet_std(target.float())
            distance = difference.square() if self.pixel == "mse" else difference.abs()
            terms["pixel"] = self.pixel_weight * distance.mean()
        if self.vgg is not None and any(self.feature_weights):
            with torch.no_grad():
                wanted = self.vgg(target)
            for index, (features, goal) in enumerate(zip(self.vgg(prediction), wanted, strict=True)):
                if self.feature_weights[index]:
                    terms[f"feature_{index}"] = self.feature_weights[index] * mean_absolute_difference(features, goal)
        return terms


def mean_absolute_difference(one: Tensor, other: Tensor) -> Tensor:
    """Mean of |one - other|, tensors of one shape: a float32 scalar.

    Takes (B, C, H, W); only `one` receives a gradient. In half precision the difference is rounded, and each sum over a
    map: no float32 copy of large features is made, and the mean of many sums does not show it.
    """
    distance: Tensor = _MeanAbsoluteDifference.apply(one, other)
    return distance


class _MeanAbsoluteDifference(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, one: Tensor, other: Tensor) -> Tensor:
        difference = one - other
        ctx.save_for_backward(difference)
        return difference.abs().sum(dim=(2, 3)).float().sum() / difference.numel()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        (difference,) = ctx.saved_tensors
        return difference.sgn().mul_(gradient / difference.numel()), None


def critic_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Binary cross-entropy of the critic, the mean over real and generated images: a float32 scalar, ln 2 at chance.

    Takes logits `(B,)`, positive for a real photo (Goodfellow et al. 2014).
    """
    return (_cross_entropy(real_logits, real=True) + _cross_entropy(fake_logits, real=False)) / 2


def adversarial_loss(fake_logits: Tensor) -> Tensor:
    """Non-saturating generator loss (Goodfellow et al. 2014): a float32 scalar, low where the critic is deceived.

    Takes the critic's logits `(B,)` of generated images.
    """
    return _cross_entropy(fake_logits, real=True)


def _cross_entropy(logits: Tensor, real: bool) -> Tensor:
    logits = logits.float()
    return binary_cross_entropy_with_logits(logits, torch.full_like(logits, float(real)))


def critic_accuracy(real_logits: Tensor, fake_logits: Tensor) -> tuple[Tensor, Tensor]:
    """Share of real and of generated images that the critic tells right: two float32 scalars in [0, 1].

    A logit of exactly zero counts as "generated", so that a constant critic scores 1/2 on the two together.
    """
    return (real_logits > 0).float().mean(), (fake_logits <= 0).float().mean()
