"""A trained generator made ready to colour: the same function with less to do. It can learn no more."""

import torch
from torch import Tensor, nn

from colorize.networks.folding import fold_norms
from colorize.networks.generator import Generator
from colorize.networks.layers import PixelShuffleUp
from colorize.networks.unet import UNet, UpBlock


@torch.no_grad()
def prepare(network: Generator, dtype: torch.dtype = torch.float32) -> Generator:
    """Fold the norms, join pixel shuffle and blur, and cast the convolutions once: exact but for rounding.

    Args:
        network: changed in place; in eval mode, in which it has to stay.
        dtype: of the convolutions' weights. With another than float32 the network is to be run under autocast of that
            type, which then has nothing left to cast.

    Returns:
        The same network. Its state dict is no longer what its architecture states.

    Raises:
        ValueError: the network is in training mode.
    """
    fold_norms(network)
    ups = [*((block, "up") for block in network.up_blocks), (network, "last_up")] if isinstance(network, UNet) else []
    for owner, name in ups:
        assert isinstance(owner, (UpBlock, UNet))
        up = getattr(owner, name)
        if isinstance(up, PixelShuffleUp) and up.blur:  # without blur, the plain shuffle is as fast
            setattr(owner, name, BlurredUp(up))
    for module in network.modules():
        if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Linear)):
            module.to(dtype)
    return network.requires_grad_(False)


class BlurredUp(nn.Module):
    """`PixelShuffleUp` with blur, in eval mode and channels_last, in fewer passes over the memory.

    The convolution, a matrix product here, gives the four pixels of a block one after the other, so that whole pixels
    are added instead of single channels being shuffled: neighbours across, then down. The mean's factor of a quarter is
    in the weights; a ReLU lets it through.

    Args:
        up: its norms are folded.
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
        """As `PixelShuffleUp.forward`; the result is in channels_last."""
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
