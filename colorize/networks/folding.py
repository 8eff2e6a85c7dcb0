"""Norms of a trained network folded into the convolutions before them, where that changes nothing."""

from typing import TypeVar

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.nn.utils.parametrize import is_parametrized, remove_parametrizations

from colorize.networks.efficientnet import EfficientNetLite0, InvertedResidual
from colorize.networks.layers import ConvLayer
from colorize.networks.resnet import BasicBlock, Bottleneck, ResNetBody

Network = TypeVar("Network", bound=nn.Module)


def fold_norms(network: Network) -> Network:
    """Make weight and spectral norms plain weights, and fold each batch norm that follows a convolution into it.

    What it computes stays the same to rounding, with fewer operations. A batch norm that follows something else (a
    ReLU, as in DeOldify's decoder; nothing, as on the skips) stays: shifted through a ReLU, or forwards into a
    zero-padded convolution, it would not be the same function.

    Args:
        network: changed in place; in eval mode, in which it has to stay: it can learn no more.

    Returns:
        The same network.

    Raises:
        ValueError: the network is in training mode.
    """
    if network.training:
        raise ValueError("norms are folded in eval mode: call eval() first")
    for module in list(network.modules()):
        if is_parametrized(module):
            # A deep copy shares the class whose property computes the weight: what goes is a class of this module only.
            own = {name: value for name, value in vars(type(module)).items() if name not in ("__dict__", "__weakref__")}
            module.__class__ = type(type(module).__name__, type(module).__bases__, own)
            for name in list(module.parametrizations):  # type: ignore[arg-type]
                remove_parametrizations(module, name)
    for module in list(network.modules()):
        for convolution, norm in _pairs(module):
            conv, batch_norm = module.get_submodule(convolution), module.get_submodule(norm)
            if isinstance(conv, nn.Conv2d) and isinstance(batch_norm, nn.BatchNorm2d):  # not folded before
                module.set_submodule(convolution, fuse_conv_bn_eval(conv, batch_norm))
                module.set_submodule(norm, nn.Identity())
    return network


def _pairs(module: nn.Module) -> list[tuple[str, str]]:
    """Names in `module` of convolutions and of the batch norms that take their output and nothing else."""
    if isinstance(module, ConvLayer):
        return [("conv", "norm")] if isinstance(module.norm, nn.BatchNorm2d) and not module.relu_first else []
    if isinstance(module, ResNetBody):
        return [("conv1", "bn1")]
    if isinstance(module, EfficientNetLite0):
        return [("conv_stem", "bn0")]
    if isinstance(module, InvertedResidual):
        expansion = [("expand_conv", "bn0")] if module.expands else []
        return [*expansion, ("depthwise_conv", "bn1"), ("project_conv", "bn2")]
    if isinstance(module, (BasicBlock, Bottleneck)):
        numbers = (1, 2, 3) if isinstance(module, Bottleneck) else (1, 2)
        pairs = [(f"conv{number}", f"bn{number}") for number in numbers]
        return pairs + ([("downsample.0", "downsample.1")] if module.downsample is not None else [])
    return []
