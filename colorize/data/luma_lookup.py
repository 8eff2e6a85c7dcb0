"""Baseline that sees nothing but a pixel's grey: the mean colour that training photos have for it."""

import numpy as np
import torch
from torch import Tensor

from colorize.color import merge_luma, rgb_to_grey
from colorize.runtime.errors import UserError

_GREY_VALUES = 256


class LumaLookup:
    """Mean colour of a set of photos for each of 256 grey values: the best that one pixel's grey alone can tell."""

    def __init__(self) -> None:
        self.sums = torch.zeros(_GREY_VALUES, 4, dtype=torch.float64)
        """By grey value: colours minus grey, and how many pixels; those of several sets of photos add up."""

    def update(self, rgb: Tensor) -> None:
        """Add a batch of photos: ``(B, 3, H, W)``, RGB in [0, 1], on any device."""
        rgb = rgb.detach().cpu().double()
        grey = rgb_to_grey(rgb)
        values = torch.cat([rgb - grey, torch.ones_like(grey)], dim=1).movedim(1, -1).reshape(-1, 4)
        self.sums.index_add_(0, _grey_value(grey).flatten(), values)

    def predict(self, grey: Tensor) -> Tensor:
        """Colour pixels by their grey alone: RGB ``(B, 3, H, W)`` in [0, 1] with the luma, type and device of `grey`.

        Values that no photo had take the offset (colour minus grey) between their neighbours; UserError for no photo.
        """
        known = self.sums[:, 3].nonzero().flatten()
        if len(known) == 0:
            raise UserError("the luma look-up has seen no photo: none of those for it can be read")
        mean = self.sums[known, :3] / self.sums[known, 3:]
        # Beyond the outermost known value both neighbours are that value: clamped, not extrapolated.
        columns = [np.interp(np.arange(_GREY_VALUES), known.numpy(), column) for column in mean.T.numpy()]
        offsets = torch.from_numpy(np.stack(columns, axis=1)).to(dtype=grey.dtype, device=grey.device)
        return merge_luma(grey + offsets[_grey_value(grey).squeeze(1)].movedim(-1, 1), grey)


def _grey_value(grey: Tensor) -> Tensor:
    return (grey.float() * (_GREY_VALUES - 1)).round().clamp(0, _GREY_VALUES - 1).long()
