"""Names that DeOldify and fastai give the tensors of the network that is `UNet` here.

Their networks are a list, `layers`: 0 encoder, 1 batch norm, 3 bottom, 4 to 7 up blocks, 8 last pixel shuffle, and
further on the last block and the last convolution. A convolution with what follows is a list again: 0 the convolution,
1 the ReLU (none in front of a pixel shuffle), then batch norm and self-attention, where there are any.
"""

from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class Spelling:
    """Names in which the networks differ.

    An up block has 3x3 convolutions (`convs`), a pixel shuffle (`shuffle`) and self-attention (`attention`), where
    `linear` stands between query, key or value and the tensors of each. `last_shuffle` is the convolution of the last
    pixel shuffle, `last_block` the convolutions of the last block, `to_colour` the last convolution.
    """

    convs: tuple[str, ...]
    shuffle: str
    last_shuffle: str
    attention: str
    linear: str
    last_block: str
    to_colour: str

    def translate(self, name: str) -> str:
        """Return their name of the tensor that is `name` in `UNet.state_dict()`; raise KeyError if there is none."""
        parts = name.split(".")
        for length in range(len(parts) - 1, 0, -1):
            module, tensor = ".".join(parts[:length]), ".".join(parts[length:])
            if module in self._modules:
                return f"{self._modules[module]}.{_TENSORS.get(tensor, tensor)}"
        raise KeyError(name)

    @cached_property
    def _modules(self) -> dict[str, str]:
        """Our modules -> theirs; what lies deeper is the same but for `_TENSORS`."""
        modules = {"encoder.conv1": "layers.0.0", "encoder.bn1": "layers.0.1", "bottom_norm": "layers.1"}
        modules |= {f"encoder.layer{number}": f"layers.0.{3 + number}" for number in range(1, 5)}
        layers = {f"bottom.{index}": f"layers.3.{index}" for index in range(2)}
        for index in range(4):
            ours, theirs = f"up_blocks.{index}", f"layers.{4 + index}"
            modules[f"{ours}.skip_norm"] = f"{theirs}.bn"
            modules[f"{ours}.up.layer.conv"] = f"{theirs}.{self.shuffle}.0"
            modules[f"{ours}.up.layer.norm"] = f"{theirs}.{self.shuffle}.1"
            layers |= {f"{ours}.conv{number}": f"{theirs}.{conv}" for number, conv in enumerate(self.convs, 1)}
            modules[f"{ours}.attention"] = f"{theirs}.{self.attention}"
            for linear in ("query", "key", "value"):
                modules[f"{ours}.attention.{linear}"] = f"{theirs}.{self.attention}.{linear}{self.linear}"
        layers |= {"last_up.layer": self.last_shuffle, "to_colour": self.to_colour}
        layers |= {f"last_block.conv{number}": f"{self.last_block}.{number - 1}" for number in (1, 2)}
        for ours, theirs in layers.items():
            modules |= {f"{ours}.conv": f"{theirs}.0", f"{ours}.norm": f"{theirs}.2"}
        return modules


# PyTorch called the parts of a normed weight so before it had parametrizations.
_TENSORS = {
    "parametrizations.weight.original0": "weight_g",
    "parametrizations.weight.original1": "weight_v",
    "parametrizations.weight.original": "weight_orig",
    "parametrizations.weight.0._u": "weight_u",
    "parametrizations.weight.0._v": "weight_v",
}

_FASTAI_1 = {
    "shuffle": "shuf.conv",
    "last_shuffle": "layers.8.conv",
    "linear": "",
    "last_block": "layers.10.layers",
    "to_colour": "layers.11",
}
DEOLDIFY_DEEP = Spelling(convs=("conv1", "conv2"), attention="conv2.3", **_FASTAI_1)
DEOLDIFY_WIDE = Spelling(convs=("conv",), attention="conv.3", **_FASTAI_1)
FASTAI_2 = Spelling(
    convs=("conv1", "conv2"),
    shuffle="shuf.0",
    last_shuffle="layers.8.0",
    attention="conv2.2",
    linear=".0",
    last_block="layers.11.convpath",
    to_colour="layers.12",
)
