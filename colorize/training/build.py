"""From a configuration to the objects of a fit: data, networks, losses, Trainer. The one place where they are made."""

import logging
import shlex
import warnings
from dataclasses import fields
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.strategies import DDPStrategy

from colorize.cli.command import given_overrides, is_given
from colorize.cli.launch import quieten
from colorize.config import TrainConfig
from colorize.config.sections import ModelConfig
from colorize.data.build import make_augmentation, make_photos
from colorize.data.caches.copies import make_copies
from colorize.data.datamodule import ColorizationDataModule
from colorize.data.generated import with_saved_images
from colorize.data.resolution import ResolutionSchedule
from colorize.data.sources import spread
from colorize.losses import ChromaLoss, ContentLoss, count_cells, smooth_prior
from colorize.networks.cpu_kernels import use_cpu_kernels
from colorize.networks.critic import PATCH, Critic
from colorize.networks.folding import fold_norms
from colorize.networks.generator import Generator, set_prior
from colorize.networks.generator_registry import GENERATORS, make_generator
from colorize.networks.heads import BinsHead
from colorize.networks.vgg import VGGFeatures
from colorize.runs import PhaseFolder
from colorize.runtime.devices import compile_in_place, pick_device, pick_precision, place
from colorize.runtime.errors import UserError
from colorize.runtime.schema import BadOption, value_errors_as_bad_options
from colorize.training.alternation import Network
from colorize.training.callbacks.checkpointing import Checkpoints, WholeFiles
from colorize.training.callbacks.ema import GeneratorAverage
from colorize.training.callbacks.image_grid import ImageGrid
from colorize.training.callbacks.monitor import Monitor
from colorize.training.callbacks.random_states import RandomStates
from colorize.training.callbacks.region_accuracy import RegionAccuracy
from colorize.training.callbacks.resolution_scheduler import ResolutionScheduler
from colorize.training.callbacks.scoring import Scoring
from colorize.training.callbacks.tensorboard import CurveLogger, Settings
from colorize.training.callbacks.unreadable import SharedUnreadable
from colorize.training.module import ColorizationModule
from colorize.training.phases import TRAINED, averages, scores
from colorize.training.resuming import sources
from colorize.weights.checkpoints import check_architecture, read_checkpoint
from colorize.weights.load import load_network
from colorize.weights.pretrained import load_pretrained

log = logging.getLogger("colorize")

NOISE = (
    ".*does not have many workers.*",  # data.num_workers is the user's word
    ".*smaller than the logging interval.*",  # the last batch of an epoch is always logged
    "Checkpoint directory .* exists and is not empty.*",  # that is what resuming means
    ".*LeafSpec.*is deprecated.*",  # Lightning's own use of torch
    ".*callbacks used to create the checkpoint need to be provided.*",  # `make_trainer` says what it means
    "`broadcast_buffers` is deprecated.*",  # for a name that torch 2.14 does not know yet
    "Grad strides do not match bucket view strides.*",  # 1 x 1 kernels, whose memory layout says nothing
)
"""Third-party warnings that a user can do nothing about."""

PRIOR_PHOTOS, PRIOR_SIZE_PX = 2000, 64
"""How many training photos tell how often each colour occurs, and at which size."""

FEW_IMAGES = 100
"""Saved training images that a critic learns by heart."""

PREDECESSOR = {"generator": "pretrain_gen", "critic": "pretrain_critic"}


@value_errors_as_bad_options()
def make_schedule(config: TrainConfig) -> ResolutionSchedule:
    """Sizes and batches by epoch."""
    resolution = config.resolution
    batch_sizes = [max(1, round(size * resolution.batch_scale)) for size in resolution.batch_size]
    return ResolutionSchedule(resolution.size_px, batch_sizes, resolution.epochs)


def make_module(config: TrainConfig, resume_from: Path | None) -> ColorizationModule:
    """The LightningModule of this phase, with the first weights of its networks."""
    networks = make_networks(config, resume_from)
    head, loss = networks[0].head if networks[0] is not None else None, config.loss
    centres = head.centres if isinstance(head, BinsHead) else None
    chroma_loss = ChromaLoss(loss.distribution_weight, loss.chroma_weight, loss.rebalance, centres)
    with value_errors_as_bad_options():
        if loss.adversarial_share is not None and not 0 < loss.adversarial_share < 1:
            raise ValueError(f"loss.adversarial_share={loss.adversarial_share}: between 0 and 1, or null")
        module = ColorizationModule(config, *networks, chroma_loss)
    module.sources = sources(config)
    if config.trainer.compile:
        compile_networks(config, networks)
    return module


def compile_networks(config: TrainConfig, networks: tuple[Generator | None, Critic | None, ContentLoss | None]) -> None:
    """Have torch compile what `make_networks` made, at the first pass of each size."""
    generator, critic, content_loss = networks
    features = content_loss.vgg if content_loss is not None else None
    device = pick_device(config.trainer.accelerator)
    compile_in_place(device, [network for network in (generator, critic, features) if network is not None])


