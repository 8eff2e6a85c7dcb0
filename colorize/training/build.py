"""From a configuration to the objects of a training: data, networks, losses, Trainer. All are made here."""

import shlex
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import lightning as L
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from lightning.pytorch.loggers import Logger
from lightning.pytorch.strategies import DDPStrategy
from torch.backends import cudnn

from colorize.cli.command import given_overrides
from colorize.cli.launch import quieten
from colorize.config import TrainConfig
from colorize.data.datamodule import ColorizationDataModule
from colorize.data.from_config import make_augmentation, make_photos
from colorize.data.generated import with_saved_images
from colorize.data.resolution import ResolutionSchedule
from colorize.data.sources import Photos
from colorize.losses import ChromaLoss, ContentLoss
from colorize.networks.critic import Critic
from colorize.networks.generator import Generator
from colorize.networks.heads import BinsHead
from colorize.runs import PhaseFolder
from colorize.runtime.devices import compile_in_place, keep_memory, pick_device, pick_precision
from colorize.runtime.errors import UserError
from colorize.runtime.log import log
from colorize.runtime.schema import BadOption, key_of, value_errors_as_bad_options
from colorize.training.alternation import make_update_schedule
from colorize.training.callbacks.checkpointing import Checkpoints, RandomStates, WholeFiles
from colorize.training.callbacks.ema import GeneratorEMA
from colorize.training.callbacks.monitor import EpochBar, Monitor
from colorize.training.callbacks.resolution_scheduler import ResolutionScheduler
from colorize.training.callbacks.scoring import Scoring
from colorize.training.callbacks.tensorboard import CurveLogger, ImageGrid, Settings
from colorize.training.first_weights import make_networks
from colorize.training.hyper_parameters import settings
from colorize.training.module import ColorizationModule
from colorize.training.objective import Objective
from colorize.training.optim import LearningRates
from colorize.training.phases import PHASES, Network, averages, monitored, scores
from colorize.training.resuming import sources
from colorize.weights.checkpoints import CheckpointMetadata, read_checkpoint

NOISE = (
    ".*does not have many workers.*",  # data.num_workers is the user's word
    ".*smaller than the logging interval.*",  # the last batch of an epoch is always logged
    "Checkpoint directory .* exists and is not empty.*",  # that is what resuming means
    "Found .* module.* in eval mode at the start of training.*",  # norms that are to be fixed
    ".*LeafSpec.*is deprecated.*",  # Lightning's own use of torch
    ".*callbacks used to create the checkpoint need to be provided.*",  # `make_trainer` says what it means
)
"""Third-party warnings that a user can do nothing about."""

FEW_IMAGES, FEW_STEPS, FEW_VALIDATION_PHOTOS, FEW_TO_NORM = 100, 100, 20, 16
"""Saved training images that a critic learns by heart; steps in which nothing is learned; photos that judge nothing;
photos of a device by which batch norms are not to go."""


class OwnExchange(DDPStrategy):
    """Processes as for DDP without its reducer, which would take both networks: the module averages what it trained."""

    def configure_ddp(self) -> None:
        assert self.lightning_module is not None
        for tensor in self.lightning_module.state_dict().values():
            torch.distributed.broadcast(tensor, 0)


@value_errors_as_bad_options()
def make_schedule(config: TrainConfig) -> ResolutionSchedule:
    """Return sizes and batches by epoch."""
    return ResolutionSchedule(config.resolution, config.trainer.limit_train_batches)


def warn_of_few(config: TrainConfig, schedule: ResolutionSchedule, photos: Photos) -> None:
    """Warn, in a line each, of a training that is too short to learn from, and of too few photos to judge it by."""
    steps = schedule.steps(len(photos.train))
    if steps < FEW_STEPS:
        log.warning(
            f"{len(photos.train)} photos give {steps} steps in all, too few to learn much: take recipe=finetune, more "
            "photos, smaller batches (resolution.batch_size) or more epochs (resolution.epochs)"
        )
    if len(photos.val) < FEW_VALIDATION_PHOTOS:
        log.warning(
            f"{len(photos.val)} validation photos tell a better generator from a worse one only where the difference "
            "is large: hold back more, by data.val_fraction or in a val/ of data.root"
        )


