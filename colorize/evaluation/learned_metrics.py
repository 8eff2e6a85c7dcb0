"""Metrics that look through a pretrained network, LPIPS and FID, and their weights."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torchmetrics.functional.image.lpips import _LPIPS  # its public classes can only download their backbones

from colorize.runtime.errors import UserError, brief, missing_packages_told
from colorize.runtime.log import log
from colorize.weights.pretrained import download, load_pretrained, read_state_dict

BACKBONES = {"lpips_alex": "alexnet", "lpips_vgg": "vgg16"}  # torchvision's name of the network behind each LPIPS
MOST_LPIPS_PIXELS = 1 << 20  # LPIPS sees larger images reduced to this: its networks' memory grows with the image
INCEPTION_FEATURES = 2048


class Lpips(nn.Module):
    """Learned perceptual image patch similarity (Zhang et al. 2018), version 0.1 with its linear weights.

    `name` is of `BACKBONES`; `source`, `option` and the UserError are those of `load_pretrained`.
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

    `source` is "imagenet" (torch-fidelity's file, downloaded where torch's cache lacks it) or the file's path. Raises
    UserError, naming the key `option`, where torch-fidelity is not installed or the weights cannot be had.
    """

    def __init__(self, source: str, option: str) -> None:
        super().__init__()
        with missing_packages_told():
            from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3
            from torchmetrics.image.fid import NoTrainInceptionV3
        file = Path(source).expanduser()
        if source == "imagenet":
            file = download(URL_INCEPTION_V3, 91, option)
        read_state_dict(file, option)  # refuses code, which torch-fidelity itself would execute
        try:
            self.network = NoTrainInceptionV3("inception-v3-compat", [str(INCEPTION_FEATURES)], str(file))
        except Exception as error:  # other tensors, or another format of file
            raise UserError(f"{option}: {file} is not torch-fidelity's Inception: {brief(error)}") from error

    def forward(self, images: Tensor) -> Tensor:
        """Return ``(B, INCEPTION_FEATURES)`` of ``(B, 3, H, W)``, RGB in [0, 1], which is rounded to 8 bits."""
        return self.network((images.clamp(0, 1) * 255).round().to(torch.uint8))


def moments(features: Tensor) -> Tensor:
    """Sum up products of ``(B, n)`` and a column of ones: ``(n + 1, n + 1)`` float64, which adds up over batches."""
    extended = nn.functional.pad(features.detach().cpu().double(), (0, 1), value=1.0)
    return extended.T @ extended


def frechet_distance(first: Tensor, second: Tensor) -> float:
    """Return the Fréchet inception distance (Heusel et al. 2017) of two `moments`, each of two images or more."""
    means, covariances = [], []
    for sums in (first, second):
        count, mean = sums[-1, -1], sums[-1, :-1] / sums[-1, -1]
        if count < 2:
            raise ValueError("a covariance needs at least two images")
        means.append(mean)
        covariances.append((sums[:-1, :-1] - count * torch.outer(mean, mean)) / (count - 1))
    # The trace of the root of the product, by symmetric matrices: theirs are exact where a general root is not.
    values, vectors = torch.linalg.eigh(covariances[0])
    root = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
    cross = torch.linalg.eigvalsh(root @ covariances[1] @ root).clamp_min(0).sqrt().sum()
    distance = (means[0] - means[1]).square().sum() + sum(covariance.trace() for covariance in covariances) - 2 * cross
    return max(0.0, float(distance))


class Learned:
    """Learned metrics that can be had here, and why the others cannot.

    `sources` says for each "imagenet" (the published weights, or a note in `missing`), "none" (no such column), or the
    path of their file; messages name its key `option.NAME`. Raises UserError where a file is missing or does not fit.
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
