"""Metrics that look through a pretrained network, LPIPS and FID, and their weights."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics.functional.image.lpips import _LPIPS  # its public classes can only download their backbones

from colorize.runtime import distributed
from colorize.runtime.errors import UserError
from colorize.weights.pretrained import download, load_pretrained, read_state_dict

log = logging.getLogger("colorize")

BACKBONES = {"lpips_alex": "alexnet", "lpips_vgg": "vgg16"}
"""Torchvision's name of the network behind each LPIPS."""

MOST_LPIPS_PIXELS = 1 << 20
"""LPIPS sees larger images reduced to this: its networks' memory grows with the image."""

INCEPTION_FEATURES = 2048


class Lpips(nn.Module):
    """Learned perceptual image patch similarity, version 0.1 with its linear weights, by torchmetrics.

    Zhang, Isola, Efros, Shechtman & Wang, "The unreasonable effectiveness of deep features as a perceptual metric",
    CVPR 2018. `name` is "lpips_alex" or "lpips_vgg", `source` of its backbone as
    :func:`colorize.weights.pretrained.load_pretrained` takes it; messages name the key `option`, which set it. Raises
    UserError where the weights cannot be had.
    """

    def __init__(self, name: str, source: str, option: str) -> None:
        super().__init__()
        self.lpips = _LPIPS(net="alex" if name == "lpips_alex" else "vgg", pnet_rand=True)
        backbone = nn.Module()  # the layers that torchmetrics has taken apart, under torchvision's names again
        backbone.features = nn.ModuleDict(
            {index: layer for part in self.lpips.net.children() for index, layer in part.named_children()}
        )
        load_pretrained(backbone, BACKBONES[name], source, option)

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Return the distance of each pair, ``(B,)``, from ``(B, 3, H, W)`` RGB in [0, 1] twice; 0 if identical."""
        images = torch.cat([prediction, target])
        height, width = images.shape[-2:]
        if height * width > MOST_LPIPS_PIXELS:
            scale = (MOST_LPIPS_PIXELS / (height * width)) ** 0.5
            size = (round(height * scale), round(width * scale))
            images = nn.functional.interpolate(images, size, mode="bicubic", antialias=True).clamp(0, 1)
        distance: Tensor = self.lpips(*(2 * images - 1).chunk(2))
        return distance.flatten()


class Inception(nn.Module):
    """The features of FID: TensorFlow's Inception v3 in torch-fidelity's port, on antialiased 299 × 299 px.

    `source` is "imagenet" (torch-fidelity's file, downloaded where torch's cache lacks it) or the file's path; messages
    name the key `option`, which set it. Raises UserError where torch-fidelity is not installed or the weights cannot be
    had.
    """

    def __init__(self, source: str, option: str) -> None:
        super().__init__()
        try:
            from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3
            from torchmetrics.image.fid import NoTrainInceptionV3
        except ImportError as error:
            raise UserError("FID needs torch-fidelity: pip install torch-fidelity (or 'colorize[metrics]')") from error
        file = Path(source).expanduser()
        if source == "imagenet":
            file = download(URL_INCEPTION_V3, 91, option)
        read_state_dict(file, option)  # refuses code, which torch-fidelity itself would execute
        try:
            self.network = NoTrainInceptionV3("inception-v3-compat", [str(INCEPTION_FEATURES)], str(file))
        except Exception as error:  # other tensors, or another format of file
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"{option}: {file} is not torch-fidelity's Inception: {reason}") from error

    def forward(self, images: Tensor) -> Tensor:
        """Return ``(B, INCEPTION_FEATURES)`` of ``(B, 3, H, W)``, RGB in [0, 1], which is rounded to 8 bits."""
        return self.network((images.clamp(0, 1) * 255).round().to(torch.uint8))


class FeatureStatistics:
    """Mean and covariance of features, in memory that does not grow with their number."""

    def __init__(self) -> None:
        self.count = 0
        self._sum: Any = 0.0
        self._products: Any = 0.0

    def update(self, features: Tensor) -> None:
        """Add ``(B, features)``."""
        features = features.detach().cpu().double()
        self.count += len(features)
        self._sum = self._sum + features.sum(dim=0)
        self._products = self._products + features.T @ features

    def over_ranks(self) -> "FeatureStatistics":
        """Return the statistics of the features of all ranks."""
        found = FeatureStatistics()
        for part in distributed.gathered(self):
            found.count += part.count
            found._sum, found._products = found._sum + part._sum, found._products + part._products
        return found

    def moments(self) -> tuple[Tensor, Tensor]:
        """Return the mean ``(features,)`` and covariance ``(features, features)``, float64.

        Raises ValueError for fewer than two images so far.
        """
        if self.count < 2:
            raise ValueError("a covariance needs at least two")
        mean = self._sum / self.count
        return mean, (self._products - self.count * torch.outer(mean, mean)) / (self.count - 1)


def frechet_distance(first: FeatureStatistics, second: FeatureStatistics) -> float:
    """Return the Fréchet inception distance of two sets of images, seen as normal distributions of their features.

    Heusel, Ramsauer, Unterthiner, Nessler & Hochreiter, "GANs trained by a two time-scale update rule converge to a
    local Nash equilibrium", NeurIPS 2017. Raises ValueError for fewer than two images in one of them.
    """
    (mean1, covariance1), (mean2, covariance2) = first.moments(), second.moments()
    # The trace of the root of the product, by symmetric matrices: theirs are exact where a general root is not.
    values, vectors = torch.linalg.eigh(covariance1)
    root = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
    cross = torch.linalg.eigvalsh(root @ covariance2 @ root).clamp_min(0).sqrt().sum()
    distance = (mean1 - mean2).square().sum() + covariance1.trace() + covariance2.trace() - 2 * cross
    return max(0.0, float(distance))


class Learned:
    """Learned metrics that can be had here, and why the others cannot.

    `sources` says for each of lpips_alex, lpips_vgg and fid: "imagenet" (the published weights, or a note in `missing`
    where they cannot be had), "none" (no such column), or the path of their file. `option` is the beginning of the keys
    that set them, for the messages. Raises UserError where a given file is missing or does not fit.
    """

    def __init__(self, sources: Mapping[str, str], option: str, device: torch.device) -> None:
        self.missing: dict[str, str] = {}
        self.networks: dict[str, nn.Module] = {}
        for name, source in sources.items():
            if source == "none":
                continue
            key = f"{option}.{name}"
            try:
                network = Inception(source, key) if name == "fid" else Lpips(name, source, key)
            except UserError as error:
                if source != "imagenet":
                    raise
                self.missing[name] = " ".join(str(error).split())
                log.warning(f"no {name}: {self.missing[name]}")
                continue
            self.networks[name] = network.eval().requires_grad_(False).to(device)