def make_datamodule(config: TrainConfig) -> ColorizationDataModule:
    """The photos of this phase; real and saved ones for the critic's pretraining."""
    photos, generated = make_photos(config), None
    if config.phase == "pretrain_critic":
        if config.generated is None:
            raise BadOption("phase pretrain_critic needs saved images: give generated=DIR")
        photos, generated = with_saved_images(photos, Path(config.generated))
        if len(photos.train) < FEW_IMAGES:
            log.warning(
                f"{generated.folder} has only {len(photos.train)} training images, which a critic learns by heart: "
                "take more photos, or data.train_fraction=1 for colorize.generate and here (in the pipeline, for all "
                "steps)"
            )
    data = config.data
    copies = None
    if data.cache is not None and generated is None:  # the critic is to see nothing that generated photos do not have
        copies = make_copies(photos, Path(data.cache), data.cache_px, data.cache_gb, data.num_workers)
    return ColorizationDataModule(
        photos,
        seed=config.seed,
        val_size_px=data.val_size_px or config.resolution.last_size_px,
        val_batch_size=data.val_batch_size,
        augmentation=make_augmentation(data),
        num_workers=data.num_workers,
        max_unreadable=data.max_unreadable,
        generated=generated,
        copies=copies,
    )


def make_networks(
    config: TrainConfig, resume_from: Path | None
) -> tuple[Generator | None, Critic | None, ContentLoss | None]:
    """The networks of this phase with their first weights, and the content loss where the generator learns."""
    model, trained = config.model, TRAINED[config.phase]
    generator: Generator | None = None
    critic: Critic | None = None
    content_loss: ContentLoss | None = None
    if "generator" in trained:
        torch.manual_seed(config.seed)
        with value_errors_as_bad_options():
            generator = make_generator(generator_options(model))
        if resume_from is None and not init_from(config, "generator", generator):
            load_pretrained(generator.encoder, model.encoder, model.encoder_weights, "model.encoder_weights")
        torch.manual_seed(config.seed)
        vgg = None
        loss = config.loss
        chroma = (model.output == "bins" and loss.distribution_weight) or (model.output != "rgb" and loss.chroma_weight)
        if not any(loss.feature_weights) and loss.pixel_weight == 0 and not chroma:
            raise BadOption(
                "loss.pixel_weight=0 with loss.feature_weights all 0, and no loss.chroma_weight or distribution_weight "
                f"that is of use with model.output={model.output}, leaves no content loss"
            )
        if any(config.loss.feature_weights):
            vgg = VGGFeatures(model.vgg, config.loss.feature_layers)
            load_pretrained(vgg, model.vgg, model.vgg_weights, "model.vgg_weights")
            if model.vgg_weights == "none":
                log.warning("model.vgg_weights=none: the perceptual loss compares features of a random VGG")
            fold_norms(vgg)
        content_loss = ContentLoss(vgg, config.loss.feature_weights, config.loss.pixel, config.loss.pixel_weight)
    if "critic" in trained:
        torch.manual_seed(config.seed + 1)
        critic = Critic(model.critic)
        if resume_from is None and not init_from(config, "critic", critic):
            if model.critic == PATCH and model.critic_weights not in ("none", "imagenet"):
                raise BadOption(f"model.critic_weights={model.critic_weights}: nobody publishes any for critic=patch")
            if model.critic != PATCH:
                load_pretrained(critic.body, model.critic, model.critic_weights, "model.critic_weights")
    if resume_from is not None and resume_from.is_file():
        metadata, _ = read_checkpoint(resume_from)
        if generator is not None:
            check_architecture(resume_from, "generator", metadata.generator, generator.architecture)
        if critic is not None:
            check_architecture(resume_from, "critic", metadata.critic, critic.architecture)
    for network in (generator, critic, content_loss):
        if network is not None:
            place(use_cpu_kernels(network), torch.device("cpu"))
    return generator, critic, content_loss


def generator_options(model: ModelConfig) -> dict[str, object]:
    """What `make_generator` takes, of the configuration: the options of the decoder that it names."""
    names = [entry.name for entry in fields(GENERATORS[model.decoder].options_type)]
    return {"decoder": model.decoder, **{name: getattr(model, name) for name in names}}


def measure_prior(config: TrainConfig, module: ColorizationModule, datamodule: ColorizationDataModule) -> None:
    """Count how often each colour occurs in training photos, for a generator that predicts a distribution.

    Each rank counts the same photos. A generator that was trained before brings its prior along.
    """
    generator = module.generator
    if generator is None or not isinstance(generator.head, BinsHead) or config.init_from.generator is not None:
        return
    counts = torch.zeros(len(generator.head.centres), dtype=torch.float64)
    for batch in datamodule.center_squares(spread(datamodule.photos.train, PRIOR_PHOTOS), PRIOR_SIZE_PX):
        counts += count_cells(batch.rgb, generator.head.centres)
    set_prior(generator, smooth_prior(counts, generator.head.centres))


