"""The method's four steps as a user of fastai v2 would take them, in a given time: for the comparison in RESULTS.md.

    PEER_PYTHON fastai_train.py PHOTOS OUT --val LIST --encoder resnet34.pth --vgg vgg16_bn.pth \
        --gen-seconds 300 900 --critic-seconds 100 --gan-seconds 300

Seconds are those of a processor, and all work is done in one process: `OMP_NUM_THREADS=1` makes them seconds of a core,
whatever else the machine does. A short trial before each fit says how many steps go into them. Into OUT/gen and OUT/gan
go the photos of LIST (a path a line) as coloured after steps 1 and 4; into OUT/gen_luma and OUT/gan_luma the same with
the chroma alone, on the photo's own luma.
"""

import argparse
import json
import random
import time
import warnings
from collections.abc import Sequence
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import torch
from fastai.callback.core import Callback, CancelFitException
from fastai.data.block import DataBlock, RegressionBlock
from fastai.data.transforms import Normalize
from fastai.learner import Learner
from fastai.optimizer import Adam
from fastai.torch_core import set_seed
from fastai.vision.augment import RandomResizedCrop, aug_transforms
from fastai.vision.core import PILImage, PILImageBW, imagenet_stats
from fastai.vision.data import ImageBlock
from fastai.vision.gan import AdaptiveGANSwitcher, AdaptiveLoss, GANDiscriminativeLR, GANLearner
from fastai.vision.learner import _resnet_split, create_vision_model, unet_learner
from fastai_fit import GENERATOR, Content
from PIL import Image
from torch import nn
from torchvision.models import ResNet, resnet34
from torchvision.transforms.functional import normalize, pil_to_tensor, to_pil_image

TRIAL_STEPS = 6
CPU = torch.device("cpu")


class Budget(Callback):
    """Ends a fit where its seconds are used up."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def before_fit(self) -> None:
        self.until = time.process_time() + self.seconds

    def after_batch(self) -> None:
        if time.process_time() > self.until:
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


def fit_for(learner: Any, loader_of: Any, batch: int, seconds: float, rate: slice) -> int:
    """One cycle of as many steps as take `seconds`; how many these were."""
    before = deepcopy(learner.model.state_dict())
    learner.dls = loader_of(batch * (TRIAL_STEPS + 1))
    with learner.no_bar(), learner.no_logging():
        learner.fit(1, 0.0)  # warms up
        learner.dls = loader_of(batch * TRIAL_STEPS)
        start = time.process_time()
        learner.fit(1, 0.0)
        steps = int(seconds / ((time.process_time() - start) / TRIAL_STEPS))
        learner.model.load_state_dict(before)
        learner.opt = None
        learner.dls = loader_of(batch * steps)
        learner.fit_one_cycle(1, rate, pct_start=0.25, wd=1e-3, cbs=[Budget(1.1 * seconds)])
    return steps


@torch.inference_mode()
def colour(model: nn.Module, grey: Sequence[Image.Image], batch: int = 50) -> list[Image.Image]:
    """Pictures of one size, coloured."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in imagenet_stats)
    model.eval()
    made = []
    for start in range(0, len(grey), batch):
        some = torch.stack([pil_to_tensor(picture.convert("RGB")) for picture in grey[start : start + batch]]) / 255
        made += [
            (y * std + mean).clamp(0, 1) for y in model(normalize(some, *imagenet_stats)).as_subclass(torch.Tensor)
        ]
    return [to_pil_image(rgb) for rgb in made]


def save_validation(model: nn.Module, photos: Sequence[Path], out: Path) -> None:
    """What the generator makes of the validation photos, as it comes and with their luma."""
    for own_luma in (False, True):
        folder = out.with_name(out.name + "_luma" * own_luma)
        folder.mkdir(parents=True, exist_ok=True)
        grey = [Image.open(photo).convert("L") for photo in photos]
        for photo, luma, made in zip(photos, grey, colour(model, grey), strict=True):
            if own_luma:
                _, *chroma = made.convert("YCbCr").split()
                made = Image.merge("YCbCr", (luma, *chroma)).convert("RGB")
            made.save(folder / f"{photo.stem}.png")


def main() -> None:
    """Take the four steps; print a JSON line each."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("photos", type=Path, help="the training photos: a folder, with folders")
    options.add_argument("out", type=Path)
    options.add_argument("--val", type=Path, required=True, help="file of paths, squares of the last size")
    options.add_argument("--encoder", type=Path, required=True, help="state dict of torchvision's resnet34")
    options.add_argument("--vgg", type=Path, required=True, help="state dict of torchvision's vgg16_bn")
    options.add_argument("--sizes", type=int, nargs="+", default=[32, 64])
    options.add_argument("--batch", type=int, default=16)
    options.add_argument("--gen-seconds", type=float, nargs="+", required=True, help="one for each size")
    options.add_argument("--saved", type=int, default=1000, help="photos of step 2")
    options.add_argument("--critic-seconds", type=float, required=True)
    options.add_argument("--gan-seconds", type=float, required=True)
    options.add_argument("--feature-weights", type=float, nargs=3, default=[5.0, 15.0, 2.0])
    options.add_argument("--seed", type=int, default=0)
    given = options.parse_args()
    warnings.filterwarnings("ignore")
    set_seed(given.seed)
    files = sorted(path for path in given.photos.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    validation = [Path(line) for line in given.val.read_text().splitlines() if line]
    last_px = given.sizes[-1]

    def arch(pretrained: bool = False) -> ResNet:
        network = resnet34(weights=None)
        network.load_state_dict(torch.load(given.encoder, weights_only=True), strict=False)
        return network

    content = Content(given.feature_weights, torch.load(given.vgg, weights_only=True))
    generator = unet_learner(
        pairs(files, given.batch * 2, last_px, given.batch),
        arch,
        pretrained=False,
        **GENERATOR,
        loss_func=content,
        splitter=_resnet_split,
    )
    for number, (size_px, seconds) in enumerate(zip(given.sizes, given.gen_seconds, strict=True)):
        generator.freeze() if number == 0 and len(given.sizes) > 1 else generator.unfreeze()
        loader_of = partial(pairs, files, size_px=size_px, batch=given.batch)
        steps = fit_for(generator, loader_of, given.batch, seconds, slice(1e-4, 1e-3))
        print(json.dumps({"step": "pretrain_gen", "size_px": size_px, "images": steps * given.batch}), flush=True)
    save_validation(generator.model, validation, given.out / "gen")

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
        judged(chosen, saved, given.batch * 2, last_px, given.batch),
        create_vision_model(arch, 1, pretrained=False),
        loss_func=AdaptiveLoss(nn.BCEWithLogitsLoss()),
        splitter=_resnet_split,
    )
    loader_of = partial(judged, chosen, saved, size_px=last_px, batch=given.batch)
    steps = fit_for(critic, loader_of, given.batch, given.critic_seconds, slice(1e-4, 1e-3))
    print(json.dumps({"step": "pretrain_critic", "images": steps * given.batch}), flush=True)

    generator.dls = pairs(files, 100_000, last_px, given.batch)
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
    print(json.dumps({"step": "gan", "images": (both.iter + 1) * given.batch}), flush=True)
    save_validation(both.model.generator, validation, given.out / "gan")


if __name__ == "__main__":
    main()
