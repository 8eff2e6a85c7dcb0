"""A trained network with less to do for the same function: norms folded away, convolutions and blur joined."""

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.nn.utils.parametrize import is_parametrized, remove_parametrizations

from colorize.networks.cpu_kernels import Network, use_cpu_kernels
from colorize.networks.generator import Generator
from colorize.networks.layers import PixelShuffleUp


@torch.no_grad()
def prepare(network: Generator, dtype: torch.dtype = torch.float32) -> Generator:
    """Make a trained generator ready to colour, in place, and return it: the same function but for rounding.

    It has to be and stay in eval mode. With another `dtype` of the weights than float32, run it under its autocast.
    """
    fold_norms(network)
    ups = {name: m for name, m in network.named_modules() if isinstance(m, PixelShuffleUp) and m.blur}
    for name, up in ups.items():  # without blur, the plain shuffle is as fast
        network.set_submodule(name, BlurredUp(up))
    for module in network.modules():
        if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Linear)):
            module.to(dtype)
    return use_cpu_kernels(network).requires_grad_(False)


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


class BlurredUp(nn.Module):
    """`PixelShuffleUp` with blur, in eval mode and channels_last, its norms folded, in fewer passes over the memory.

    The convolution, a matrix product here, gives the pixels of a block one after the other: whole pixels are added to
    their neighbours across, then down. The mean's factor of a quarter is in the weights.
    """

    def __init__(self, up: PixelShuffleUp) -> None:
        super().__init__()
        conv = up.layer.conv
        if not isinstance(up.layer.norm, nn.Identity):
            raise ValueError("the norm of a pixel shuffle is to be folded first")
        bias = conv.weight.new_zeros(conv.out_channels) if conv.bias is None else conv.bias
        order = torch.arange(conv.out_channels).view(-1, 4).T.flatten()  # pixel by pixel, not channel by channel
        self.linear = nn.Linear(conv.in_channels, conv.out_channels, device="meta")
        self.linear.weight = nn.Parameter(conv.weight.detach()[order, :, 0, 0] / 4)
        self.linear.bias = nn.Parameter(bias.detach()[order] / 4)

    def forward(self, x: Tensor, size: torch.Size) -> Tensor:
        pixels = self.linear(x.permute(0, 2, 3, 1)).relu_()
        batch, height, width, channels = pixels.shape
        pixels = pixels.view(batch, height, width, 2, 2, channels // 4)
        across = torch.empty_like(pixels)
        torch.add(pixels[..., 0, :], pixels[..., 1, :], out=across[..., 1, :])
        torch.add(pixels[:, :, 1:, :, 0], pixels[:, :, :-1, :, 1], out=across[:, :, 1:, :, 0])
        torch.mul(pixels[:, :, 0, :, 0], 2, out=across[:, :, 0, :, 0])  # the border repeats itself
        del pixels
        both = across.new_empty(batch, height, 2, width, 2, channels // 4)
        torch.add(across[:, :, :, 0], across[:, :, :, 1], out=both[:, :, 1])
        torch.add(across[:, 1:, :, 0], across[:, :-1, :, 1], out=both[:, 1:, 0])
        torch.mul(across[:, 0, :, 0], 2, out=both[:, 0, 0])
        grown = both.view(batch, 2 * height, 2 * width, channels // 4)
        return grown[:, : size[0], : size[1]].permute(0, 3, 1, 2)