def make_module(config: TrainConfig, resume_from: Path | None) -> ColorizationModule:
    """Return the LightningModule of a phase, its networks with their first weights unless it will load a checkpoint."""
    generator, critic, content_loss = make_networks(config, resume_from)
    networks: dict[Network, Generator | Critic | None] = {"generator": generator, "critic": critic}
    trained = {name: network for name, network in networks.items() if network is not None}
    loss, resolution = config.loss, config.resolution
    centres = generator.head.centres if generator is not None and isinstance(generator.head, BinsHead) else None
    metadata = CheckpointMetadata(
        phase=config.phase,
        epochs_done=0,
        epochs=sum(resolution.epochs),
        images_seen=0,
        size_px=config.data.val_size_px or resolution.last_size_px,
        generator=generator.architecture if generator is not None else None,
        critic=critic.architecture if critic is not None else None,
        turns=0,
        settings=settings(config),
        sources=sources(config),
        images_before=0 if resume_from else images_before(config),
    )
    with value_errors_as_bad_options():
        objective = Objective(content_loss or ContentLoss(None, loss), ChromaLoss(loss, centres), loss)
        rates = {
            name: LearningRates(getattr(config.optim, name), list(network.layer_groups()), resolution)
            for name, network in trained.items()
        }
        schedule = make_update_schedule(config.phase, config.switch)
    if config.trainer.compile:
        features = content_loss.vgg if content_loss is not None else None
        to_compile = [network for network in (generator, critic, features) if network is not None]
        compile_in_place(pick_device(config.trainer.accelerator), to_compile)
    return ColorizationModule(generator, critic, objective, rates, schedule, metadata)


def images_before(config: TrainConfig) -> int:
    """Return how many images the network that the phase starts from has seen, 0 where no checkpoint says it."""
    start = config.init_from.generator if "generator" in PHASES[config.phase].trains else config.init_from.critic
    try:
        metadata = read_checkpoint(start)[0] if start else None
    except UserError:  # weights alone, such as the bundled ones
        return 0
    return metadata.images_before + metadata.images_seen if metadata else 0


def make_datamodule(config: TrainConfig, photos: Photos | None = None) -> ColorizationDataModule:
    """Return the photos of a phase, listed unless given, and their sizes by epoch; for the critic, saved images too."""
    photos, generated = photos or make_photos(config), None
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
    return ColorizationDataModule(
        photos,
        seed=config.seed,
        val_size_px=data.val_size_px or config.resolution.last_size_px,
        val_batch_size=data.val_batch_size,
        augmentation=make_augmentation(data),
        num_workers=data.workers(config.trainer.devices),
        max_unreadable=data.max_unreadable,
        generated=generated,
    )


def shell_command(config: TrainConfig, overrides: Sequence[str]) -> str | None:
    """Return the command that starts this training from a shell, a word a line; None where nothing was typed."""
    if not overrides:
        return None
    # A job of a sweep was not typed by itself: with the label and its number, it can be.
    given = {key_of(override) for override in overrides}
    job = [f"{key}={getattr(config, key)}" for key in ("sweep", "job") if key not in given]
    words = [*overrides, *(word for word in job if not word.endswith("=None"))]
    return " \\\n    ".join(["python -m colorize.train", *map(shlex.quote, words)])


