"""The schema of `conf/`: every key, its type, its default and its meaning.

Hydra checks each YAML file and each override against these dataclasses, so a misspelt key or a wrong type ends a
command at once; `--help` is generated from the same texts. YAML holds choices and numbers, this file the meanings.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING as REQUIRED

from colorize.runtime.formats import FORMAT_CHOICES
from colorize.runtime.schema import node, opt

ENCODERS = ("resnet10_half", "resnet18", "resnet34", "resnet101", "efficientnet_lite0")

WEIGHTS = "weights: checkpoint, export, file of DeOldify or fastai; the word bundled: those that come with this program"
SATURATION = "the networks' chroma times this: 0 is grey; beyond about 1.3 colours clip (luma is never touched)"


@dataclass
class JitterConfig:
    brightness: float = opt(0.0, "colours times a factor of up to 1 ± this", least=0)
    contrast: float = opt(0.0, "distances from the photo's mean grey times a factor of up to 1 ± this", least=0)
    saturation: float = opt(0.0, "distances of the colours from their grey times a factor of up to 1 ± this", least=0)
    hue: float = opt(0.0, "hues turned by up to this share of the colour circle either way, at most 0.5", least=0)


@dataclass
class OldPhotoConfig:
    gamma: float = opt(0.0, "grey to the power exp(u), u from minus this to this (0.35: 0.7 to 1.4)", least=0)
    contrast: float = opt(0.0, "distances from the photo's mean grey times a factor of up to 1 ± this", least=0)
    blur_px: float = opt(
        0.0, "a third of the photos blurred by up to this standard deviation, in pixels of the training square", least=0
    )


@dataclass
class DataConfig:
    kind: str = opt(REQUIRED, "how the photos are found; set by data=NAME", choices=("folder", "imagenet", "scenes"))
    root: str = opt(REQUIRED, "folder with the photos (any depth; train/ and val/ inside are used if there)", path=True)
    scenes: int = opt(4000, "scenes: how many pictures to draw, training and validation together", least=2)
    file_list: str | None = opt(None, "imagenet: text file of photos below data.root to use, a path a line", path=True)
    val_fraction: float = opt(0.05, "share of the photos kept for validation where the folder has no val/ of its own")
    train_fraction: float = opt(1.0, "share of the training photos to use, chosen by identity")
    max_val: int | None = opt(1000, "at most this many validation photos (null: all)", least=1)
    val_size_px: int | None = opt(None, "side of the validation squares (null: the last training size)", least=32)
    val_batch_size: int = opt(16, "validation photos a batch", least=1)
    crop_scale: list[float] = opt([0.5, 1.0], "random crop: smallest and largest share of the photo's area")
    crop_ratio: list[float] = opt([0.75, 1.3333], "random crop: narrowest and widest shape, width / height")
    flip: bool = opt(True, "mirror half of the training photos")
    rotation_deg: float = opt(0.0, "turn each training crop by up to this either way, within its photo", least=0)
    noise: float = opt(
        0.0,
        "greatest standard deviation of the noise on a training photo's grey, which is in [0, 1]; never on the target, "
        "nor in pretrain_critic, where no grey is coloured",
        least=0,
    )
    jitter: JitterConfig = node(JitterConfig, "colour jitter, drawn for each training photo, on grey and target")
    old_photo: OldPhotoConfig = node(
        OldPhotoConfig, "a grey that looks old, drawn for each training photo; where data.noise goes, and no further"
    )
    min_colourfulness: float | None = opt(
        None,
        "leave duller photos out of training, never out of validation: Hasler and Süsstrunk's figure, measured once "
        "at 64 px (grey: 0, dull: under 15; null: leave none out)",
        least=0,
    )
    report: bool = opt(False, "say what the photos are (sizes, greys, unreadable files), and stop")
    cache: str | None = opt(
        None, "folder for small copies of the training photos, made first and read instead (null: none)", path=True
    )
    cache_px: int = opt(
        256,
        "short side of the copies; crops too small in them come from the photo (1.7 times the size holds all)",
        least=32,
    )
    cache_gb: float = opt(20.0, "the most that copies of a data.root may take; the other photos go without", least=0)
    num_workers: int = opt(2, "processes that decode photos (0: in the main process)", least=0)
    max_unreadable: int = opt(100, "unreadable files that are skipped before the fit stops with their list", least=0)


@dataclass
class ModelConfig:
    name: str = opt(REQUIRED, "name of the preset; set by model=NAME")
    decoder: str = opt(
        "unet",
        "unet: fastai's DynamicUnet, as the paper; light: chroma at 1/4 of the size, refined at 1/2, for CPUs",
        choices=("unet", "light"),
    )
    encoder: str = opt("resnet34", "encoder of the generator", choices=ENCODERS)
    encoder_weights: str = opt("imagenet", "its first weights: imagenet, none, or a state dict as published", path=True)
    output: str = opt(
        "rgb",
        "what the generator predicts: rgb; chroma (Lab's a and b); bins, a distribution over cells of chroma",
        choices=("rgb", "chroma", "bins"),
    )
    temperature: float = opt(0.38, "bins: of the mean that is shown; 1 is the plain mean, near 0 the likeliest cell")
    keep_luma: bool = opt(False, "put the colours onto the input's luma inside the network, where losses see it too")
    widths: list[int] = opt([256, 192, 96, 64], "light: channels at 1/32, 1/16, 1/8 and 1/4 of the size")
    refine_width: int = opt(32, "light: channels of the refinement at 1/2 of the size (0: none)", least=0)
    width_factor: float = opt(1.0, "decoder width; 1 is fastai's DynamicUnet", least=0.01)
    block_width: int | None = opt(
        None, "channels of every up block, before width_factor (null: as many as come together in it)", least=2
    )
    block_convs: int = opt(2, "3x3 convolutions in an up block: 1 or 2", least=1)
    norm: str = opt(
        "weight",
        "normalisation in the decoder; spectral: with batch norm, as in DeOldify",
        choices=("weight", "batch", "spectral"),
    )
    blur: bool = opt(True, "average 2x2 after each pixel shuffle but the last, against checkerboards")
    last_blur: bool = opt(False, "the same after the last pixel shuffle, as in DeOldify")
    self_attention: bool = opt(True, "self-attention at 1/8 of the resolution")
    last_cross: bool = opt(True, "show the input again to the last layers")
    relu_before_sum: bool = opt(False, "the last block's second ReLU before its sum, as in DeOldify, not after it")
    output_range: list[float] = opt([-3.0, 3.0], "range of the last sigmoid, in ImageNet-normalised units")
    critic: str = opt(
        "resnet34", "the critic's network; patch: a logit for each 70 x 70 px, no weights", choices=(*ENCODERS, "patch")
    )
    critic_weights: str = opt("imagenet", "its first weights: imagenet, none, or a state dict as published", path=True)
    vgg: str = opt("vgg16_bn", "network of the perceptual loss", choices=("vgg16", "vgg16_bn"))
    vgg_weights: str = opt("imagenet", "its weights: imagenet, none, or a torchvision state dict", path=True)


@dataclass
class LossConfig:
    pixel: str = opt("mse", "pixel loss, on ImageNet-normalised colours", choices=("mse", "l1"))
    pixel_weight: float = opt(1.0, "weight of the pixel loss in the content loss")
    feature_layers: list[int] | None = opt(None, "VGG layers compared (null: the ReLUs before pools 3, 4 and 5)")
    feature_weights: list[float] = opt([20.0, 70.0, 10.0], "weight of each of them (all 0: no perceptual loss)")
    distribution_weight: float = opt(1.0, "model.output=bins: weight of the cross-entropy", least=0)
    rebalance: float = opt(
        0.75, "bins: 1 counts every pixel alike; towards 0 rare colours count more, and colours come out stronger"
    )
    chroma_weight: float = opt(
        0.0, "model.output=chroma or bins: weight of the distance of Lab's a and b, in units of 110", least=0
    )
    content: float = opt(1.0, "weight of the content loss (all of the above together) for the generator")
    adversarial: float = opt(1.0, "weight of the adversarial loss for the generator, in phase gan")
    adversarial_share: float | None = opt(
        None,
        "phase gan: scale the adversarial gradient to this share of it and the content's, at the image (null: as the "
        "weights have it)",
        least=0,
    )
    gan: str = opt("bce", "loss of the critic, and the generator's by it", choices=("bce", "hinge"))
    real_chroma: float = opt(1.0, "chroma of real photos times this, for the critic alone (DDColor: 1.2)", least=0)


@dataclass
class NetworkOptimConfig:
    lr: float = opt(1e-3, "highest learning rate, that of the last layer group", least=0)
    lr_multipliers: list[float] = opt([0.01, 0.1, 1.0], "factors on it for the groups low, high, last (discriminative)")
    freeze_low: list[int] | None = opt(None, "epochs [first, end) without learning for the low group (end -1: all on)")
    freeze_high: list[int] | None = opt(None, "the same for the high group; must lie within freeze_low")
    frozen_norms: str = opt(
        "statistics",
        "batch norms of a frozen group: kept, only their statistics, or their parameters too",
        choices=("fixed", "statistics", "learn"),
    )
    schedule: str = opt("one_cycle", "rate over the fit", choices=("one_cycle", "constant"))
    pct_start: float = opt(0.25, "one_cycle: share of the fit in which the rate rises")
    betas: list[float] = opt([0.9, 0.99], "Adam's betas")
    weight_decay: float = opt(1e-3, "decoupled weight decay (not on norms and biases)", least=0)
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
    size_px: list[int] = opt([64, 128, 220], "progressive resizing: side of the training squares, stage by stage")
    batch_size: list[int] = opt([256, 64, 24], "photos a step in each stage, over all devices together")
    epochs: list[int] = opt([1, 1, 1], "epochs in each stage; their sum is the length of the fit")
    batch_scale: float = opt(1.0, "factor on every batch size *and* learning rate, to fit another memory", least=1e-06)
    rate_scale: str = opt(
        "none",
        "factor on a stage's learning rates: its batch over the first stage's (linear), the root of that (sqrt), or 1",
        choices=("none", "sqrt", "linear"),
    )

    @property
    def last_size_px(self) -> int:
        """Training size of the last stage that has an epoch: what a validation is to look at."""
        return [size_px for size_px, epochs in zip(self.size_px, self.epochs, strict=True) if epochs][-1]


@dataclass
class EmaConfig:
    half_life_images: int | None = opt(
        None,
        "average the generator's weights over its steps: after so many images that it learned from, what it was "
        "counts half (null here and below: no average)",
        least=1,
    )
    half_life_share: float | None = opt(None, "the same as a share of the images of the whole phase", least=1e-06)
    ramp_up: float = opt(
        0.05,
        "a half-life of at most this share of the images that it has learned from so far (0: of full length at once)",
        least=0,
    )


@dataclass
class SaveConfig:
    every_n_images: int | None = opt(
        None,
        "keep checkpoints/images-COUNT.ckpt this often, inside epochs (null: nothing beside last and best)",
        least=1,
    )
    keep: int | None = opt(5, "how many of those to keep, the newest (null: all)", least=1)
    every_n_minutes: float | None = opt(
        30, "inside epochs, write last.ckpt at least this often (null: only when a checkpoint is kept)", least=0
    )
    score_photos: int = opt(
        256, "validation photos, always the same, on which they and the epochs of phase gan are scored", least=1
    )
    score_fid: str = opt(
        "none", "FID among the scores: Inception as imagenet (downloaded) or torch-fidelity's file; none", path=True
    )


@dataclass
class InitFromConfig:
    generator: str | None = opt(None, "weights (or the word bundled) that give a new phase its generator", path=True)
    critic: str | None = opt(None, "checkpoint that gives a new phase its critic (weights only)", path=True)


@dataclass
class DeviceConfig:
    accelerator: str = opt("auto", "Lightning accelerator", choices=("auto", "cpu", "gpu", "cuda", "mps"))
    precision: str = opt(
        "auto",
        "numbers: auto is bf16 where the device is fast at it, else 32-bit",
        choices=("auto", "32-true", "bf16-mixed", "16-mixed"),
    )


@dataclass
class DevicesConfig(DeviceConfig):
    threads: int | None = opt(
        None, "cores that each process computes on (null: all); leave one for each of data.num_workers", least=1
    )
    devices: int = opt(1, "how many devices of each machine, each with a process of its own", least=1)
    num_nodes: int = opt(1, "how many machines", least=1)


@dataclass
class TrainerConfig(DevicesConfig):
    strategy: str = opt("auto", "Lightning strategy", choices=("auto", "ddp"))
    limit_train_batches: int | None = opt(None, "train on this many batches an epoch (null: all)", least=1)
    limit_val_batches: int | None = opt(None, "validate on this many batches (null: all)", least=1)
    log_every_n_steps: int = opt(20, "batches between points in TensorBoard", least=1)
    deterministic: bool = opt(False, "only deterministic kernels")
    compile: bool = opt(False, "torch.compile of the networks: minutes at the start of each size, then faster on a GPU")
    enable_progress_bar: bool = opt(True, "show the progress bar")


@dataclass
class CommonConfig:
    run: str = opt("default", "name of the run: its folder is runs_dir/run", path=True)
    runs_dir: str = opt("runs", "folder that holds the runs", path=True)
    recipe: str = opt(REQUIRED, "overlay that sets model, data, sizes, rates; see conf/recipe/")
    seed: int = opt(0, "seed of the split, the augmentation, the order and the first weights")
    sweep: str | None = opt(None, "label of a sweep (-m), whose jobs lie in runs_dir/run/sweeps/LABEL/N", literal=True)
    job: int | None = opt(None, "with sweep=LABEL and without -m: go on with this job of it alone", least=0)
    data: DataConfig = node(DataConfig, "the photos")
    use_ema: bool = opt(True, "of a checkpoint that has averaged weights take these; false: those of its last step")


@dataclass
class TrainConfig(CommonConfig):
    phase: str = opt(REQUIRED, "which step of the method", choices=("pretrain_gen", "pretrain_critic", "gan"))
    resume: str = opt(
        "false", "go on with a started phase: auto = where there is one", choices=("false", "true", "auto")
    )
    model: ModelConfig = node(ModelConfig, "the networks")
    init_from: InitFromConfig = node(InitFromConfig, "weights of an earlier phase")
    generated: str | None = opt(None, "phase pretrain_critic: folder of images saved by colorize.generate", path=True)
    loss: LossConfig = node(LossConfig, "the losses and their weights")
    optim: OptimConfig = node(OptimConfig, "optimizers, rates, freezing")
    switch: SwitchConfig = node(SwitchConfig, "turns of critic and generator")
    ema: EmaConfig = node(EmaConfig, "averaged weights of the generator, beside the raw ones")
    save: SaveConfig = node(SaveConfig, "which checkpoints are kept, and how they are scored")
    resolution: ResolutionConfig = node(ResolutionConfig, "sizes and batches by epoch")
    trainer: TrainerConfig = node(TrainerConfig, "supported Lightning Trainer settings")
    grid_photos: int = opt(8, "validation photos in TensorBoard's grid and in the gallery", least=1)


@dataclass
class GenerateConfig(CommonConfig):
    checkpoint: str = opt(REQUIRED, "checkpoint (or the word bundled) whose generator colours the photos", path=True)
    output: str | None = opt(None, "folder for the saved images (null: generated/ in the run's folder)", path=True)
    split: str = opt("all", "which photos", choices=("train", "val", "all"))
    size_px: int = opt(220, "side of the saved squares", least=32)
    batch_size: int = opt(16, "photos a batch", least=1)
    trainer: DevicesConfig = node(DevicesConfig, "devices and precision")
    model: dict[str, Any] = opt({}, "left aside: a recipe may set it, and the checkpoint says what its network is")


@dataclass
class MetricWeightsConfig:
    lpips_alex: str = opt("imagenet", "AlexNet: imagenet, none (no column), or a torchvision state dict", path=True)
    lpips_vgg: str = opt("imagenet", "VGG-16: imagenet, none (no column), or a torchvision state dict", path=True)
    fid: str = opt("imagenet", "Inception: imagenet, none (no such column), or torch-fidelity's file", path=True)


@dataclass
class EvaluateConfig(CommonConfig):
    checkpoint: list[str] = opt(
        [], "what is measured: weights, the word bundled, runs (name or folder), [a,b]; none: those of run", path=True
    )
    coloured: list[str] = opt([], "or folders of already coloured images, named as the photos they show", path=True)
    protocol: str = opt(
        "val5k",
        "val5k: centre squares at 256 px, the first 5,000; stretch256: whole photos squeezed to 256 px; native: as a "
        "user sees them, at full size",
        choices=("val5k", "stretch256", "native"),
    )
    split: str = opt("val", "which photos", choices=("train", "val", "all"))
    output: str | None = opt(None, "folder for the results (null: evaluation/ in the run's folder)", path=True)
    render_px: int | None = opt(
        None, "short side of what the networks are shown (null: 256; native: what each was trained with)", least=32
    )
    saturation: float = opt(1.0, SATURATION, least=0)
    scene_px: int = opt(256, "data=scenes with protocol=native: side of the drawn pictures", least=32)
    batch_size: int = opt(16, "photos a batch", least=1)
    gallery_photos: int = opt(4, "photos in each part of the gallery: random, best, median, worst", least=1)
    weights: MetricWeightsConfig = node(MetricWeightsConfig, "networks behind the metrics LPIPS and FID")
    trainer: DevicesConfig = node(DevicesConfig, "devices and precision")
    model: dict[str, Any] = opt({}, "left aside: a recipe may set it, and the checkpoint says what its network is")


@dataclass
class PredictConfig:
    checkpoint: str = opt("bundled", WEIGHTS, path=True)
    input: str = opt(
        REQUIRED, "a photo or film, a folder (all in it), a glob, or a list (.txt, a path a line)", path=True
    )
    output: str = opt(REQUIRED, "folder for the results, mirrored; or the file for a single one's", path=True)
    format: str = opt(
        "same",
        "of photos' results; same: that of each photo. PNG where it cannot hold transparency, 16 bits or the size",
        choices=("same", *FORMAT_CHOICES),
    )
    quality: int = opt(95, "of JPEG, WebP, AVIF and films, 1 to 100 (films: 95 is crf 18 of x264)", least=1)
    render_px: int | None = opt(
        None, "short side of what the network is shown (null: as it was trained); larger is finer and duller", least=32
    )
    tta: bool = opt(False, "average over the mirror image and two sizes: calmer colours, four times the work")
    saturation: float = opt(1.0, SATURATION, least=0)
    keep_color: bool = opt(False, "leave photos that have colours of their own as they are (toned ones have none)")
    overwrite: bool = opt(False, "colour again what has a result; otherwise it is skipped")
    compare: bool = opt(False, "write before and after beside each result, as NAME.compare.jpg")
    contact_sheet: str | None = opt(None, "file for a page of the first 40 photos, before and after", path=True)
    batch_size: int | None = opt(None, "photos at once, as far as shapes agree (null: 8 on a GPU, 1 on a CPU)", least=1)
    codec: str = opt(
        "auto",
        "films: how their pictures are coded; auto: h264 (.webm: vp9). ffv1 is lossless, for .mkv",
        choices=("auto", "h264", "h265", "vp9", "av1", "ffv1"),
    )
    stabilize: bool = opt(True, "films: carry colours along with what moves, so that they do not flicker")
    every: int = opt(
        1, "films: show the network only every Nth frame; the frames between take their neighbours' colours", least=1
    )
    start: float = opt(0.0, "films: seconds to leave out before the part to colour, for a trial", least=0)
    duration: float | None = opt(None, "films: seconds to colour (null: to the end)", least=0.001)
    use_ema: bool = opt(True, "of a checkpoint that has averaged weights take these; false: those of its last step")
    device: str = opt("auto", "what computes: auto, cpu, cuda, cuda:N or mps")
    precision: str = opt(
        "auto",
        "numbers: auto is bf16 where the device is fast at it, else 32-bit; 32-true is exact",
        choices=("auto", "32-true", "bf16-mixed", "16-mixed"),
    )


@dataclass
class ExportConfig:
    checkpoint: str = opt("bundled", WEIGHTS, path=True)
    output: str = opt(REQUIRED, "file to write, .safetensors or .onnx; its card lies beside it, as FILE.md", path=True)
    format: str = opt(
        "safetensors",
        "safetensors: for this program, exactly the same; onnx: for ONNX Runtime and others, any size and batch",
        choices=("safetensors", "onnx"),
    )
    use_ema: bool = opt(True, "of a checkpoint that has averaged weights take these; false: those of its last step")
    half: bool = opt(False, "store weights as float16: half the size, colours equal but for rounding")
    render_px: int | None = opt(
        None, "short side at which the file says photos are to be shown (null: as it was trained)", least=32
    )
    overwrite: bool = opt(False, "replace the file and its card where they exist")


@dataclass
class OnlyConfig:
    pretrain_gen: str = opt("", "for step 1, as in 'only.pretrain_gen=optim.generator.lr=1e-4'", literal=True)
    generate: str = opt("", "for step 2", literal=True)
    pretrain_critic: str = opt("", "for step 3", literal=True)
    gan: str = opt("", "for step 4", literal=True)


@dataclass
class PipelineConfig(TrainConfig):
    cycles: int = opt(1, "how often steps 2 to 4 are done, each time from the networks of the time before", least=1)
    only: OnlyConfig = node(OnlyConfig, "overrides for a single step, separated by spaces")


SCHEMAS: dict[str, type[CommonConfig] | type[PredictConfig] | type[ExportConfig]] = {
    "train": TrainConfig,
    "generate": GenerateConfig,
    "evaluate": EvaluateConfig,
    "pipeline": PipelineConfig,
    "predict": PredictConfig,
    "export": ExportConfig,
}


def register() -> None:
    """Make the schemas known to Hydra as `NAME_schema`, which each primary file lists first."""
    for name, schema in SCHEMAS.items():
        ConfigStore.instance().store(name=f"{name}_schema", node=schema)


def conf_dir() -> Path:
    """Folder of the YAML files: beside the package in a checkout, inside it in an installed wheel."""
    package = Path(__file__).resolve().parent
    return next(folder for folder in (package / "conf", package.parent / "conf") if folder.is_dir())
