"""The sections of the configuration that commands share: every key of `data`, `model`, `loss`, `optim` and so on."""

from dataclasses import dataclass

from omegaconf import MISSING as REQUIRED

from colorize.networks.options import ENCODERS, LightUNetOptions, UNetOptions
from colorize.runtime.processes import spare_cores
from colorize.runtime.schema import node, opt

PRECISION = "numbers: auto is bf16 where the device is fast at it, else 32-bit; 32-true is exact"
PRECISIONS = ("auto", "32-true", "bf16-mixed", "16-mixed")


@dataclass
class OldPhotoConfig:
    gamma: float = opt(0.0, "grey to the power exp(u), u from minus this to this (0.35: 0.7 to 1.4)", least=0, most=2)
    contrast: float = opt(0.0, "distances from the photo's mean grey times a factor of up to 1 ± this", least=0, most=1)
    blur_px: float = opt(0.0, "blur of a third of the photos: up to this sigma, in px of the square", least=0, most=5)


@dataclass
class SourceConfig:
    root: str = opt(REQUIRED, "folder with the photos (train/ and val/ inside are used if there)", path=True)
    num_workers: int | None = opt(
        None, "processes that decode photos (null: cores / devices - 1, from 1 to 8; 0: in the main process)", least=0
    )

    def workers(self, devices: int) -> int:
        """Return `num_workers`, or those of one of so many devices of this machine."""
        return spare_cores(devices) if self.num_workers is None else self.num_workers


@dataclass
class DataConfig(SourceConfig):
    kind: str = opt(
        REQUIRED, "how the photos are found; set by data=NAME", choices=("folder", "imagenet", "shards", "scenes")
    )
    root: str = opt(
        REQUIRED, "folder with the photos (train/ and val/ inside are used if there); shards: or URL", path=True
    )
    scenes: int = opt(4000, "scenes: how many images to draw, training and validation together", least=2)
    val_fraction: float = opt(0.05, "share of photos for validation where the folder has no val/", least=0, most=1)
    train_fraction: float = opt(1.0, "share of the training photos to use, chosen by identity", least=1e-06, most=1)
    max_val: int | None = opt(1000, "at most this many validation photos (null: all)", least=1)
    val_size_px: int | None = opt(None, "side of the validation squares (null: the last training size)", least=32)
    val_batch_size: int = opt(16, "validation photos a batch", least=1)
    crop_scale: list[float] = opt([0.5, 1.0], "random crop: smallest and largest share of the photo's area")
    crop_ratio: list[float] = opt([0.75, 1.3333], "random crop: narrowest and widest shape, width / height")
    flip: bool = opt(True, "mirror half of the training photos")
    noise: float = opt(0.0, "largest sigma of noise on training photos' grey, not in pretrain_critic", least=0, most=1)
    old_photo: OldPhotoConfig = node(OldPhotoConfig, "an old look for training photos' grey, applied where noise is")
    min_colourfulness: float | None = opt(None, "train on no duller photos (dull: under 15; null: on all)", least=0)
    max_unreadable: int = opt(100, "unreadable files that are skipped before training stops with their list", least=0)


@dataclass
class ModelConfig(UNetOptions, LightUNetOptions):
    name: str = opt(REQUIRED, "name of the preset; set by model=NAME")
    decoder: str = opt(
        "unet",
        "unet: fastai's DynamicUnet, as the paper; light: chroma at 1/4 of the size, refined at 1/2, for CPUs",
        choices=("unet", "light"),
    )
    encoder_weights: str = opt("imagenet", "its first weights: imagenet, none, or a state dict as published", path=True)
    critic: str = opt("resnet34", "critic; patch: one logit per 70 x 70 px, no weights", choices=(*ENCODERS, "patch"))
    critic_weights: str = opt("imagenet", "its first weights: imagenet, none, or a state dict as published", path=True)
    vgg: str = opt("vgg16_bn", "network of the perceptual loss", choices=("vgg16", "vgg16_bn"))
    vgg_weights: str = opt("imagenet", "its weights: imagenet, none, or a torchvision state dict", path=True)


