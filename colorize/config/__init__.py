"""The schema of `conf/`, against which Hydra checks files and overrides: keys, types, defaults and `--help`."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from omegaconf import MISSING as REQUIRED
from omegaconf import DictConfig

from colorize.config import sections
from colorize.config.sections import PRECISION, PRECISIONS
from colorize.runtime.formats import FORMAT_CHOICES
from colorize.runtime.schema import node, opt

WEIGHTS = "weights: checkpoint, export, file of DeOldify or fastai; the word bundled: those that come with this program"
DEVICE = "what computes: auto, cpu, cuda, cuda:N or mps"
BACKEND = "what runs the network: auto is onnx, ONNX Runtime, for .onnx, and for bundled without a GPU; else torch"
BACKENDS = ("auto", "torch", "onnx")
SATURATION = "the networks' chroma times this: 0 is grey; beyond about 1.3 colours clip (luma is never touched)"


@dataclass
class CommonConfig:
    run: str = opt("default", "name of the run: its folder is runs_dir/run", path=True)
    runs_dir: str = opt("runs", "folder that holds the runs", path=True)
    recipe: str = opt(REQUIRED, "overlay that sets model, data, sizes, learning rates; see conf/recipe/")
    seed: int = opt(0, "seed of the split, the augmentation, the order and the first weights")
    sweep: str | None = opt(None, "label of a sweep (-m), whose jobs lie in runs_dir/run/sweeps/LABEL/N", literal=True)
    job: int | None = opt(None, "with sweep=LABEL and without -m: resume this job of it alone", least=0)
    data: sections.DataConfig = node(sections.DataConfig, "the photos")
    use_ema: bool = opt(True, "of a checkpoint that has averaged weights take these; false: those of its last step")
    trainer: sections.DevicesConfig = node(sections.DevicesConfig, "devices and precision")


@dataclass
class TrainConfig(CommonConfig):
    phase: str = opt(REQUIRED, "which step of the method", choices=("pretrain_gen", "pretrain_critic", "gan"))
    resume: str = opt("false", "resume a started phase: auto = where there is one", choices=("false", "true", "auto"))
    model: sections.ModelConfig = node(sections.ModelConfig, "the networks")
    init_from: sections.InitFromConfig = node(sections.InitFromConfig, "weights of an earlier phase")
    generated: str | None = opt(None, "phase pretrain_critic: folder of images saved by colorize.generate", path=True)
    loss: sections.LossConfig = node(sections.LossConfig, "the losses and their weights")
    optim: sections.OptimConfig = node(sections.OptimConfig, "optimizers, learning rates, freezing")
    switch: sections.SwitchConfig = node(sections.SwitchConfig, "alternation of critic and generator")
    ema: sections.EmaConfig = node(sections.EmaConfig, "averaged weights of the generator, beside the raw ones")
    save: sections.SaveConfig = node(sections.SaveConfig, "which checkpoints are kept, and how they are scored")
    resolution: sections.ResolutionConfig = node(sections.ResolutionConfig, "sizes and batches by epoch")
    trainer: sections.TrainerConfig = node(sections.TrainerConfig, "supported Lightning Trainer settings")
    grid_photos: int = opt(8, "validation photos in TensorBoard's grid and in the gallery", least=1)


@dataclass
class GenerateConfig(CommonConfig):
    checkpoint: str = opt(REQUIRED, "checkpoint (or the word bundled) whose generator colours the photos", path=True)
    output: str | None = opt(None, "folder for the saved images (null: generated/ in the run's folder)", path=True)
    split: str = opt("all", "which photos", choices=("train", "val", "all"))
    size_px: int = opt(220, "side of the saved squares", least=32)
    batch_size: int = opt(16, "photos a batch", least=1)
    model: dict[str, Any] = opt({}, "left aside: a recipe may set it, and the checkpoint says what its network is")


@dataclass
class MetricWeightsConfig:
    lpips_alex: str = opt("imagenet", "AlexNet: imagenet, none (no column), or a torchvision state dict", path=True)
    lpips_vgg: str = opt("imagenet", "VGG-16: imagenet, none (no column), or a torchvision state dict", path=True)
    fid: str = opt("imagenet", "Inception: imagenet, none (no such column), or torch-fidelity's file", path=True)


@dataclass
class EvaluateConfig(CommonConfig):
    checkpoint: list[str] = opt([], "measured: weights, bundled, runs or [a,b] of them; none: those of run", path=True)
    coloured: list[str] = opt([], "or folders of already coloured images, named as the photos they show", path=True)
    protocol: str = opt(
        "val5k",
        "val5k: the first 5,000 centre squares, at 256 px; stretch256: whole photos squeezed to it; native: full size",
        choices=("val5k", "stretch256", "native"),
    )
    split: str = opt("val", "which photos", choices=("train", "val", "all"))
    output: str | None = opt(None, "folder for the results (null: evaluation/ in the run's folder, or here)", path=True)
    render_px: int | None = opt(None, "short side of what the networks are shown (null: as each was trained)", least=32)
    saturation: float = opt(1.0, SATURATION, least=0)
    scene_px: int = opt(256, "data=scenes with protocol=native: side of the drawn images", least=32)
    batch_size: int = opt(16, "photos a batch", least=1)
    gallery_photos: int = opt(4, "photos in each part of the gallery: random, best, median, worst", least=1)
    weights: MetricWeightsConfig = node(MetricWeightsConfig, "networks behind the metrics LPIPS and FID")
    model: dict[str, Any] = opt({}, "left aside: a recipe may set it, and the checkpoint says what its network is")


@dataclass
class PredictConfig:
    checkpoint: str = opt("bundled", WEIGHTS, path=True)
    input: list[str] = opt(
        REQUIRED, "photo, film, folder, glob, list (.txt: a path a line), frames (f_%06d.tif), or [a,b]", path=True
    )
    output: str | None = opt(
        None, "folder of the results, mirrored; or the file of a single one (null: beside, as NAME_colour)", path=True
    )
    format: str = opt(
        "same",
        "of photos' results; same: that of each photo. PNG where it cannot hold transparency, 16 bits or the size",
        choices=("same", *FORMAT_CHOICES),
    )
    quality: int = opt(
        95,
        "1 to 100, of lossy formats (JPEG from JPEG: of its chroma; 100: WebP and JPEG XL are lossless) and films "
        "(95 is crf 18 of x264)",
        least=1,
        most=100,
    )
    chroma: str = opt("420", "of JPEG: 420 halves chroma's size, as cameras do; 444 keeps it", choices=("420", "444"))
    render_px: int | None = opt(None, "short side that is shown (null: as trained); larger: finer, duller", least=32)
    tta: bool = opt(False, "average over the mirror image and two sizes: calmer colours, four times the work")
    saturation: float = opt(1.0, SATURATION, least=0)
    hints: str | None = opt(None, "colours known of points: a photo's FILE.json, or a folder of NAME.json", path=True)
    keep_color: bool = opt(False, "leave photos that have colours of their own as they are (toned ones have none)")
    overwrite: bool = opt(False, "colour again what has a result; otherwise it is skipped")
    verbose: bool = opt(False, "say of each JPEG whether its luma was taken over bit for bit, and if not, why")
    compare: bool = opt(False, "write before and after beside each result, as NAME.compare.jpg")
    contact_sheet: str | None = opt(None, "file for a page of the first 40 photos, before and after", path=True)
    batch_size: int | None = opt(None, "photos at once, as far as shapes agree (null: 8 on a GPU, 1 on a CPU)", least=1)
    codec: str = opt(
        "auto",
        "films: how their frames are coded; auto: h264 (.webm: vp9). ffv1 is lossless, for .mkv",
        choices=("auto", "h264", "h265", "vp9", "av1", "ffv1"),
    )
    telecine: str = opt(
        "auto", "films: auto unweaves 24 frames a second from 30 of video; off leaves the 30", choices=("auto", "off")
    )
    stabilize: bool = opt(True, "films: carry colours along with what moves, so that they do not flicker")
    every: int = opt(1, "films: the network colours every Nth frame alone, neighbours those between", least=1)
    fps: float | None = opt(
        None, "films: frames a second, if the file's are wrong (no sound); of numbered frames (null: 24)", least=0.1
    )
    start: float = opt(0.0, "films: seconds to leave out before the part to colour, for a trial", least=0)
    duration: float | None = opt(None, "films: seconds to colour (null: to the end)", least=0.001)
    use_ema: bool = opt(True, "of a checkpoint that has averaged weights take these; false: those of its last step")
    shard: str | None = opt(None, "K/N: only every Nth photo, from the Kth on, for N starts that share the work")
    claim: bool = opt(
        False, "take photos and films one by one among all starts of this command, on machines that share the folders"
    )
    device: str = opt("auto", DEVICE)
    devices: int = opt(1, "processes that share the photos, one a GPU; of a CPU, its cores are shared", least=1)
    num_nodes: int = opt(1, "machines with so many, where torchrun or srun starts them", least=1)
    precision: str = opt("auto", PRECISION, choices=PRECISIONS)
    backend: str = opt("auto", BACKEND, choices=BACKENDS)


@dataclass
class ExportConfig:
    checkpoint: str = opt("bundled", WEIGHTS, path=True)
    output: str = opt(REQUIRED, "file to write, .safetensors or .onnx; its card lies beside it, as FILE.md", path=True)
    format: str = opt("safetensors", "safetensors: for this program; onnx: for others", choices=("safetensors", "onnx"))
    use_ema: bool = opt(True, "of a checkpoint that has averaged weights take these; false: those of its last step")
    half: bool = opt(False, "store weights as float16: half the size, colours equal but for rounding")
    render_px: int | None = opt(None, "short side at which it says to show photos (null: as it was trained)", least=32)
    overwrite: bool = opt(False, "replace the file and its card where they exist")


@dataclass
class AppConfig:
    checkpoint: str = opt("bundled", f"{WEIGHTS}; beside it the page offers those", path=True)
    port: int = opt(7860, "the page's port on this machine, or the next free one", least=1)
    open_browser: bool = opt(True, "open the page in the browser")
    max_files: int = opt(200, "photos and films dropped at once", least=1)
    max_mb: int = opt(2000, "their size together, in millions of bytes", least=1)
    device: str = opt("auto", DEVICE)
    precision: str = opt("auto", PRECISION, choices=PRECISIONS)
    backend: str = opt("auto", BACKEND, choices=BACKENDS)


@dataclass
class PackConfig:
    data: sections.SourceConfig = node(sections.SourceConfig, "the photos")
    output: str = opt(REQUIRED, "folder for the shards and their index", path=True)
    shard_mb: float = opt(1000.0, "about so many millions of bytes a shard", least=0.001)
    short_px: int | None = opt(None, "store larger photos as JPEGs of this short side (null: as they are)", least=32)
    quality: int = opt(95, "of these JPEGs", least=1, most=100)
    deduplicate: bool = opt(False, "leave out photos whose file has the content of another's")


@dataclass
class OnlyConfig:
    pretrain_gen: str = opt("", "for step 1, as in 'only.pretrain_gen=optim.generator.lr=1e-4'", literal=True)
    generate: str = opt("", "for step 2", literal=True)
    pretrain_critic: str = opt("", "for step 3", literal=True)
    gan: str = opt("", "for step 4", literal=True)


@dataclass
class PipelineConfig(TrainConfig):
    steps: list[str] = opt(["pretrain_gen", "generate", "pretrain_critic", "gan"], "the steps to do, in this order")
    cycles: int = opt(1, "how often steps 2 to 4 are done, each time from the networks of the time before", least=1)
    only: OnlyConfig = node(OnlyConfig, "overrides for a single step, separated by spaces")


SCHEMAS: dict[str, type[CommonConfig | PredictConfig | ExportConfig | AppConfig | PackConfig]] = {
    "train": TrainConfig,
    "generate": GenerateConfig,
    "evaluate": EvaluateConfig,
    "pipeline": PipelineConfig,
    "predict": PredictConfig,
    "export": ExportConfig,
    "app": AppConfig,
    "pack": PackConfig,
}


@cache
def register() -> None:
    """Make the schemas known to Hydra as `NAME_schema`, which each primary file lists first."""
    for name, schema in SCHEMAS.items():
        ConfigStore.instance().store(name=f"{name}_schema", node=schema)


def composed(command: str, overrides: Sequence[str], *, return_hydra_config: bool = False) -> DictConfig:
    """Compose conf/COMMAND.yaml with `overrides`, which are as Hydra reads them."""
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return hydra.compose(command, list(overrides), return_hydra_config)


def conf_dir() -> Path:
    """Return the folder of the YAML files: beside the package in a checkout, inside it in an installed wheel."""
    package = Path(__file__).resolve().parents[1]
    return next(folder for folder in (package / "conf", package.parent / "conf") if folder.is_dir())