def init_from(config: TrainConfig, name: Network, network: Generator | Critic) -> bool:
    """Give `network` the weights of an earlier phase; False where the configuration names none.

    Raises:
        UserError: phase gan lacks one, or the checkpoint does not fit.
    """
    path = getattr(config.init_from, name)
    if config.phase == "gan" and (path is None or not Path(path).is_file()):
        raise UserError(
            f"phase gan needs a {name} (there is no {path}): run phase={PREDECESSOR[name]} or give init_from.{name}=…"
        )
    if path is None:
        return False
    source = load_network(path, name, expected=network.architecture, use_ema=config.use_ema)
    network.load_state_dict(source.state_dict())
    return True


def typed_command(config: TrainConfig) -> str | None:
    """What starts this fit from a shell, a word a line; None where it was started from Python."""
    words = given_overrides()
    if not words:
        return None
    # A job of a sweep was not typed by itself: with the label and its number, it can be.
    job = {"sweep": config.sweep, "job": config.job}
    words += [f"{key}={value}" for key, value in job.items() if value is not None and not is_given(key)]
    return " \\\n    ".join(["python -m colorize.train", *map(shlex.quote, words)])


def make_callbacks(config: TrainConfig, folder: PhaseFolder, schedule: ResolutionSchedule) -> list[L.Callback]:
    """What goes with a fit. The Monitor sees what those before it found; Lightning puts checkpoints last."""
    save = config.save
    callbacks: list[L.Callback] = [ResolutionScheduler(schedule), SharedUnreadable()]
    if averages(config):
        ema = config.ema
        if ema.half_life_images is not None and ema.half_life_share is not None:
            raise BadOption(
                f"ema.half_life_images={ema.half_life_images} and ema.half_life_share={ema.half_life_share} (which "
                f"recipes set) are one thing in two ways: set one of them to null"
            )
        callbacks.append(GeneratorAverage(ema.half_life_images, ema.ramp_up, ema.half_life_share))
    if "generator" in TRAINED[config.phase]:
        callbacks += [RegionAccuracy(), ImageGrid(config.grid_photos)]
    if scores(config):
        callbacks.append(Scoring(save.every_n_images, save.score_photos, save.score_fid))
    callbacks += [
        Monitor(schedule, folder.metrics, config.trainer.log_every_n_steps),
        Settings(config, folder.path, typed_command(config)),
        RandomStates(),
        Checkpoints(folder.checkpoints, save.every_n_images, save.keep, save.every_n_minutes),
    ]
    if config.trainer.enable_progress_bar:
        callbacks.append(RichProgressBar(leave=True))
    return callbacks


def make_trainer(
    config: TrainConfig, folder: PhaseFolder, schedule: ResolutionSchedule, resume_from: Path | None
) -> L.Trainer:
    """Lightning's Trainer with our callbacks and loggers."""
    settings = config.trainer
    device = pick_device(settings.accelerator)
    several = settings.devices * settings.num_nodes > 1
    resumed = read_checkpoint(resume_from)[0] if resume_from else None
    if resumed is not None and resumed.averaged and not averages(config):
        log.warning(f"{resume_from} has averaged weights; with no ema.half_life_* they end there")
    # What an earlier start logged after its last checkpoint, or without ever reaching one, is not shown twice.
    purge_step = resumed.images_seen + 1 if resumed else 0
    for noise in NOISE:
        warnings.filterwarnings("ignore", noise)
    quieten()
    return L.Trainer(
        accelerator=device.type,
        devices=settings.devices,
        num_nodes=settings.num_nodes,
        # The module averages statistics itself; DDP would take those of the first rank, a step late.
        strategy=DDPStrategy(find_unused_parameters=True, broadcast_buffers=False)
        if several or settings.strategy == "ddp"
        else "auto",
        sync_batchnorm=several and device.type == "cuda",
        precision=pick_precision(settings.precision, device),  # type: ignore[arg-type]
        deterministic=settings.deterministic,
        benchmark=device.type == "cuda" and not settings.deterministic,  # a size stays for an epoch
        max_epochs=schedule.epochs,
        limit_train_batches=settings.limit_train_batches,
        limit_val_batches=settings.limit_val_batches,
        reload_dataloaders_every_n_epochs=1,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        log_every_n_steps=settings.log_every_n_steps,
        enable_progress_bar=settings.enable_progress_bar,
        enable_model_summary=False,
        callbacks=make_callbacks(config, folder, schedule),
        plugins=[WholeFiles()],
        logger=CurveLogger(folder.path, purge_step),
    )
