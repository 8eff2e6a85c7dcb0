"""ColorizationModule: the method's training, with manual optimization, in its three phases."""

import logging
import math
from collections.abc import Mapping
from typing import Any

import lightning as L
import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor
from torch.optim import Optimizer

from colorize import losses
from colorize.color import merge_luma, strengthen
from colorize.config import TrainConfig
from colorize.data.datamodule import Batch
from colorize.losses import ChromaLoss, ContentLoss
from colorize.metrics import VALIDATED, MeanMetrics, measure
from colorize.networks.critic import Critic
from colorize.networks.generator import Generator
from colorize.networks.heads import BinsHead, Prediction
from colorize.runtime import distributed
from colorize.runtime.errors import UserError
from colorize.training.alternation import Network
from colorize.training.hyper_parameters import settings
from colorize.training.optim import clip_gradients, drop_frozen_gradients, make_optimizer
from colorize.training.phases import TRAINED, VAL, VAL_EMA
from colorize.training.plans import make_plan, make_turns
from colorize.weights.checkpoints import CheckpointMetadata, write_metadata

log = logging.getLogger("colorize")

UNBALANCED_SHARE, UNBALANCED_STEPS = 0.8, 50
"""An adversarial share above this for so many steps of the generator undoes what it learned before (docs/LOG.md)."""

NAMED_AT_MOST = 32
"""Files of a batch that a message names."""


class NonFiniteLoss(UserError):
    """A loss or a gradient is NaN or infinite; the last checkpoint is from before it."""


