"""The parts of a ResNet (He et al. 2016), under torchvision's names.

Torchvision itself is not imported for them: it takes longer than everything else that colours a photo.
"""

from itertools import pairwise

from torch import Tensor, nn

from colorize.networks.convolution import Conv2d


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with batch norm, added to the block's input: `(B, in, H, W)` -> `(B, out, H/s, W/s)`."""

    expansion = 1

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _conv(in_channels, width, 3, stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = _conv(width, width, 3)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = _shortcut(in_channels, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, in, H, W)` -> `(B, width, H/s, W/s)`."""
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        y += x if self.downsample is None else self.downsample(x)
        return self.relu(y)


class Bottleneck(nn.Module):
    """A 1x1, a 3x3 and a 1x1 convolution; the stride is in the second, as torchvision has it ("ResNet v1.5")."""

    expansion = 4

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _conv(in_channels, width, 1)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = _conv(width, width, 3, stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = _conv(width, 4 * width, 1)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(in_channels, 4 * width, stride)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, in, H, W)` -> `(B, 4 * width, H/s, W/s)`."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn3(self.conv3(self.relu(self.bn2(self.conv2(y)))))
        y += x if self.downsample is None else self.downsample(x)
        return self.relu(y)


def stem(channels: int) -> nn.Conv2d:
    """The first convolution, 7x7 at half the size."""
    return _conv(3, channels, 7, 2)


def layers(
    block: type[BasicBlock] | type[Bottleneck], counts: tuple[int, ...], channels: tuple[int, ...]
) -> list[nn.Sequential]:
    """The four layers: `counts` blocks each, of `channels[1:]` channels, from `channels[0]` on."""
    made = []
    for number, ((before, after), count) in enumerate(zip(pairwise(channels), counts, strict=True)):
        width, stride = after // block.expansion, 1 if number == 0 else 2
        blocks = [block(before, width, stride), *(block(after, width, 1) for _ in range(count - 1))]
        made.append(nn.Sequential(*blocks))
    return made


def _conv(in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> Conv2d:
    # First weights are torch's own, smaller than He's: a batch norm follows, so that the size of weights says nothing
    # but how fast they turn (van Laarhoven 2017), and what is not pretrained has to turn in a short fit.
    return Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2, bias=False)


def _shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Sequential | None:
    if stride == 1 and in_channels == out_channels:
        return None
    return nn.Sequential(_conv(in_channels, out_channels, 1, stride), nn.BatchNorm2d(out_channels))
