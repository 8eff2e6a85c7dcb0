"""Networks of other projects whose weights `UNet` holds: told apart, renamed, checked, loaded."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from colorize.networks.preprocessing import Preprocessing
from colorize.networks.unet import UNet
from colorize.runtime.errors import UserError
from colorize.weights.safe_reading import AGAIN, read_state, tensor_faults

_DEOLDIFY: dict[str, Any] = {"norm": "spectral", "last_blur": True, "relu_before_sum": True}
_RENDER_FACTOR_35 = Preprocessing(render_px=35 * 16, deoldify=True)


# Their networks are a list, `layers`: 0 encoder, 1 batch norm, 3 bottom, 4 to 7 up blocks, 8 last pixel shuffle, then
# the last block and the last convolution. A convolution with what follows is a list again: 0 the convolution, 1 ReLU
# (none in front of a pixel shuffle), then batch norm and self-attention. The names of a normed weight are those
# from before PyTorch had parametrizations.
_NAMES: dict[str, Any] = {
    r"^up_blocks\.(\d)": lambda match: f"layers.{4 + int(match[1])}",
    r"^encoder\.layer(\d)": lambda match: f"layers.0.{3 + int(match[1])}",
    r"^encoder\.conv1": "layers.0.0",
    r"^encoder\.bn1": "layers.0.1",
    r"^bottom_norm": "layers.1",
    r"^bottom": "layers.3",
    r"\.skip_norm": ".bn",
    r"\.up\.layer\.norm": ".up.layer.1",
    r"\.norm\.": ".2.",
    r"\.conv\.": ".0.",
    r"parametrizations\.weight\.original0": "weight_g",
    r"parametrizations\.weight\.original1": "weight_v",
    r"parametrizations\.weight\.original": "weight_orig",
    r"parametrizations\.weight\.0\._": "weight_",
}
_FASTAI_1 = {
    r"\.up\.layer": ".shuf.conv",
    r"^last_up\.layer": "layers.8.conv",
    r"^last_block\.conv1": "layers.10.layers.0",
    r"^last_block\.conv2": "layers.10.layers.1",
    r"^to_colour": "layers.11",
}
_FASTAI_2 = {
    r"\.attention\.(query|key|value)": r".attention.\1.0",
    r"\.attention": ".conv2.2",
    r"\.up\.layer": ".shuf.0",
    r"^last_up\.layer": "layers.8.0",
    r"^last_block\.conv1": "layers.11.convpath.0",
    r"^last_block\.conv2": "layers.11.convpath.1",
    r"^to_colour": "layers.12",
}


@dataclass(frozen=True)
class Source:
    """A network that another project publishes, called `title` in a sentence.

    `model` is our preset with the same architecture, as in `model=paper`; `options` are those of `UNet` that differ
    from its defaults; `preprocessing` is what is usual for it, as its files do not say; `names` are, beside `_NAMES`,
    parts of our tensors' names (patterns) and what is called so there; `mark` matches names that only this network has.
    """

    title: str
    model: str
    options: Mapping[str, Any]
    preprocessing: Preprocessing
    names: Mapping[str, str]
    mark: re.Pattern[str]

    def translate(self, name: str) -> str:
        for ours, theirs in (*_NAMES.items(), *self.names.items()):
            name = re.sub(ours, theirs, name)
        return name


SOURCES = (
    Source(
        title="DeOldify's Artistic generator",
        model="deoldify_artistic",
        options={"width_factor": 1.5, **_DEOLDIFY},
        preprocessing=_RENDER_FACTOR_35,
        names=_FASTAI_1 | {r"\.attention": ".conv2.3"},
        mark=re.compile(r"layers\.[4-7]\.conv[12]\.0\.weight_orig"),
    ),
    Source(
        title="DeOldify's Stable or Video generator",
        model="deoldify_stable",
        options={"encoder": "resnet101", "width_factor": 2.0, "block_width": 256, "block_convs": 1, **_DEOLDIFY},
        preprocessing=_RENDER_FACTOR_35,
        names=_FASTAI_1 | {r"^(layers\.[4-7])\.conv1": r"\1.conv", r"\.attention": ".conv.3"},
        mark=re.compile(r"layers\.[4-7]\.conv\.0\.weight_orig"),
    ),
    Source(
        title="fastai 2's DynamicUnet (ResNet-34, weight norm, self-attention, last cross)",
        model="paper",
        options={},
        preprocessing=Preprocessing(render_px=220),
        names=_FASTAI_2,
        mark=re.compile(r"layers\.[4-7]\.shuf\.0\.0\.weight_[gv]"),
    ),
)


def recognise(state: Mapping[str, Any]) -> Source | None:
    """Return the network whose state dict this is, by the names of its tensors; None where it is none of `SOURCES`.

    Files do not state the blur and the output range of fastai's network: the reference's are assumed.
    """
    return next((source for source in SOURCES if any(source.mark.fullmatch(name) for name in state)), None)


def load(path: str | Path) -> UNet:
    """Read the generator in a file of DeOldify or fastai, executing nothing in it, as `make_unet` does."""
    return make_unet(read_state(path), path)


def make_unet(state: Mapping[str, Tensor], path: str | Path) -> UNet:
    """Make a `UNet` of another project's tensors. Raises UserError if they are not of `SOURCES`, or not finite."""
    source = recognise(state)
    if source is None:
        if any("up_blocks." in name for name in state):
            raise UserError(
                f"{path} holds tensors as this program names them: read it with colorize.Colorizer.from_checkpoint, or "
                "with UNet(…).load_state_dict"
            )
        known, first = ", ".join(source.title for source in SOURCES), ascii(next(iter(state), None))
        raise UserError(
            f"{path} holds {len(state)} tensors (first: {first}) of a network not known here; known are {known}"
        )
    with torch.device("meta"):  # neither memory nor random numbers
        unet = UNet(**source.options)
    own = unet.state_dict()
    names = {source.translate(name): name for name in own}
    faults = tensor_faults({theirs: own[name].shape for theirs, name in names.items()}, state)
    if faults:
        raise UserError(
            f"{path} looks like {source.title}, but does not fit it: of {len(names)} tensors, {faults}; "
            "give the file as its project wrote it"
        )
    for theirs, name in names.items():
        own[name] = state[theirs].to(own[name].dtype, copy=True)
        if not own[name].sum().isfinite():  # of whole tensors, much faster than of each value
            raise UserError(f"{path} is damaged: tensor {theirs} holds values that are not finite: {AGAIN}")
    unet.load_state_dict(own, assign=True)
    return unet.eval()