class ColorizationModule(L.LightningModule):
    """Generator, critic and losses of one phase.

    Batches are `colorize.data.datamodule.Batch`: RGB float32 in [0, 1], `(B, 3, S, S)`, and its grey `(B, 1, S, S)`.
    `training_step` returns named scalar terms; the names are the tags in TensorBoard and the columns of metrics.csv.
    The VGG of the content loss is not a submodule, so that no checkpoint holds it.

    Args:
        config: the whole configuration of the phase.
        generator: needed where the phase trains it.
        critic: needed where the phase trains it.
        content_loss: on images; needed where the phase trains the generator.
        chroma_loss: on what a generator predicts of chroma, likewise.
    """

    def __init__(
        self,
        config: TrainConfig,
        generator: Generator | None,
        critic: Critic | None,
        content_loss: ContentLoss | None,
        chroma_loss: ChromaLoss | None = None,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.config, self.trained = config, TRAINED[config.phase]
        self.generator, self.critic = generator, critic
        self._unsaved: dict[str, Any] = {
            "content_loss": content_loss,
            "chroma_loss": chroma_loss or ChromaLoss(0.0, 0.0, 0.0),
            "average": None,
        }
        self.unbalanced_steps = 0
        self.turns = make_turns(config)
        self.images_seen, self.step_images = 0, 0
        self.curve: list[dict[str, float]] = []
        self.sources: dict[str, str] = {}
        self.plans = {
            name: make_plan(getattr(config.optim, name), list(self.network(name).layer_groups()), config.resolution)
            for name in self.trained
        }

    # --- a step -------------------------------------------------------------------------------------------------------

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        self.set_rates(batch_idx)
        self.step_images = int(distributed.total([len(batch.rgb)])[0])
        network = self.turns.next()
        if network == "critic":
            terms = self.critic_step(batch)
            deciding = terms["critic/loss"]
        else:
            terms = self.generator_step(batch)
            deciding = terms["generator/total"]
        self.turns.stepped(network, *distributed.total([float(deciding) * self.share_of(batch)]))
        self.images_seen += self.step_images
        return terms

    def share_of(self, batch: Batch) -> float:
        """The part of the global batch that is this device's; shares may differ by a photo."""
        return len(batch.rgb) / self.step_images

    def passed(self, images: int) -> bool:
        """Whether the last step took the images seen to, or over, a multiple of `images`."""
        return self.images_seen // images > (self.images_seen - self.step_images) // images

    def generator_step(self, batch: Batch) -> dict[str, Tensor]:
        """One step of the generator on the content loss and, in phase gan, on what the critic says.

        Gradients of losses on images are taken at the image and sent through the generator together: as cheap as one
        backward pass of the sum, and it shows how much of the gradient is the critic's.
        """
        generator = self.network("generator").train()
        optimizer = self.optimizer("generator")
        with self.toggled_optimizer(optimizer):
            found: Prediction = generator(batch.grey, batch.luma, detailed=True)
            image = found.rgb.detach().requires_grad_()
            image_terms = self.content_loss(image, batch.rgb)
            chroma_terms = self.chroma_terms(generator, found, batch)
            weight = self.config.loss.content
            content = weight * total(image_terms | chroma_terms, image)
            gradient = gradient_at(image, weight * total(image_terms, image)) if image_terms else None
            terms = {f"generator/{name}": value.detach() for name, value in (image_terms | chroma_terms).items()}
            terms |= {"generator/content": content.detach(), "generator/total": content.detach()}
            chroma = weight * total(chroma_terms, image)
            if self.config.phase == "gan":
                logits = self.network("critic").eval()(image)
                adversarial = self.config.loss.adversarial * losses.adversarial_loss(logits, self.config.loss.gan)
                push = gradient_at(image, adversarial)
                gradient = torch.zeros_like(image) if gradient is None else gradient
                share, scale = self.balance(found, gradient, chroma, push, self.share_of(batch))
                gradient = gradient + scale * push
                terms |= {
                    "generator/adversarial": adversarial.detach(),
                    "generator/adversarial_gradient_share": image.new_tensor(share),
                    "generator/total": (content + adversarial).detach(),
                }
            # Its gradient at the image is `gradient`; where no loss is taken there, nothing is sent back from there.
            loss = chroma if gradient is None else (found.rgb * gradient).sum() + chroma
            self.descend("generator", optimizer, terms["generator/total"], loss, gradient, batch)
        return terms

    def chroma_terms(self, generator: Generator, found: Prediction, batch: Batch) -> dict[str, Tensor]:
        """Named terms of the losses on chroma and its distribution; none of a generator that predicts RGB."""
        loss: ChromaLoss = self._unsaved["chroma_loss"].to(self.device)
        return loss(found, batch.rgb, generator.head.prior if isinstance(generator.head, BinsHead) else None)

    def balance(
        self, found: Prediction, gradient: Tensor, chroma: Tensor, push: Tensor, part: float
    ) -> tuple[float, float]:
        """Share of the adversarial gradient in it and the content's, and the factor that brings it to the wanted one.

        Norms are those over all devices; they are taken at the image, or where a loss acts before it, at the logits.

        Args:
            found: what the generator predicted.
            gradient: of the content loss at the image.
            chroma: the losses that act on `found` itself.
            push: the adversarial gradient at the image.
            part: of the global batch that is this device's.
        """
        if chroma.requires_grad:
            place = found.ab if found.logits is None else found.logits
            assert place is not None
            (acting,) = torch.autograd.grad((found.rgb * gradient).sum() + chroma, place, retain_graph=True)
            (pushing,) = torch.autograd.grad((found.rgb * push).sum(), place, retain_graph=True)
        else:
            acting, pushing = gradient, push
        squares = [float((part * g.float()).square().sum()) for g in (acting, pushing)]
        ours, theirs = (math.sqrt(square) for square in distributed.total(squares))
        share, wanted = theirs / max(ours + theirs, 1e-30), self.config.loss.adversarial_share
        if wanted is not None:  # without any content loss, there is nothing to be a share of
            return share, wanted / (1 - wanted) * ours / max(theirs, 1e-30) if ours else 1.0
        self.unbalanced_steps = self.unbalanced_steps + 1 if share > UNBALANCED_SHARE else 0
        if self.unbalanced_steps == UNBALANCED_STEPS:
            log.warning(
                f"the critic's share of the generator's gradient has been above {UNBALANCED_SHARE} for "
                f"{UNBALANCED_STEPS} steps: what step 1 learned will be lost; set loss.adversarial_share=0.3"
            )
        return share, 1.0

    def critic_step(self, batch: Batch) -> dict[str, Tensor]:
        """One step of the critic on real photos against saved or fresh generated ones.

        Both halves go through the critic as one batch, so that its batch norms cannot tell them apart by their own
        statistics, and see in training the mixture that they keep for evaluation.
        """
        self.network("critic").train()
        optimizer = self.optimizer("critic")
        fake = batch.fake if batch.fake is not None else self.colour(batch.grey, batch.luma)
        with self.toggled_optimizer(optimizer):
            loss, terms = self.judge(batch.rgb, fake)
            self.descend("critic", optimizer, loss.detach(), loss, None, batch)
        return {f"critic/{name}": value for name, value in terms.items()}

    def judge(self, real: Tensor, fake: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The critic's loss on photos and generated images, and its named terms."""
        real = strengthen(real, self.config.loss.real_chroma)
        real_logits, fake_logits = self.network("critic")(torch.cat([real, fake])).chunk(2)
        loss = losses.critic_loss(real_logits, fake_logits, self.config.loss.gan)
        accuracy_real, accuracy_fake = losses.critic_accuracy(real_logits.detach(), fake_logits.detach())
        return loss, {"loss": loss.detach(), "accuracy_real": accuracy_real, "accuracy_fake": accuracy_fake}

    @torch.no_grad()
    def colour(self, grey: Tensor, luma: Tensor | None = None) -> Tensor:
        """What the generator, in eval mode, makes of `grey` on `luma`: (B, 1, H, W) to (B, 3, H, W), no gradient."""
        coloured: Tensor = self.network("generator").eval()(grey, luma)
        return coloured

    def descend(
        self,
        name: Network,
        optimizer: LightningOptimizer,
        value: Tensor,
        loss: Tensor,
        gradient: Tensor | None,
        batch: Batch,
    ) -> None:
        """Backward from the scalar `loss` and one step of `optimizer`.

        Args:
            name: of the network.
            optimizer: its own.
            value: of the loss, as it is logged.
            loss: what is differentiated.
            gradient: at the images, where it was taken there.
            batch: of this step.

        Raises:
            NonFiniteLoss: before anything changes.
        """
        fault = None
        if not torch.isfinite(value):
            fault = NonFiniteLoss(self.describe(f"the {name}'s loss is {value.item()}", batch))
        elif gradient is not None and not gradient.isfinite().all():  # no loss scale can mend this one
            fault = NonFiniteLoss(self.describe(f"the {name}'s gradient at its pictures is not finite", batch))
        distributed.agree(fault)
        optimizer.zero_grad()
        share = self.share_of(batch)
        if (weight := share * self.trainer.world_size) != 1:  # gradients are averaged over devices, not over photos
            loss = loss * weight
        self.manual_backward(loss)
        distributed.average_statistics(self.network(name), share)
        self._stepping = (name, batch)
        optimizer.step()

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        # Here, not in training_step: only here are fp16 gradients unscaled.
        name, batch = self._stepping
        drop_frozen_gradients(optimizer)
        norm = clip_gradients(optimizer, getattr(self.config.optim, name).clip_norm)
        if not math.isfinite(norm) and self.trainer.precision != "16-mixed":  # fp16's scaler skips such steps itself
            distributed.agree(NonFiniteLoss(self.describe(f"the gradient of the {name} is {norm}", batch)))

    def describe(self, fault: str, batch: Batch) -> str:
        """`fault`, with where it happened and on which files."""
        named = ", ".join(batch.names[:NAMED_AT_MOST])
        more = f" and {len(batch.names) - NAMED_AT_MOST} more" if len(batch.names) > NAMED_AT_MOST else ""
        return (
            f"{fault} in epoch {self.trainer.current_epoch}, batch {self.trainer.fit_loop.batch_idx}, on "
            f"{named}{more}; the checkpoints, if there are any yet, are "
            f"from before it: lower optim.*.lr or set trainer.precision=32-true, then go on with resume=auto"
        )

    # --- rates and freezing -------------------------------------------------------------------------------------------

    def on_fit_start(self) -> None:
        kinds = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
        loss: ContentLoss | None = self._unsaved["content_loss"]
        if loss is not None and loss.vgg is not None and self.trainer.precision in kinds:
            loss.vgg.round_to(kinds[self.trainer.precision])

    def on_train_start(self) -> None:
        # A resumed optimizer brings its old settings along; the configuration of this start is what counts.
        for name in self.trained:
            optim = getattr(self.config.optim, name)
            for group in self.optimizer(name).optimizer.param_groups:
                group["betas"] = tuple(optim.betas)
                group["weight_decay"] = 0.0 if group["norms"] else optim.weight_decay
        self.freeze_groups()  # the start of an epoch that is resumed within is not announced

    def on_train_epoch_start(self) -> None:
        self.freeze_groups()

    def freeze_groups(self) -> None:
        """Freeze the groups that stand still in this epoch, and no others."""
        for name, plan in self.plans.items():
            self.network(name).freeze(plan.frozen_at(self.trainer.current_epoch), plan.norms)

    def set_rates(self, batch_idx: int) -> None:
        """Give each parameter group its rate for this step, by the fraction of the fit that is done."""
        epoch = self.trainer.current_epoch
        progress = (epoch + batch_idx / self.trainer.num_training_batches) / (self.trainer.max_epochs or 1)
        for name, plan in self.plans.items():
            plan.apply(self.optimizer(name).optimizer, epoch, progress)

    def rates(self) -> dict[str, float]:
        """Current learning rate of each layer group: {"lr/encoder_low": …}."""
        return {
            f"lr/{group['name']}": group["lr"]
            for name in self.trained
            for group in self.optimizer(name).optimizer.param_groups
            if not group["norms"]
        }

    def configure_optimizers(self) -> list[Optimizer]:
        made: list[Optimizer] = []
        for name in self.trained:
            optim = getattr(self.config.optim, name)
            groups = self.network(name).layer_groups()
            # A fused one unscales fp16's gradients inside its step, where no clipping can reach them.
            fused = self.trainer.precision != "16-mixed"
            made.append(make_optimizer(groups, self.plans[name].lr, optim.betas, optim.weight_decay, fused))
        return made

    # --- validation ---------------------------------------------------------------------------------------------------

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Measure a batch; return its images as a user sees them, (B, 3, S, S), by their group, `VAL` or `VAL_EMA`.

        That is with the photo's own luma and the network's chroma.
        """
        if not len(batch.rgb):
            return {}
        seen: dict[str, Tensor] = {}
        fake = batch.fake
        if self.generator is not None:
            found = self.generator.eval()(batch.grey, batch.luma, detailed=True)
            fake = found.rgb
            seen[VAL] = self.validate_colours(VAL, self.generator, found, batch)
            if self.average is not None:
                averaged = self.average(batch.grey, batch.luma, detailed=True)
                seen[VAL_EMA] = self.validate_colours(VAL_EMA, self.average, averaged, batch)
        if self.critic is not None and fake is not None:
            _, judged = self.judge(batch.rgb, fake)
            terms = {"critic_loss": judged.pop("loss"), **judged}
            terms["accuracy"] = (judged["accuracy_real"] + judged["accuracy_fake"]) / 2
            self.validated.add(terms, len(batch.rgb), f"{VAL}/")
        return seen

    def validate_colours(self, group: str, generator: Generator, found: Prediction, batch: Batch) -> Tensor:
        """Measure how far a generator's colours are from the photos; return them on the photos' luma, (B, 3, S, S).

        Losses too are those of the colours on the photos' luma, which is what a user sees: of two networks the one with
        the better luma of its own is not the better one.
        """
        seen = merge_luma(found.rgb, batch.luma)
        content = self.content_loss(seen, batch.rgb) | self.chroma_terms(generator, found, batch)
        terms = content | {"content": total(content, seen)}
        terms |= measure(VALIDATED, seen, batch.rgb, self.luma_lookup.predict(batch.grey))
        self.validated.add(terms, len(batch.rgb), f"{group}/")
        return seen

    def on_validation_epoch_start(self) -> None:
        self.validated = MeanMetrics()
        if self.generator is not None:
            self.luma_lookup = self.trainer.datamodule.luma_lookup  # type: ignore[attr-defined]

    def on_validation_epoch_end(self) -> None:
        # The Monitor writes them, against images seen. Lightning's own means: see MeanMetrics.
        self.log_dict(self.validated.means(), sync_dist=True, logger=False)

    # --- parts and state ----------------------------------------------------------------------------------------------

    def network(self, name: str) -> Any:
        """The generator or the critic."""
        found = self.generator if name == "generator" else self.critic
        if found is None:
            raise ValueError(f"phase {self.config.phase} was given no {name}")
        return found

    def optimizer(self, name: Network) -> LightningOptimizer:
        """The optimizer of a network that this phase trains."""
        optimizers = self.optimizers()
        found = optimizers if isinstance(optimizers, LightningOptimizer) else optimizers[self.trained.index(name)]
        assert isinstance(found, LightningOptimizer)
        return found

    @property
    def average(self) -> Generator | None:
        """The generator with averaged weights, in eval mode; None where there is none."""
        average: Generator | None = self._unsaved["average"]
        return average

    def lend_average(self, average: Generator) -> None:
        """Give it an average to validate and to score, which remains the giver's to train and to save."""
        self._unsaved["average"] = average

    @property
    def content_loss(self) -> ContentLoss:
        """Pixel and perceptual loss; moved to the networks' device on first use."""
        content_loss: ContentLoss | None = self._unsaved["content_loss"]
        if content_loss is None:
            raise ValueError(f"phase {self.config.phase} was given no content loss")
        return content_loss.to(self.device)

    def metadata(self, epochs_done: int) -> CheckpointMetadata:
        """Describe a checkpoint that is written now."""
        return CheckpointMetadata(
            phase=self.config.phase,
            epochs_done=epochs_done,
            epochs=sum(self.config.resolution.epochs),
            images_seen=self.images_seen,
            size_px=self.config.resolution.last_size_px,
            generator=self.generator.architecture if self.generator is not None else None,
            critic=self.critic.architecture if self.critic is not None else None,
            turns=self.turns.state(),
            averaged=self.average is not None,
            curve=self.curve,
            settings=settings(self.config),
            sources=self.sources,
        )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        # The epoch counts where its last batch is done: a checkpoint may be saved inside it.
        write_metadata(checkpoint, self.metadata(epochs_done=checkpoint["epoch"] + self.trainer.is_last_batch))

    def on_load_checkpoint(self, checkpoint: Mapping[str, Any]) -> None:
        """Go on where a checkpoint was written.

        Raises:
            UserError: its optimizers have other groups, from when the lengths of weight norms were decayed.
        """
        for made, kept in zip(self.configure_optimizers(), checkpoint["optimizer_states"], strict=True):
            own, its = ([len(g["params"]) for g in groups] for groups in (made.param_groups, kept["param_groups"]))
            if own != its:
                path = self.trainer.ckpt_path
                fault = (
                    f"{path} is from when the lengths of weight norms were decayed: its weights fit, its optimizer not"
                )
                taken = " ".join(f"init_from.{name}={path}" for name in self.trained)
                raise distributed.on_all(UserError(f"{fault}; start another run with {taken}"))
        metadata = CheckpointMetadata(**checkpoint["colorize"])
        self.images_seen, self.curve, self.sources = metadata.images_seen, metadata.curve, metadata.sources
        self.turns.restore(metadata.turns)


def total(terms: Mapping[str, Tensor], like: Tensor) -> Tensor:
    """Sum of named scalars; zero, on the device of `like`, where there are none."""
    return torch.stack(list(terms.values())).sum() if terms else like.new_zeros(())


def gradient_at(picture: Tensor, loss: Tensor) -> Tensor:
    """Gradient of a scalar `loss` at `picture`, (B, 3, H, W) float32.

    The loss is scaled by the number of pixels on the way, so that a gradient per pixel is near one and half precision
    in VGG or the critic cannot round it to zero.
    """
    scale = picture.numel()
    (gradient,) = torch.autograd.grad(loss * scale, picture)
    return gradient.float() / scale
