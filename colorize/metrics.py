"""How far a colourization is from the truth, and the baseline that sees nothing but a pixel's grey."""

import numpy as np
import torch
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from colorize.color import ciede2000, merge_luma, rgb_to_grey, rgb_to_lab
from colorize.runtime.errors import UserError

SSIM_WINDOW_PX = 11
"""Side of the Gaussian window (σ 1.5 px); smaller images have no SSIM."""

TRUE_GREY_SPREAD = 2
"""A photo whose channels differ by no more than this (of 255) in any pixel is grey: codecs round."""

_GREY_VALUES = 256


def psnr(prediction: Tensor, target: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each image over its three channels.

    Args:
        prediction: ``(B, 3, H, W)``, RGB in [0, 1], floating point (8-bit differences would wrap).
        target: the same.

    Returns:
        ``(B,)`` in dB; infinite where the two are identical.
    """
    if not (prediction.is_floating_point() and target.is_floating_point()):
        raise ValueError(f"psnr takes floats in [0, 1], got {prediction.dtype} and {target.dtype}")
    prediction, target = prediction.float(), target.float()
    return peak_signal_noise_ratio(prediction, target, data_range=1.0, dim=(1, 2, 3), reduction="none")


def ssim(prediction: Tensor, target: Tensor) -> Tensor:
    """Structural similarity of each image: the mean over channels and over all windows that lie in the image.

    Wang, Bovik, Sheikh & Simoncelli, "Image quality assessment: from error visibility to structural similarity", IEEE
    Transactions on Image Processing 13(4), 2004; Gaussian windows of 11 × 11 px with σ 1.5, data range 255.

    Args:
        prediction: ``(B, 3, H, W)``, RGB in [0, 1], both sides at least ``SSIM_WINDOW_PX``.
        target: the same.

    Returns:
        ``(B,)``, at most 1, which identical images have.
    """
    if min(prediction.shape[-2:]) < SSIM_WINDOW_PX:
        raise ValueError(f"ssim takes images of at least {SSIM_WINDOW_PX} px, not {tuple(prediction.shape[-2:])}")
    # In float32, a photo is off by up to 3e-4 (flat areas); on a CPU, float64 takes ten times as long.
    _, windows = structural_similarity_index_measure(
        255 * prediction.float(), 255 * target.float(), data_range=255.0, reduction="none", return_full_image=True
    )
    edge = SSIM_WINDOW_PX // 2  # there torchmetrics mirrors the image
    return windows[..., edge:-edge, edge:-edge].mean(dim=(1, 2, 3))


def mean_ciede2000(rgb1: Tensor, rgb2: Tensor) -> Tensor:
    """The mean over pixels of :func:`ciede2000` between two batches.

    Args:
        rgb1: ``(B, 3, H, W)``, sRGB-encoded, in [0, 1].
        rgb2: the same.

    Returns:
        ``(B,)``, 0 for identical images; 1 is about a just noticeable difference.
    """
    return ciede2000(rgb_to_lab(rgb1), rgb_to_lab(rgb2)).mean(dim=(-2, -1))


def colourfulness(rgb: Tensor) -> Tensor:
    """How colourful each image looks: ``cf``, 0 for grey, 15 slightly, 33 moderately, 59 quite, 109 extremely so.

    Hasler & Süsstrunk, "Measuring colourfulness in natural images", Human Vision and Electronic Imaging VIII (SPIE),
    2003: spread and mean of the opponent colours red - green and yellow - blue, both with their signs.

    Args:
        rgb: ``(B, 3, H, W)``, sRGB-encoded, in [0, 1] (the figures are those of the paper, on a scale of 0 to 255).

    Returns:
        ``(B,)``, at least 0.
    """
    return _spread_and_mean(_opponents(rgb))


def colourfulness_abs(rgb: Tensor) -> Tensor:
    """``cf_abs``: :func:`colourfulness` of the opponents' absolute values, as published colourization scripts have it.

    Where both signs occur in a photo, the spread shrinks: the figure is a few units lower than ``cf`` on most photos.
    Only for comparison with published figures.

    Args:
        rgb: ``(B, 3, H, W)``, sRGB-encoded, in [0, 1].

    Returns:
        ``(B,)``, at least 0.
    """
    return _spread_and_mean(_opponents(rgb).abs())


def _opponents(rgb: Tensor) -> Tensor:
    """Red - green and yellow - blue on a scale of 255, ``(B, 2, H * W)``."""
    red, green, blue = (255 * rgb).unbind(dim=1)
    return torch.stack((red - green, (red + green) / 2 - blue), dim=1).flatten(2)


def _spread_and_mean(opponents: Tensor) -> Tensor:
    variance, mean = torch.var_mean(opponents, dim=2, correction=0)
    return variance.sum(dim=1).sqrt() + 0.3 * mean.square().sum(dim=1).sqrt()


def is_true_grey(rgb: Tensor) -> Tensor:
    """Whether each photo is grey itself: no pixel's channels differ by more than ``TRUE_GREY_SPREAD``.

    Of ``(B, 3, H, W)``, RGB in [0, 1], makes ``(B,)``, bool.
    """
    spread = (rgb.amax(dim=1) - rgb.amin(dim=1)).amax(dim=(-2, -1))
    return spread * 255 < TRUE_GREY_SPREAD + 0.5


def skill_sums(prediction: Tensor, target: Tensor, lookup: Tensor) -> Tensor:
    """What :func:`skill` is made of; those of several photos add up.

    Args:
        prediction: ``(B, 3, H, W)``, sRGB-encoded, in [0, 1].
        target: the same.
        lookup: the same, what :class:`LumaLookup` makes of the luma of ``target``.

    Returns:
        ``(B, 3)``: sums over pixels of p · t, p · p and t · t, with p and t the chroma (a and b of CIE L*a*b*) of
        ``prediction`` and ``target`` less that of ``lookup``.
    """
    known = rgb_to_lab(lookup)[:, 1:]
    own, true = rgb_to_lab(prediction)[:, 1:] - known, rgb_to_lab(target)[:, 1:] - known
    return torch.stack([(a * b).sum(dim=(1, 2, 3)) for a, b in ((own, true), (own, own), (true, true))], dim=1)


def skill(sums: Tensor) -> Tensor:
    """The cosine, over all pixels that were summed up, between prediction and truth of chroma less the luma look-up's.

    Near 0 for any tint that follows from luma, however strong. Blind to strength: give it beside :func:`colourfulness`.

    Args:
        sums: ``(..., 3)``, of :func:`skill_sums`.

    Returns:
        ``(...)``, in [-1, 1]: 1 for the truth, 0 where either has the look-up's colours.
    """
    product, own, true = sums.unbind(dim=-1)
    length = own.sqrt() * true.sqrt()
    return torch.where(length == 0, 0.0, product / length)


class LumaLookup:
    """The mean colour of a set of photos for each of 256 grey values.

    What can be had without seeing anything but one pixel's grey: a network that does not beat it has learned no more
    than a tint. Memory is constant, whatever the number of photos.
    """

    def __init__(self) -> None:
        self._offset_sum = torch.zeros(_GREY_VALUES, 3, dtype=torch.float64)
        self._count = torch.zeros(_GREY_VALUES, dtype=torch.float64)

    def update(self, rgb: Tensor) -> None:
        """Adds a batch of photos: ``(B, 3, H, W)``, RGB in [0, 1], on any device."""
        rgb = rgb.detach().cpu().double()
        grey = rgb_to_grey(rgb)
        offsets = (rgb - grey).movedim(1, -1).reshape(-1, 3)
        value = _grey_value(grey).flatten()
        self._offset_sum.index_add_(0, value, offsets)
        self._count += torch.bincount(value, minlength=_GREY_VALUES)

    def add(self, other: "LumaLookup") -> None:
        """Adds the photos that another one was given."""
        self._offset_sum += other._offset_sum
        self._count += other._count

    def predict(self, grey: Tensor) -> Tensor:
        """Colours each pixel by its grey alone.

        Grey values that no photo had take the offset (colour minus grey) interpolated between their neighbours. The
        luma of the result is ``grey``.

        Args:
            grey: ``(B, 1, H, W)``, Rec. 601 luma in [0, 1].

        Returns:
            ``(B, 3, H, W)``, RGB in [0, 1], with the type and device of ``grey``.

        Raises:
            UserError: before the first :meth:`update`.
        """
        offsets = self._offsets().to(dtype=grey.dtype, device=grey.device)
        offset = offsets[_grey_value(grey).squeeze(1)].movedim(-1, 1)
        return merge_luma(grey + offset, grey)

    def _offsets(self) -> Tensor:
        """The offset of each grey value, ``(256, 3)``."""
        known = self._count.nonzero().flatten()
        if len(known) == 0:
            raise UserError("the luma look-up has seen no photo: none of those for it can be read")
        mean = self._offset_sum[known] / self._count[known].unsqueeze(1)
        # Beyond the outermost known value both neighbours are that value: clamped, not extrapolated.
        columns = [np.interp(np.arange(_GREY_VALUES), known.numpy(), column) for column in mean.T.numpy()]
        return torch.from_numpy(np.stack(columns, axis=1))


def _grey_value(grey: Tensor) -> Tensor:
    """The 8-bit value of each grey in [0, 1], as an index."""
    return (grey.float() * (_GREY_VALUES - 1)).round().clamp(0, _GREY_VALUES - 1).long()