@dataclass
class LossConfig:
    pixel: str = opt("mse", "pixel loss, on ImageNet-normalised colours", choices=("mse", "l1"))
    pixel_weight: float = opt(1.0, "weight of the pixel loss in the content loss", least=0)
    feature_layers: list[int] | None = opt(None, "VGG layers compared (null: the ReLUs before pools 3, 4 and 5)")
    feature_weights: list[float] = opt([20.0, 70.0, 10.0], "weight of each (all 0: no perceptual loss)", least=0)
    distribution_weight: float = opt(1.0, "model.output=bins: weight of the cross-entropy", least=0)
    rebalance: float = opt(0.75, "bins: 1 counts pixels alike; towards 0 rare colours get stronger", least=0, most=1)
    chroma_weight: float = opt(0.0, "chroma, bins: weight of the distance of Lab's a and b, in units of 110", least=0)
    content: float = opt(1.0, "weight of the content loss (all of the above together) for the generator")
    adversarial: float = opt(1.0, "weight of the adversarial loss for the generator, in phase gan")
    adversarial_share: float | None = opt(
        None, "gan: scale the adversarial gradient to this share of both (null: as weighted)", least=1e-6, most=0.999
    )
    gan: str = opt("bce", "loss of the critic, and the generator's by it", choices=("bce", "hinge"))
    real_chroma: float = opt(1.0, "chroma of real photos times this, for the critic alone (DDColor: 1.2)", least=0)


@dataclass
class NetworkOptimConfig:
    lr: float = opt(1e-3, "highest learning rate, that of the last layer group", least=0)
    lr_multipliers: list[float] = opt([0.01, 0.1, 1.0], "factors on it for the groups low, high, last (discriminative)")
    freeze_low: list[int] | None = opt(None, "epochs [first, end), from 0, with the low group frozen (end -1: all on)")
    freeze_high: list[int] | None = opt(None, "the same for the high group; must lie within freeze_low")
    frozen_norms: str = opt(
        "statistics",
        "BatchNorm layers of a frozen group: kept, only their statistics, or their parameters too",
        choices=("fixed", "statistics", "learn"),
    )
    norms: str = opt(
        "learn", "norms of what learns: by the batch, or by fixed statistics (few photos)", choices=("learn", "fixed")
    )
    schedule: str = opt("one_cycle", "learning rate over the training", choices=("one_cycle", "constant"))
    pct_start: float = opt(0.25, "one_cycle: share of the training in which the learning rate rises")
    betas: list[float] = opt([0.9, 0.99], "Adam's betas")
    weight_decay: float = opt(1e-3, "decoupled weight decay (not on normalisation layers and biases)", least=0)
    clip_norm: float | None = opt(1.0, "largest gradient norm (null: no clipping)")


@dataclass
class OptimConfig:
    generator: NetworkOptimConfig = node(NetworkOptimConfig, "groups encoder_low, encoder_high, decoder")
    critic: NetworkOptimConfig = node(NetworkOptimConfig, "groups body_low, body_high, head")


@dataclass
class SwitchConfig:
    mode: str = opt("adaptive", "which network a batch trains in phase gan", choices=("adaptive", "fixed"))
    threshold: float = opt(0.65, "adaptive: train the critic until its batch loss is below this (chance: 0.693)")
    max_critic_steps: int = opt(5, "adaptive: at most this many critic steps in a row", least=1)
    critic_steps: int = opt(1, "fixed: critic steps, then")
    generator_steps: int = opt(1, "fixed: generator steps, and again")


