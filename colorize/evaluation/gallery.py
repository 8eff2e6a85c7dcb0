"""Images side by side on one captioned sheet."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING, NamedTuple

from PIL import Image, ImageDraw, ImageFont, ImageOps

if TYPE_CHECKING:
    from torch import Tensor


INK, PALE = (32, 32, 36), (112, 112, 120)


class Strip(NamedTuple):
    """Photo in all its versions, side by side."""

    caption: str
    tiles: Sequence[Image.Image]  # RGB, of any size: they are fitted into square tiles
    notes: Sequence[str]  # a short text below each tile


class Block(NamedTuple):
    """Photos that belong together."""

    title: str
    strips: Sequence[Strip]


def page(title: str, subtitle: str, columns: Sequence[str], blocks: Sequence[Block], tile_px: int = 176) -> Image.Image:
    """Lay out blocks of photos, a tile for each of the `columns`, two abreast where there is room, under a title."""
    margin, gap, line = 28, 8, 22
    big, middle, small = (ImageFont.load_default(size=size) for size in (24, 17, 13))
    width = len(columns) * (tile_px + gap) - gap
    height = tile_px + line + gap
    abreast = 2 if len(columns) <= 6 and len(blocks) > 1 else 1
    tiers = [blocks[first : first + abreast] for first in range(0, len(blocks), abreast)]
    tier_heights = [3 * line + max(len(block.strips) for block in tier) * height + margin for tier in tiers]
    top = margin + 4 * line * bool(title)
    canvas = Image.new("RGB", (2 * margin * abreast + abreast * width, top + sum(tier_heights)), "white")
    draw = ImageDraw.Draw(canvas)
    draw.text((margin, margin), _fitting(title, big, canvas.width - 2 * margin), fill=INK, font=big)
    draw.text((margin, margin + 38), _fitting(subtitle, small, canvas.width - 2 * margin), fill=PALE, font=small)
    for tier, tier_height in zip(tiers, tier_heights, strict=True):
        for number, block in enumerate(tier):
            left = margin + number * (width + 2 * margin)
            draw.line((left, top, left + width, top), fill=INK, width=2)
            draw.text((left, top + 8), _fitting(block.title, middle, width), fill=INK, font=middle)
            for column, name in enumerate(columns):
                place = (left + column * (tile_px + gap), top + 2 * line - 6)
                draw.text(place, _fitting(name, small, tile_px), fill=PALE, font=small)
            for row, strip in enumerate(block.strips):
                y = top + 3 * line - 6 + row * height
                for column, (tile, note) in enumerate(zip(strip.tiles, strip.notes, strict=True)):
                    x = left + column * (tile_px + gap)
                    fitted = ImageOps.contain(tile, (tile_px, tile_px), Image.Resampling.BICUBIC)
                    canvas.paste(fitted, (x + (tile_px - fitted.width) // 2, y + tile_px - fitted.height))
                    text = note or (strip.caption if column == 0 else "")
                    draw.text((x, y + tile_px + 3), _fitting(text, small, tile_px), fill=PALE, font=small)
        top += tier_height
    return canvas


def _fitting(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width_px: int) -> str:
    kept, shown = len(text), text
    while kept > 2 and font.getlength(shown) > width_px:
        kept -= 1
        shown = f"{text[: kept // 2]}…{text[len(text) - (kept - kept // 2) :]}"
    return shown


def sheet(columns: Sequence[tuple[str, Tensor]], tile_px: int) -> Image.Image:
    """Lay out one row a photo and one captioned column a version of it; tiles are squares of `tile_px`.

    Images are (N, 3, H, W) RGB or (N, 1, H, W) grey in [0, 1] (clamped). Columns with fewer of them end in white.
    """
    from colorize.data.tensors import to_pil  # and torch, which `page` works without

    versions = [[to_pil(image.float().cpu()) for image in images.expand(-1, 3, -1, -1)] for _, images in columns]
    white = Image.new("RGB", (1, 1), "white")
    strips = [Strip("", tiles, [""] * len(tiles)) for tiles in zip_longest(*versions, fillvalue=white)]
    return page("", "", [caption for caption, _ in columns], [Block("", strips)], tile_px)
