"""A trained network with less to do for the same function: norms folded into convolutions."""

from typing import TypeVar

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.nn.utils.parametrize import is_parametrized, remove_parametrizations

from colorize.networks.generator import Generator

Network = TypeVar("Network", bound=nn.Module)


@torch.no_grad()
def prepare(network: Generator, dtype: torch.dtype = torch.float32) -> Generator:
    """Make a trained generator ready to colour, in place, and return it: the same function but for rounding.

    It has to be and stay in eval mode. With another `dtype` of the weights than float32, run it under its autocast.
    """
    fold_norms(network)
    for module in network.modules():
        if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Linear)):
            module.to(dtype)
    return network.requires_grad_(False)


def fold_norms(network: Network) -> Network:
    """Make weight and spectral norms plain weights, and fold each batch norm that follows a convolution, in place.

    What it computes stays the same to rounding. Modules name such pairs in `conv_norm_pairs`; a batch norm after
    something else could not be folded. Raises ValueError in training mode.
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
        parts = dict(module.named_modules())
        for convolution, norm in getattr(module, "conv_norm_pairs", ()):
            conv, batch_norm = parts.get(convolution), parts.get(norm)
            if isinstance(conv, nn.Conv2d) and isinstance(batch_norm, nn.BatchNorm2d):  # there, and not folded before
                module.set_submodule(convolution, fuse_conv_bn_eval(conv, batch_norm))
                module.set_submodule(norm, nn.Identity())
    return network
