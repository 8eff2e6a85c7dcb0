"""ResNet (He et al. 2016) as an encoder, under torchvision's names.

Torchvision itself is not imported for them: it takes longer than everything else that colours a photo.
"""

from itertools import pairwise

from torch import Tensor, nn

from colorize.networks.encoder import Encoder
from colorize.networks.layers import normalize_imagenet


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with batch norm, added to the block's input: `(B, in, H, W)` -> `(B, out, H/s, W/s)`."""

    expansion = 1
    conv_norm_pairs = (("conv1", "bn1"), ("conv2", "bn2"), ("downsample.0", "downsample.1"))

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
        y += self.downsample(x)
        return self.relu(y)


class Bottleneck(nn.Module):
    """A 1x1, a 3x3 and a 1x1 convolution; the stride is in the second, as torchvision has it ("ResNet v1.5")."""

    expansion = 4
    conv_norm_pairs = (("conv1", "bn1"), ("conv2", "bn2"), ("conv3", "bn3"), ("downsample.0", "downsample.1"))

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
        y += self.downsample(x)
        return self.relu(y)


RESNETS: dict[str, tuple[type[BasicBlock] | type[Bottleneck], tuple[int, ...], tuple[int, ...]]] = {
    "resnet10_half": (BasicBlock, (1, 1, 1, 1), (32, 32, 64, 128, 256)),
    "resnet18": (BasicBlock, (2, 2, 2, 2), (64, 64, 128, 256, 512)),
    "resnet34": (BasicBlock, (3, 4, 6, 3), (64, 64, 128, 256, 512)),
    "resnet101": (Bottleneck, (3, 4, 23, 3), (64, 256, 512, 1024, 2048)),
}
"""Name -> block, blocks of each of the four layers, channels of the five features."""


class ResNetBody(Encoder):
    """torchvision's ResNet (He et al. 2016) without pooling and classifier, under torchvision's names.

    A torchvision state dict less `fc.*` loads strictly. Randomly initialised.

    Args:
        name: of `RESNETS`. No weights are published for "resnet10_half": one block a layer and half the channels, for
            a CPU.
    """

    conv_norm_pairs = (("conv1", "bn1"),)
    low_parts = ("conv1", "bn1", "layer1", "layer2")
    high_parts = ("layer3", "layer4")
    normalize = staticmethod(normalize_imagenet)

    def __init__(self, name: str) -> None:
        block, counts, channels = RESNETS[name]
        super().__init__(name, channels)
        self.conv1 = _conv(3, self.channels[0], 7, 2)
        self.bn1 = nn.BatchNorm2d(self.channels[0])
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1, self.layer2, self.layer3, self.layer4 = _layers(block, counts, channels)

    def features(self, x: Tensor) -> list[Tensor]:
        """See `Encoder.features`; that of 1/2 is taken before the max pool."""
        half = self.relu(self._run("bn1", self._run("conv1", x)))
        quarter = self._run("layer1", self.maxpool(half))
        eighth = self._run("layer2", quarter)
        sixteenth = self._run("layer3", eighth)
        return [half, quarter, eighth, sixteenth, self._run("layer4", sixteenth)]


def _layers(
    block: type[BasicBlock] | type[Bottleneck], counts: tuple[int, ...], channels: tuple[int, ...]
) -> list[nn.Sequential]:
    """Make the four layers: `counts` blocks each, of `channels[1:]` channels, from `channels[0]` on."""
    made = []
    for number, ((before, after), count) in enumerate(zip(pairwise(channels), counts, strict=True)):
        width, stride = after // block.expansion, 1 if number == 0 else 2
        blocks = [block(before, width, stride), *(block(after, width, 1) for _ in range(count - 1))]
        made.append(nn.Sequential(*blocks))
    return made


def _conv(in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    # First weights are torch's own, smaller than He's: a batch norm follows, so that the size of weights says nothing
    # but how fast they turn (van Laarhoven 2017), and what is not pretrained has to turn in a short training.
    return nn.Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2, bias=False)


def _shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    if stride == 1 and in_channels == out_channels:
        return nn.Sequential()
    return nn.Sequential(_conv(in_channels, out_channels, 1, stride), nn.BatchNorm2d(out_channels))
