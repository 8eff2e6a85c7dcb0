"""The peer: the method's networks and losses as a user of fastai v2 would train them, end to end from JPEGs.

    FASTAI_PYTHON fastai_fit.py PHOTOS --size 64 --batch 16 --steps 12

For an environment that has fastai, see benchmarks/train.py; it need not have colorize. First weights are random, for
timing needs no others. Prints a JSON line a phase; in phase gan each step trains one of the two networks in turn.
"""

import argparse
import json
import time
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from fastai.callback.core import Callback
from fastai.data.block import DataBlock
from fastai.data.transforms import Normalize, get_image_files
from fastai.layers import NormType
from fastai.learner import Learner
from fastai.optimizer import Adam
from fastai.vision.augment import Resize, aug_transforms
from fastai.vision.core import PILImage, PILImageBW, imagenet_stats
from fastai.vision.data import ImageBlock
from fastai.vision.gan import AdaptiveLoss, FixedGANSwitcher, GANLearner
from fastai.vision.learner import create_vision_model, unet_learner
from torch import Tensor, nn
from torchvision.models import resnet34, vgg16_bn
from torchvision.models.feature_extraction import create_feature_extractor

FEATURES = ("22", "32", "42")
"""VGG's layers before its last three pools."""

GENERATOR: dict[str, Any] = {
    "n_out": 3,
    "blur": True,
    "norm_type": NormType.Weight,
    "self_attention": True,
    "y_range": (-3.0, 3.0),
}
"""The paper's U-Net, as options of `unet_learner`."""


class Content(nn.Module):
    """Mean squared error of the pixels, and weighted mean absolute differences of VGG's features."""

    def __init__(self, weights: Sequence[float] = (20.0, 70.0, 10.0), vgg: Mapping[str, Tensor] | None = None) -> None:
        super().__init__()
        network = vgg16_bn(weights=None)
        if vgg is not None:
            network.load_state_dict(vgg, strict=False)
        self.vgg = create_feature_extractor(network.features.eval().requires_grad_(False), list(FEATURES))
        self.weights = weights

    def forward(self, made: Tensor, wanted: Tensor, reduction: str = "mean") -> Tensor:
        made, wanted = made.as_subclass(torch.Tensor), wanted.as_subclass(torch.Tensor)
        here, there = self.vgg(made), self.vgg(wanted)
        pixels = nn.functional.mse_loss(made, wanted)
        return pixels + sum(
            weight * nn.functional.l1_loss(here[key], there[key])
            for key, weight in zip(FEATURES, self.weights, strict=True)
        )


class Clock(Callback):
    """When each training step began."""

    def before_fit(self) -> None:
        self.begins: list[float] = []

    def before_batch(self) -> None:
        if self.training:
            self.begins.append(time.perf_counter())


def timed(learner: Any, phase: str, given: argparse.Namespace) -> None:
    """Fit an epoch, and say how fast it went after its first step."""
    clock = Clock()
    with learner.no_bar(), learner.no_logging():
        learner.fit(1, 1e-4, cbs=[clock])
    steps = min(len(clock.begins) - 2, given.steps)
    rate = given.batch * steps / (clock.begins[1 + steps] - clock.begins[1])
    print(json.dumps({"phase": phase, "steps": steps, "images_per_s_mean": rate}), flush=True)


def main() -> None:
    """Time both phases."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("photos", type=Path)
    options.add_argument("--size", type=int, default=64)
    options.add_argument("--batch", type=int, default=16)
    options.add_argument("--steps", type=int, default=12)
    given = options.parse_args()
    warnings.filterwarnings("ignore")
    files = get_image_files(given.photos)[: given.batch * (given.steps + 2)]
    data = DataBlock(
        blocks=(ImageBlock, ImageBlock),
        get_items=lambda source: files,
        get_x=lambda path: PILImage.create(PILImageBW.create(path).convert("RGB")),
        splitter=lambda items: (list(range(len(items))), [0]),
        item_tfms=Resize(given.size),
        batch_tfms=[*aug_transforms(max_lighting=0.0, max_warp=0.0), Normalize.from_stats(*imagenet_stats)],
    ).dataloaders(given.photos, bs=given.batch, num_workers=2, drop_last=True)
    generator = unet_learner(
        data,
        resnet34,
        pretrained=False,
        **GENERATOR,
        loss_func=Content(),
    )
    generator.unfreeze()
    timed(generator, "pretrain_gen", given)
    loss = AdaptiveLoss(nn.BCEWithLogitsLoss())
    critic = Learner(data, create_vision_model(resnet34, 1, pretrained=False), loss_func=loss)
    both = GANLearner.from_learners(
        generator,
        critic,
        weights_gen=(1.0, 1.5),
        switcher=FixedGANSwitcher(1, 1),
        show_img=False,
        gen_first=False,
        opt_func=partial(Adam, mom=0.0),
    )
    timed(both, "gan", given)


if __name__ == "__main__":
    main()
