"""Pictures side by side on one captioned sheet."""

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from colorize.data.images import to_pil


def sheet(columns: Sequence[tuple[str, Tensor]], tile_px: int | None = None, gap_px: int = 4) -> Image.Image:
    """One row a photo, one captioned column a version of it.

    Args:
        columns: (caption, pictures) pairs; pictures are (N, 3, H, W) RGB or (N, 1, H, W) grey in [0, 1] (clamped),
            the same N and size in each.
        tile_px: side of a tile; None keeps the pictures' own size.
        gap_px: white space around tiles.

    Returns:
        An RGB picture, white background.
    """
    height_px, width_px = columns[0][1].shape[-2:]
    if tile_px is not None:
        height_px, width_px = round(height_px * tile_px / width_px), tile_px
    font = ImageFont.load_default(size=max(10, min(18, width_px // 8)))
    caption_px = max(int(font.getbbox("Ag")[3]) + 2 * gap_px, 12)
    rows = len(columns[0][1])
    canvas = Image.new(
        "RGB", (len(columns) * (width_px + gap_px) + gap_px, caption_px + rows * (height_px + gap_px)), "white"
    )
    draw = ImageDraw.Draw(canvas)
    for x, (caption, pictures) in enumerate(columns):
        left = gap_px + x * (width_px + gap_px)
        draw.text((left + width_px / 2, caption_px / 2), caption, fill="black", font=font, anchor="mm")
        for y, picture in enumerate(pictures.expand(-1, 3, -1, -1)):
            tile = to_pil(picture.float().cpu())
            if tile.size != (width_px, height_px):
                tile = tile.resize((width_px, height_px), Image.Resampling.BICUBIC)
            canvas.paste(tile, (left, caption_px + y * (height_px + gap_px)))
    return canvas
