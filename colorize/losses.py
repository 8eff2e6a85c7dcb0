"""The losses of generator and critic: pixel, perceptual, chroma, distribution and adversarial."""

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, binary_cross_entropy_with_logits, l1_loss, relu, smooth_l1_loss

from colorize.color import rgb_to_lab
from colorize.config.sections import LossConfig
from colorize.networks.heads import MOST_AB, Prediction
from colorize.networks.layers import imagenet_std
from colorize.networks.vgg import VGGFeatures
from colorize.runtime.errors import UserError


class ContentLoss(nn.Module):
    """Distance of a coloured image to the original: perceptual loss (Johnson et al. 2016) plus pixel loss.

    `weights.feature_weights` are of `vgg`'s layers (None: pixels only), else a UserError; pixels are normalised.
    """

    def __init__(self, vgg: VGGFeatures | None, weights: LossConfig) -> None:
        super().__init__()
        features = len(weights.feature_weights)
        if vgg is not None and features != len(vgg.layers):
            raise UserError(f"{features} feature weights for {len(vgg.layers)} VGG layers: give each one")
        self.vgg, self.weights = vgg, weights

    def forward(self, prediction: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Return the weighted terms, whose sum is the loss: float32 scalars; "pixel", "feature_0", "feature_1"….

        Those with weight zero are left out. Both images are `(B, 3, H, W)` RGB; only `prediction` receives a gradient.
        """
        terms, weights = {}, self.weights
        if weights.pixel_weight:
            # The mean cancels out of the difference of two normalised images.
            difference = (prediction.float() - target.detach().float()) / imagenet_std(target.float())
            distance = difference.square() if weights.pixel == "mse" else difference.abs()
            terms["pixel"] = weights.pixel_weight * distance.mean()
        if self.vgg is not None and any(weights.feature_weights):
            with torch.no_grad():
                wanted = self.vgg(target)
            for index, (features, goal) in enumerate(zip(self.vgg(prediction), wanted, strict=True)):
                if weight := weights.feature_weights[index]:
                    terms[f"feature_{index}"] = weight * l1_loss(features.float(), goal.float())
        return terms


class ChromaLoss(nn.Module):
    """Distance of a predicted chroma, or distribution of chroma, to the original's, at the network's own resolution.

    The distribution is compared by cross-entropy with soft targets, each colour shared by the cells nearest to it
    (Zhang et al. 2016, "Colorful image colorization"). A cell's weight is 1 / ((1 - rebalance) prior + rebalance /
    cells), 1 on average over pixels: at 1 every pixel counts alike, at 0 every cell does; theirs is 0.5. Chroma is
    compared by the smooth L1 distance of Lab's a and b, in units of 110 (as CT2, Weng et al. 2022).

    `centres` are `(cells, 2)`, see `BinsHead`; None of networks without a distribution.
    """

    SIGMA, NEIGHBOURS = 5.0, 5
    nearest: Tensor
    shares: Tensor

    def __init__(self, weights: LossConfig, centres: Tensor | None = None) -> None:
        super().__init__()
        self.weights = weights
        if centres is not None:  # a table of all whole-numbered colours: looking up beats measuring distances
            near, cells = torch.cdist(_whole_colours(), centres).topk(self.NEIGHBOURS, largest=False)
            self.register_buffer("nearest", cells)
            self.register_buffer("shares", torch.softmax(-near.square() / (2 * self.SIGMA**2), dim=1))

    def forward(self, prediction: Prediction, target: Tensor, prior: Tensor | None = None) -> dict[str, Tensor]:
        """Return the weighted terms that apply, of RGB `(B, 3, H, W)` in [0, 1] and its prior: float32 scalars."""
        terms = {}
        if prediction.logits is not None and prior is not None and self.weights.distribution_weight:
            cross_entropy = self._cross_entropy(prediction.logits, _chroma_at(prediction.logits, target), prior)
            terms["distribution"] = self.weights.distribution_weight * cross_entropy
        if prediction.ab is not None and self.weights.chroma_weight:
            distance = smooth_l1_loss(prediction.ab, _chroma_at(prediction.ab, target)) / MOST_AB
            terms["chroma"] = self.weights.chroma_weight * distance
        return terms

    def _cross_entropy(self, logits: Tensor, ab: Tensor, prior: Tensor) -> Tensor:
        index = _whole_colour(ab)
        cells, shares = self.nearest[index], self.shares[index]
        # Rows of cells, which lie together in channels_last.
        likelihoods = torch.log_softmax(logits.permute(0, 2, 3, 1), dim=-1).gather(-1, cells)
        rebalance = self.weights.rebalance
        weights = 1 / ((1 - rebalance) * prior + rebalance / len(prior))
        weights = weights / (weights * prior).sum()
        return -(weights[cells[..., 0]] * (shares * likelihoods).sum(dim=-1)).mean()


def _chroma_at(like: Tensor, rgb: Tensor) -> Tensor:
    """Lab's a and b of RGB images at the resolution of `like`: `(B, 2, h, w)`."""
    with torch.no_grad():
        return rgb_to_lab(adaptive_avg_pool2d(rgb.float(), (like.shape[-2], like.shape[-1])))[:, 1:]


