"""A generator for machines without a GPU: chroma is decoded at a quarter of the size, where little of it is lost."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from colorize.networks.generator import Generator
from colorize.networks.heads import MOST_AB, BinsHead, ChromaHead, Prediction, make_head, paint
from colorize.networks.layers import ConvLayer
from colorize.networks.options import LightUNetOptions


class LightUNet(Generator):
    """U-Net that predicts chroma at 1/4 of the size and refines it at 1/2, guided by the grey.

    Every step up is bilinear; the mean over the image, added at 1/32, tells places what scene they are in.
    """

    options_type = LightUNetOptions
    options: LightUNetOptions
    head: ChromaHead

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        widths, refine_width = self.options.widths, self.options.refine_width
        if len(widths) != 4 or min(widths) < 1:
            raise ValueError(f"widths={widths}: four numbers of channels are needed")
        half, *skips, deepest = self.encoder.channels
        self.bottom = ConvLayer(deepest, widths[0], 1, "batch")
        self.context = nn.Linear(widths[0], widths[0])
        self.blocks = nn.ModuleList()
        for below, skip, width in zip(widths, reversed(skips), widths[1:], strict=False):
            grey = 1 if len(self.blocks) == 2 else 0
            first = ConvLayer(below + skip + grey, width, 3, "batch")
            self.blocks.append(nn.Sequential(first, ConvLayer(width, width, 3, "batch")))
        head = make_head(self.options.output, (0.0, 1.0), self.options.temperature)
        if not isinstance(head, ChromaHead):
            raise ValueError("output=rgb: decoder=light predicts chroma or bins")
        self.head = head
        count = self.options.queries
        self.queries = ColourQueries(widths[:3], count, widths[3]) if count else None
        self.to_colour = ConvLayer(widths[3] + count, head.channels, 1, "none", relu=False)
        self.to_colour.scale(0.1)
        self.refine = nn.Sequential()
        if refine_width:
            change = ConvLayer(refine_width, 2, 3, "none", relu=False)
            change.scale(0.0)  # it starts from what the quarter says
            self.refine.extend([ConvLayer(half + 3, refine_width, 3, "batch"), change])

    @property
    def architecture(self) -> dict[str, Any]:
        return {"decoder": "light", **super().architecture}

    def predict(self, grey: Tensor, luma: Tensor) -> Prediction:
        half, *skips, deepest = self.encoder(self.encoder.normalize(grey))
        x = self.bottom(deepest)
        x = x + self.context(x.mean(dim=(2, 3)))[:, :, None, None]
        maps = []
        for number, (block, skip) in enumerate(zip(self.blocks, reversed(skips), strict=True)):
            maps.append(x)
            parts = [_resized(x, skip), skip]
            if number == 2:
                parts.append(_resized(grey, skip).to(skip.dtype))
            x = block(torch.cat(parts, dim=1))
        if self.queries is not None:
            x = torch.cat([x, self.queries(maps, x)], dim=1)
        logits = self.to_colour(x).float()
        ab = self.head.to_ab(logits)  # at 1/4
        if len(self.refine):  # at 1/2, its edges moved to where the grey has them
            ab = _resized(ab, half)
            joined = [half, (ab / MOST_AB).to(half.dtype), _resized(grey, half).to(half.dtype)]
            ab = ab + MOST_AB * self.refine(torch.cat(joined, dim=1)).float()
        return Prediction(paint(ab, luma), ab, logits if isinstance(self.head, BinsHead) else None)


class ColourQueries(nn.Module):
    """Learnt colours that look for what is theirs, coarse to fine, and where it lies (DDColor's colour decoder, small).

    From maps `(B, C, h, w)` of `channels` and features `(B, out_channels, H, W)`: how far each of `count` colours is at
    home at each place, `(B, count, H, W)`.
    """

    WIDTH, HEADS = 64, 4

    def __init__(self, channels: Sequence[int], count: int, out_channels: int) -> None:
        super().__init__()
        self.start = nn.Parameter(torch.randn(count, self.WIDTH))
        self.seen = nn.ModuleList(ConvLayer(own, self.WIDTH, 1, "none", relu=False) for own in channels)
        self.layers = nn.ModuleList(
            nn.TransformerDecoderLayer(
                self.WIDTH, self.HEADS, 2 * self.WIDTH, dropout=0.0, batch_first=True, norm_first=True
            )
            for _ in channels
        )
        self.place = nn.Linear(self.WIDTH, out_channels)

    def forward(self, maps: Sequence[Tensor], x: Tensor) -> Tensor:
        colours = self.start.expand(x.shape[0], -1, -1)  # len(x) would fix the batch of an export
        for seen, layer, values in zip(self.seen, self.layers, maps, strict=True):
            colours = layer(colours, seen(values).flatten(2).transpose(1, 2))
        return torch.einsum("bqc,bchw->bqhw", self.place(colours), x) / x.shape[1] ** 0.5


def _resized(x: Tensor, like: Tensor) -> Tensor:
    return interpolate(x, like.shape[-2:], mode="bilinear", align_corners=False)
