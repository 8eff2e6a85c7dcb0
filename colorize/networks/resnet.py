"""ResNet (He et al. 2016) as an encoder; torchvision, slower to import than all else that colours, is not needed."""

from itertools import pairwise

from torch import Tensor, nn

from colorize.networks.encoder import Encoder
from colorize.networks.layers import normalize_imagenet


class Block(nn.Module):
    """Convolutions with batch norm, added to the input: `(B, in, H, W)` -> `(B, out, H/s, W/s)`.

    Two of 3x3; as a bottleneck 1x1, 3x3 with the stride and 1x1, the first two with a quarter of the channels.
    """

    conv_norm_pairs = (("conv1", "bn1"), ("conv2", "bn2"), ("conv3", "bn3"), ("downsample.0", "downsample.1"))

    def __init__(self, in_channels: int, out_channels: int, stride: int, bottleneck: bool) -> None:
        super().__init__()
        width = out_channels // 4 if bottleneck else out_channels
        self.bottleneck = bottleneck
        self.conv1 = _conv(in_channels, width, 1) if bottleneck else _conv(in_channels, width, 3, stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = _conv(width, width, 3, stride if bottleneck else 1)
        self.bn2 = nn.BatchNorm2d(width)
        if bottleneck:
            self.conv3 = _conv(width, out_channels, 1)
            self.bn3 = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = nn.Sequential()
        if stride != 1 or in_channels != out_channels:
            self.downsample.extend([_conv(in_channels, out_channels, 1, stride), nn.BatchNorm2d(out_channels)])

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        if self.bottleneck:
            y = self.bn3(self.conv3(self.relu(y)))
        y += self.downsample(x)
        return self.relu(y)


RESNETS: dict[str, tuple[bool, tuple[int, ...], tuple[int, ...]]] = {
    "resnet10_half": (False, (1, 1, 1, 1), (32, 32, 64, 128, 256)),
    "resnet18": (False, (2, 2, 2, 2), (64, 64, 128, 256, 512)),
    "resnet34": (False, (3, 4, 6, 3), (64, 64, 128, 256, 512)),
    "resnet101": (True, (3, 4, 23, 3), (64, 256, 512, 1024, 2048)),
}
"""Name -> bottlenecks or not, blocks of each of the four layers, channels of the five features."""


class ResNetBody(Encoder):
    """torchvision's ResNet (He et al. 2016) without pooling and classifier, under its names; random weights."""

    conv_norm_pairs = (("conv1", "bn1"),)
    low_parts = ("conv1", "bn1", "layer1", "layer2")
    high_parts = ("layer3", "layer4")
    normalize = staticmethod(normalize_imagenet)

    def __init__(self, name: str) -> None:
        bottleneck, counts, channels = RESNETS[name]
        super().__init__(name, channels)
        self.conv1 = _conv(3, self.channels[0], 7, 2)
        self.bn1 = nn.BatchNorm2d(self.channels[0])
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        for number, ((before, after), count) in enumerate(zip(pairwise(channels), counts, strict=True), start=1):
            blocks = [Block(before, after, 1 if number == 1 else 2, bottleneck)]
            blocks += [Block(after, after, 1, bottleneck) for _ in range(count - 1)]
            self.add_module(f"layer{number}", nn.Sequential(*blocks))

    def features(self, x: Tensor) -> list[Tensor]:
        found = [self.relu(self._run("bn1", self._run("conv1", x)))]
        for number in range(1, 5):  # the feature of 1/2 is taken before the max pool
            found.append(self._run(f"layer{number}", self.maxpool(found[0]) if number == 1 else found[-1]))
        return found


def _conv(in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    # First weights are torch's own, smaller than He's: a batch norm follows, so that the size of weights says nothing
    # but how fast they turn (van Laarhoven 2017), and what is not pretrained has to turn in a short training.
    return nn.Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2, bias=False)
