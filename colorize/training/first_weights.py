"""The networks of a phase with the weights that they start from."""

from collections.abc import Collection
from dataclasses import fields
from pathlib import Path

import torch

from colorize.config import TrainConfig
from colorize.config.sections import ModelConfig
from colorize.data.datamodule import ColorizationDataModule
from colorize.data.sources import spread
from colorize.losses import ContentLoss, count_cells, smooth_prior
from colorize.networks.critic import PATCH, Critic
from colorize.networks.encoder_registry import ENCODERS
from colorize.networks.folding import fold_norms
from colorize.networks.generator import Generator, set_prior
from colorize.networks.generator_registry import GENERATORS, make_generator
from colorize.networks.heads import BinsHead
from colorize.networks.vgg import VGGFeatures
from colorize.runtime.devices import place
from colorize.runtime.errors import UserError
from colorize.runtime.log import log
from colorize.runtime.schema import BadOption, value_errors_as_bad_options
from colorize.training.phases import PHASES, Network
from colorize.training.resuming import starting_weights
from colorize.weights.checkpoints import check_architecture, read_checkpoint
from colorize.weights.load import load_network
from colorize.weights.pretrained import find_pretrained, load_pretrained

PRIOR_PHOTOS, PRIOR_SIZE_PX = 2000, 64  # number and size of the training photos that tell how often each colour occurs


def make_networks(
    config: TrainConfig, resume_from: Path | None
) -> tuple[Generator | None, Critic | None, ContentLoss | None]:
    """Return the networks of a phase with their first weights, and the content loss where the generator learns."""
    model, trained = config.model, PHASES[config.phase].trains
    require_pretrained(config, (config.phase,), resume_from is not None)
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
        content_loss = make_content_loss(config)
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
        for name, network in (("generator", generator), ("critic", critic)):
            if network is not None:
                check_architecture(resume_from, name, getattr(metadata, name), network.architecture)
    for module in (generator, critic, content_loss):
        if module is not None:
            place(module, torch.device("cpu"))
    return generator, critic, content_loss


def require_pretrained(config: TrainConfig, phases: Collection[str], started: bool = False) -> None:
    """Find the pretrained weights of `phases`, if `started` only those that no checkpoint holds, or raise UserError."""
    model, first = config.model, config.init_from
    needed = {
        "encoder": not started and first.generator is None and "pretrain_gen" in phases,
        "critic": not started and first.critic is None and "pretrain_critic" in phases and model.critic != PATCH,
        "vgg": any(config.loss.feature_weights) and any("generator" in PHASES[phase].trains for phase in phases),
    }
    faults = []
    for part in (part for part, is_needed in needed.items() if is_needed):
        name, option, source = getattr(model, part), f"model.{part}_weights", getattr(model, f"{part}_weights")
        package = getattr(ENCODERS.get(name), "package", None)
        try:
            if source != "none" and not find_pretrained(source, name, package, option).is_file():
                raise UserError(f"{option}: there is no file {source}")
        except UserError as error:
            faults.append(str(error))
    if faults:
        raise UserError("; ".join(faults))


def generator_options(model: ModelConfig) -> dict[str, object]:
    """Return what `make_generator` takes of the configuration: the options of the decoder that it names."""
    names = [entry.name for entry in fields(GENERATORS[model.decoder].options_type)]
    return {"decoder": model.decoder, **{name: getattr(model, name) for name in names}}


def make_content_loss(config: TrainConfig) -> ContentLoss:
    """Return the loss on images, with a VGG where its features have a weight; BadOption where no loss has one."""
    model, loss = config.model, config.loss
    chroma = (model.output == "bins" and loss.distribution_weight) or (model.output != "rgb" and loss.chroma_weight)
    if not any(loss.feature_weights) and loss.pixel_weight == 0 and not chroma:
        raise BadOption(
            "loss.pixel_weight=0 with loss.feature_weights all 0, and no loss.chroma_weight or distribution_weight "
            f"that is of use with model.output={model.output}, leaves no content loss"
        )
    vgg = None
    if any(loss.feature_weights):
        vgg = VGGFeatures(model.vgg, loss.feature_layers)
        load_pretrained(vgg, model.vgg, model.vgg_weights, "model.vgg_weights")
        if model.vgg_weights == "none":
            log.warning("model.vgg_weights=none: the perceptual loss compares features of a random VGG")
        fold_norms(vgg)
    return ContentLoss(vgg, loss)


def init_from(config: TrainConfig, name: Network, network: Generator | Critic) -> bool:
    """Give `network` the weights of an earlier phase; return False where the configuration names none."""
    if (path := starting_weights(config, name)) is None:
        return False
    source = load_network(path, name, expected=network.architecture, use_ema=config.use_ema)
    network.load_state_dict(source.state_dict())
    return True


def measure_prior(config: TrainConfig, generator: Generator | None, datamodule: ColorizationDataModule) -> None:
    """Count how often each colour occurs in training photos, for a new generator that predicts a distribution."""
    if generator is None or not isinstance(generator.head, BinsHead) or config.init_from.generator is not None:
        return
    counts = torch.zeros(len(generator.head.centres), dtype=torch.float64)
    for batch in datamodule.center_squares(spread(datamodule.photos.train, PRIOR_PHOTOS), PRIOR_SIZE_PX):
        counts += count_cells(batch.rgb, generator.head.centres)
    set_prior(generator, smooth_prior(counts, generator.head.centres))
