"""The networks of other projects whose weights `UNet` holds: told apart, renamed, checked, loaded."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from colorize.networks.unet import UNet
from colorize.runtime.errors import UserError
from colorize.weights.foreign_names import DEOLDIFY_DEEP, DEOLDIFY_WIDE, FASTAI_2, Spelling
from colorize.weights.safe_reading import AGAIN, read_state

_DEOLDIFY: dict[str, Any] = {"norm": "spectral", "last_blur": True, "relu_before_sum": True}


@dataclass(frozen=True)
class Source:
    """A network that another project publishes.

    Attributes:
        name: a short word for it.
        title: what to call it in a sentence.
        model: our preset with the same architecture, as in `model=paper`.
        options: those of `UNet` that differ from its defaults.
        spelling: how its tensors are called.
        mark: matches names of tensors that only this network has.
    """

    name: str
    title: str
    model: str
    options: Mapping[str, Any]
    spelling: Spelling
    mark: re.Pattern[str]


SOURCES = (
    Source(
        name="deoldify_artistic",
        title="DeOldify's Artistic generator",
        model="deoldify_artistic",
        options={"width_factor": 1.5, **_DEOLDIFY},
        spelling=DEOLDIFY_DEEP,
        mark=re.compile(r"layers\.[4-7]\.conv[12]\.0\.weight_orig"),
    ),
    Source(
        name="deoldify_stable",
        title="DeOldify's Stable or Video generator",
        model="deoldify_stable",
        options={"encoder": "resnet101", "width_factor": 2.0, "block_width": 256, "block_convs": 1, **_DEOLDIFY},
        spelling=DEOLDIFY_WIDE,
        mark=re.compile(r"layers\.[4-7]\.conv\.0\.weight_orig"),
    ),
    Source(
        name="fastai",
        title="fastai 2's DynamicUnet (ResNet-34, weight norm, self-attention, last cross)",
        model="paper",
        options={},
        spelling=FASTAI_2,
        mark=re.compile(r"layers\.[4-7]\.shuf\.0\.0\.weight_[gv]"),
    ),
)


def recognise(state: Mapping[str, Any]) -> Source | None:
    """The network whose state dict this is, by the names of its tensors; None where it is none of `SOURCES`.

    Whether all tensors are there, in their shapes, is for `make_unet` to say. A file does not state whether fastai's
    network was blurred nor its output range: the reference's are assumed (blur, -3 to 3).
    """
    return next((source for source in SOURCES if any(source.mark.fullmatch(name) for name in state)), None)


def load(path: str | Path) -> UNet:
    """The generator in a file of DeOldify (Artistic, Stable, Video) or fastai, in eval mode, on the CPU, in float32.

    Nothing in the file is executed. It holds the state dict itself, or has it under "model" as fastai's `Learner.save`
    does; PyTorch's zip format, the one before 1.6, or safetensors.

    Raises:
        UserError: what is wrong with the file and what to do: see `read_file`, `state_of` and `make_unet`.
    """
    return make_unet(read_state(path), path)


def make_unet(state: Mapping[str, Tensor], path: str | Path) -> UNet:
    """A `UNet` in eval mode, in float32, with a copy of the tensors, on the CPU, of another project's state dict.

    Raises:
        UserError: the network is none of `SOURCES`, its tensors are not exactly those it should have, or not all of
            their values are finite.
    """
    source = recognise(state)
    if source is None:
        raise UserError(_unknown(state, path))
    with torch.device("meta"):  # neither memory nor random numbers
        unet = UNet(**source.options)
    own = unet.state_dict()
    names = {source.spelling.translate(name): name for name in own}
    faults = _faults({theirs: own[name].shape for theirs, name in names.items()}, state)
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


def _unknown(state: Mapping[str, Tensor], path: str | Path) -> str:
    if any("up_blocks." in name for name in state):
        return (
            f"{path} holds tensors as this program names them: read it with colorize.Colorizer.from_checkpoint, or "
            "with UNet(…).load_state_dict"
        )
    known = ", ".join(source.title for source in SOURCES)
    first = ascii(next(iter(state), None))
    return f"{path} holds {len(state)} tensors (first: {first}) of a network not known here; known are {known}"


def _faults(wanted: Mapping[str, torch.Size], state: Mapping[str, Tensor]) -> str:
    """What is missing, surplus or misshaped, in words; empty where nothing is."""
    missing = [name for name in wanted if name not in state]
    surplus = [ascii(name) for name in state if name not in wanted]
    misshaped = [
        f"{name}, {tuple(state[name].shape)} instead of {tuple(shape)}"
        for name, shape in wanted.items()
        if name in state and state[name].shape != shape
    ]
    lists = {"missing": missing, "surplus": surplus, "of another shape": misshaped}
    return ", ".join(f"{len(names)} {fault} (first: {names[0]})" for fault, names in lists.items() if names)