def _whole_colours() -> Tensor:
    """Return all whole-numbered a and b, `(colours, 2)`."""
    values = torch.arange(-MOST_AB, MOST_AB + 1.0)
    return torch.cartesian_prod(values, values)


def _whole_colour(ab: Tensor) -> Tensor:
    """`(B, 2, h, w)` Lab chroma -> `(B, h, w)`: the number in `_whole_colours` of the nearest."""
    places = ab.round().clamp(-MOST_AB, MOST_AB).long() + MOST_AB
    return places[:, 0] * (2 * MOST_AB + 1) + places[:, 1]


def count_cells(rgb: Tensor, centres: Tensor) -> Tensor:
    """Count the pixels of RGB images `(B, 3, H, W)` in [0, 1] that are nearest to each cell: `(cells,)` float64."""
    colours, counts = _whole_colour(rgb_to_lab(rgb)[:, 1:]).unique(return_counts=True)  # far fewer than pixels
    nearest = torch.cdist(_whole_colours()[colours], centres).argmin(dim=1)
    return torch.bincount(nearest, counts.double(), minlength=len(centres))


def smooth_prior(counts: Tensor, centres: Tensor) -> Tensor:
    """Turn counts into the prior of each cell, `(cells,)` float32 with sum 1, shared with its neighbours."""
    kernel = torch.softmax(-torch.cdist(centres, centres).square() / (2 * ChromaLoss.SIGMA**2), dim=1)
    smooth = counts.float() @ kernel
    return smooth / smooth.sum()


def critic_loss(real_logits: Tensor, fake_logits: Tensor, kind: str = "bce") -> Tensor:
    """Loss of the critic, the mean over real and generated images: a float32 scalar.

    Logits are positive for real. "bce" (Goodfellow et al. 2014) is ln 2 at chance, "hinge" (Lim & Ye 2017) is 1.
    """
    if kind == "hinge":
        return (relu(1 - real_logits.float()).mean() + relu(1 + fake_logits.float()).mean()) / 2
    return (_cross_entropy(real_logits, real=True) + _cross_entropy(fake_logits, real=False)) / 2


def adversarial_loss(fake_logits: Tensor, kind: str = "bce") -> Tensor:
    """Loss of the generator by its images' logits: non-saturating (Goodfellow et al. 2014); of "hinge", minus these."""
    return -fake_logits.float().mean() if kind == "hinge" else _cross_entropy(fake_logits, real=True)


def _cross_entropy(logits: Tensor, real: bool) -> Tensor:
    logits = logits.float()
    return binary_cross_entropy_with_logits(logits, torch.full_like(logits, float(real)))
