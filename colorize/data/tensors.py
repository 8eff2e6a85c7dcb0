"""Between Pillow's images and tensors."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor


def to_uint8(image: Image.Image) -> Tensor:
    """Return an RGB image as a ``(3, H, W)`` uint8 tensor."""
    # Pillow turns planes out, and NumPy the order of axes, in a fraction of the time that torch's contiguous() takes.
    return torch.from_numpy(np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1)))


def to_pil(rgb: Tensor) -> Image.Image:
    """Return a ``(3, H, W)`` float tensor, RGB in [0, 1] (clamped), as an image, rounded to 8 bits."""
    pixels = (rgb.detach().float().clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().contiguous()
    return Image.frombytes("RGB", (rgb.shape[2], rgb.shape[1]), pixels.numpy().tobytes())
