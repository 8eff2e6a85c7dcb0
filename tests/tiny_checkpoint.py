"""An untrained generator of a few megabytes, saved as training saves one."""

import copy
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from colorize.networks.unet import UNet
from colorize.weights.checkpoints import CheckpointMetadata, write_metadata

SIZE_PX = 48


def tiny_unet(**options: Any) -> UNet:
    """In eval mode; its colours are lively, its norms and its attention do something, as after training."""
    return copy.deepcopy(_tiny_unet(**options))


@cache
def _tiny_unet(**options: Any) -> UNet:
    torch.manual_seed(0)
    unet = UNet(**{"encoder": "resnet10_half", "width_factor": 0.25, **options})
    unet.to_colour.scale(10)
    with torch.no_grad():
        for name, parameter in unet.named_parameters():
            if name.endswith("gamma"):
                parameter.fill_(0.5)
        for module in unet.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.uniform_(-0.3, 0.3)
                module.running_var.uniform_(0.5, 2)
                module.weight.uniform_(0.5, 1.5)
                module.bias.uniform_(-0.3, 0.3)
    return unet.eval()


def write_checkpoint(path: Path) -> Path:
    """A checkpoint of `tiny_unet()`, as phase pretrain_gen leaves one that was last trained at SIZE_PX."""
    unet = tiny_unet()
    content: dict[str, Any] = {"state_dict": {f"generator.{name}": t for name, t in unet.state_dict().items()}}
    write_metadata(content, CheckpointMetadata("pretrain_gen", 1, 1, 24, SIZE_PX, unet.architecture, None, 0))
    torch.save(content, path)
    return path