def make_callbacks(config: TrainConfig, folder: PhaseFolder, schedule: ResolutionSchedule) -> list[L.Callback]:
    """Return the callbacks. The Monitor sees what those before it found; Lightning puts checkpoints last."""
    callbacks: list[L.Callback] = [ResolutionScheduler(schedule)]
    if averages(config):
        ema = config.ema
        if ema.half_life_images is not None and ema.half_life_share is not None:
            raise BadOption(
                f"ema.half_life_images={ema.half_life_images} and ema.half_life_share={ema.half_life_share} (which "
                f"recipes set) are one thing in two ways: set one of them to null"
            )
        callbacks.append(GeneratorEMA(ema.half_life_images, ema.ramp_up, ema.half_life_share))
    if "generator" in PHASES[config.phase].trains:
        callbacks += [ImageGrid(config.grid_photos), Scoring(config.save, in_curve=scores(config))]
    callbacks += [
        Monitor(schedule, folder.metrics, config.trainer.log_every_n_steps, monitored(config)),
        Settings(config, folder.path, shell_command(config, given_overrides())),
        RandomStates(),
        Checkpoints(folder.checkpoints, monitored(config), config.save),
    ]
    if config.trainer.enable_progress_bar and sys.stdout.isatty():  # in a file, each of its moves would be a line
        callbacks.append(EpochBar(leave=True))
    return callbacks


def make_trainer(
    config: TrainConfig, folder: PhaseFolder, schedule: ResolutionSchedule, resume_from: Path | None
) -> L.Trainer:
    """Return Lightning's Trainer with our callbacks and loggers."""
    settings = config.trainer
    device = pick_device(settings.accelerator)
    precision = pick_precision(settings.precision, device)
    cudnn.allow_tf32 = precision != "32-true"  # matrix products are exact anyway: torch's default
    several = settings.devices * settings.num_nodes > 1
    resumed = read_checkpoint(resume_from)[0] if resume_from else None
    if resumed is not None and resumed.averaged and not averages(config):
        log.warning(f"{resume_from} has averaged weights; with no ema.half_life_* they end there")
    # What an earlier start logged after its last checkpoint, or without ever reaching one, is not shown twice.
    purge_step = resumed.images_before + resumed.images_seen + 1 if resumed else 0
    for noise in NOISE:
        warnings.filterwarnings("ignore", noise)
    quieten()
    if device.type == "cpu":
        keep_memory()
    callbacks = make_callbacks(config, folder, schedule)
    return L.Trainer(
        accelerator=device.type,
        devices=settings.devices,
        num_nodes=settings.num_nodes,
        strategy=OwnExchange() if several else "auto",
        sync_batchnorm=several and synchronises_norms(config, device),
        precision=precision,  # type: ignore[arg-type]
        deterministic=settings.deterministic,
        benchmark=device.type == "cuda" and not settings.deterministic,  # a size stays for an epoch
        max_epochs=schedule.epochs,
        limit_train_batches=settings.limit_train_batches,
        limit_val_batches=settings.limit_val_batches,
        reload_dataloaders_every_n_epochs=1,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        log_every_n_steps=settings.log_every_n_steps,
        enable_progress_bar=any(isinstance(callback, EpochBar) for callback in callbacks),
        enable_model_summary=False,
        callbacks=callbacks,
        plugins=[WholeFiles()],
        logger=[CurveLogger(folder.path, purge_step), *further_loggers(settings.logger, folder.path)],
    )


def synchronises_norms(config: TrainConfig, device: torch.device) -> bool:
    """Return True if the devices of a training share the statistics of batch norms. Raises BadOption without GPUs."""
    asked, settings, resolution = config.trainer.sync_batchnorm, config.trainer, config.resolution
    if device.type != "cuda":
        if asked == "true":
            raise BadOption("trainer.sync_batchnorm=true: torch synchronises batch norms on CUDA GPUs alone")
        return False
    least = min(resolution.scaled_batches[stage] for stage in resolution.stages)
    return asked == "true" or (asked == "auto" and least < FEW_TO_NORM * settings.devices * settings.num_nodes)


def further_loggers(name: str | None, folder: Path) -> list[Logger]:
    """Return the logger of a dotted name, or of a name in `lightning.pytorch.loggers`; it writes into `folder`."""
    if name is None:
        return []
    target = name if "." in name else f"lightning.pytorch.loggers.{name}"
    try:
        return [instantiate({"_target_": target, "save_dir": str(folder)})]
    except InstantiationException as error:
        reason = str(error.__cause__ or error).splitlines()[0].rstrip(":")
        raise BadOption(f"trainer.logger={name}: {reason}") from error