@dataclass
class ResolutionConfig:
    size_px: list[int] = opt([64, 128, 220], "progressive resizing: side of the training squares by stage", least=32)
    batch_size: list[int] = opt([256, 64, 24], "photos a step in each stage, over all devices together", least=1)
    epochs: list[int] = opt([1, 1, 1], "epochs in each stage; their sum is the length of the training", least=0)
    steps: list[int] | None = opt(None, "at least so many steps a stage, by as many epochs as that takes, not epochs")
    images: list[int] | None = opt(None, "images in each stage, that end and go on inside epochs, not epochs", least=0)
    batch_share: float | None = opt(None, "largest share of the photos in a batch, at least 4 (null: any)", least=1e-06)
    batch_scale: float = opt(1.0, "factor on every batch size *and* learning rate, to fit another memory", least=1e-06)
    rate_scale: str = opt(
        "none",
        "factor on a stage's learning rates: its batch over the first stage's (linear), the root of that (sqrt), or 1",
        choices=("none", "sqrt", "linear"),
    )

    @property
    def scaled_batches(self) -> list[int]:
        return [max(1, round(size * self.batch_scale)) for size in self.batch_size]

    @property
    def stages(self) -> list[int]:
        """Stage of each epoch."""
        return [stage for stage, epochs in enumerate(self.epochs) for _ in range(epochs)]

    @property
    def last_size_px(self) -> int:
        """Training size of the last stage that has an epoch: what a validation is to look at."""
        return self.size_px[self.stages[-1]]


@dataclass
class EmaConfig:
    half_life_images: int | None = opt(None, "half-life of the average, in images learned from (null: none)", least=1)
    half_life_share: float | None = opt(None, "the same as a share of the images of the whole phase", least=1e-06)
    ramp_up: float = opt(0.05, "half-life ≤ this share of images learned from so far (0: full at once)", least=0)


@dataclass
class SaveConfig:
    every_n_images: int | None = opt(None, "keep checkpoints this often, inside epochs (null: every_share)", least=1)
    every_share: float | None = opt(None, "the same, as a share of the images of the whole phase", least=1e-06, most=1)
    keep: int | None = opt(5, "how many of those to keep, the newest (null: all)", least=1)
    every_n_minutes: float | None = opt(30, "write last.ckpt so often inside epochs (null: with kept ones)", least=0)
    score_photos: int = opt(256, "fixed validation photos on which they and epochs of phase gan are scored", least=1)

    def every(self, phase_images: int) -> int | None:
        """Return how many images apart kept checkpoints are, in a phase of so many; `every_n_images` goes first."""
        if self.every_n_images is not None or self.every_share is None:
            return self.every_n_images
        return max(1, round(self.every_share * phase_images))


@dataclass
class InitFromConfig:
    generator: str | None = opt(None, "weights (or the word bundled) that give a new phase its generator", path=True)
    critic: str | None = opt(None, "checkpoint that gives a new phase its critic (weights only)", path=True)


@dataclass
class DevicesConfig:
    accelerator: str = opt("auto", "Lightning accelerator", choices=("auto", "cpu", "gpu", "cuda", "mps"))
    precision: str = opt("auto", PRECISION, choices=PRECISIONS)
    threads: int | None = opt(None, "cores of a process (null: all); leave one for each of data.num_workers", least=1)
    devices: int = opt(1, "how many devices of each machine, each with a process of its own", least=1)
    num_nodes: int = opt(1, "how many machines", least=1)


@dataclass
class TrainerConfig(DevicesConfig):
    limit_train_batches: int | None = opt(None, "train on this many batches an epoch (null: all)", least=1)
    limit_val_batches: int | None = opt(None, "validate on this many batches (null: all)", least=1)
    log_every_n_steps: int = opt(20, "batches between points in TensorBoard", least=1)
    sync_batchnorm: str = opt(
        "auto",
        "GPUs: batch norms go by the photos of all devices, or each by its own; auto: where that is fewer than 16",
        choices=("auto", "true", "false"),
    )
    logger: str | None = opt(None, "log to another of Lightning's loggers too: CSVLogger, MLFlowLogger, package.Class")
    deterministic: bool = opt(False, "only deterministic kernels")
    compile: bool = opt(False, "torch.compile of the networks: minutes at the start of each size, then faster on a GPU")
    enable_progress_bar: bool = opt(True, "show the progress bar")
