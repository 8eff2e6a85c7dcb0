"""Photos, augmentation and DataModules, made from a configuration."""

from dataclasses import asdict

from colorize.config import CommonConfig
from colorize.config.sections import DataConfig
from colorize.data.augment import Augmentation
from colorize.data.datamodule import ColorizationDataModule
from colorize.data.roots import existing_folder, imagenet_tree
from colorize.data.shards import list_shards
from colorize.data.sources import Photos, Split, list_folder, list_scenes
from colorize.data.survey import leave_out_dull
from colorize.runtime.schema import value_errors_as_bad_options


def make_photos(config: CommonConfig) -> Photos:
    """Return the photos of `data.root` in their split, without those too dull to train on."""
    data = config.data
    photos = list_photos(data, config.seed, config.runs_dir)
    if data.min_colourfulness is None:
        return photos
    return leave_out_dull(photos, data.min_colourfulness, config.runs_dir, data.workers(config.trainer.devices))


def list_photos(data: DataConfig, seed: int, runs_dir: str, val_alone: bool = False) -> Photos:
    """Return all photos of `data.root` in their split; with `val_alone`, a tree that has val/ and no train/ will do."""
    split = Split(data.val_fraction, seed, data.train_fraction, data.max_val)
    if data.kind == "scenes":
        return list_scenes(data.scenes, split)
    if data.kind == "shards":
        return list_shards(data.root, split, runs_dir)
    root = existing_folder(data.root)
    return list_folder(imagenet_tree(root, val_alone) if data.kind == "imagenet" else root, split, val_alone)


@value_errors_as_bad_options()
def make_augmentation(data: DataConfig) -> Augmentation:
    """Return the augmentation of training photos."""
    return Augmentation(
        crop_scale=tuple(data.crop_scale),
        crop_ratio=tuple(data.crop_ratio),
        flip=data.flip,
        noise=data.noise,
        **{f"old_{name}": value for name, value in asdict(data.old_photo).items()},
    )


def make_center_squares(config: CommonConfig, size_px: int, batch_size: int) -> ColorizationDataModule:
    """Return the photos as centre squares, outside training."""
    return ColorizationDataModule(
        make_photos(config),
        seed=config.seed,
        val_size_px=size_px,
        val_batch_size=batch_size,
        num_workers=config.data.workers(config.trainer.devices),
        max_unreadable=config.data.max_unreadable,
    )
