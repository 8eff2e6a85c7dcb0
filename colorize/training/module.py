"""ColorizationModule: the training step of every phase, with manual optimization."""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import lightning as L
import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor
from torch.optim import Optimizer

from colorize.color import merge_luma
from colorize.data.datamodule import Batch
from colorize.evaluation.regions import accuracies, taken_for
from colorize.losses import adversarial_loss
from colorize.metrics import VALIDATED, MeanMetrics, measure
from colorize.networks.critic import Critic
from colorize.networks.generator import Generator
from colorize.networks.heads import Prediction
from colorize.runtime import distributed
from colorize.runtime.devices import HALF_DTYPES
from colorize.runtime.errors import UserError, listed
from colorize.training.alternation import UpdateSchedule
from colorize.training.callbacks.ema import GeneratorEMA
from colorize.training.objective import Objective, gradient_at, total
from colorize.training.optim import (
    LearningRates,
    clip_gradients,
    drop_frozen_gradients,
    gradients_of,
    keep_settings,
    make_optimizer,
)
from colorize.training.phases import VAL, VAL_EMA, Network
from colorize.weights.checkpoints import CheckpointMetadata, write_metadata


class ColorizationModule(L.LightningModule):
    """Generator and critic of one phase, and how they learn.

    Batches are `colorize.data.datamodule.Batch`: RGB float32 in [0, 1], `(B, 3, S, S)`, and its grey `(B, 1, S, S)`.
    `training_step` returns named scalar terms; the names are the tags in TensorBoard and the columns of metrics.csv.
    `learning_rates` have an entry for each network that the phase trains; `metadata` is what checkpoints always say.
    """

    def __init__(
        self,
        generator: Generator | None,
        critic: Critic | None,
        objective: Objective,
        learning_rates: Mapping[Network, LearningRates],
        update_schedule: UpdateSchedule,
        metadata: CheckpointMetadata,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.generator, self.critic, self.objective = generator, critic, objective
        self.learning_rates, self.update_schedule, self.metadata = learning_rates, update_schedule, metadata
        self.ema: GeneratorEMA | None = None  # the callback that averages, saves and restores its weights
        self.images_seen, self.step_images, self.step_loss = 0, 0, math.nan  # the last two over all devices
        self.phase_images: float = math.inf  # to be seen in all; the resolution scheduler sets it
        # Exchanges between devices, made in a step for which the first of each pair is true on one of them.
        self.exchanges: list[tuple[Callable[[], bool], Callable[[], None]]] = []
        self.curve: list[dict[str, float]] = []

    # --- the training step --------------------------------------------------------------------------------------------

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        epoch = self.trainer.current_epoch
        progress = self.images_seen / self.phase_images
        for name, rates in self.learning_rates.items():
            rates.apply(self.optimizer(name).optimizer, epoch, progress)
        loader: Any = self.trainer.train_dataloader
        self.step_images = getattr(loader.batch_sampler, "batch_size", len(batch.rgb))
        network = self.update_schedule.next()
        terms = self.critic_step(batch) if network == "critic" else self.generator_step(batch)
        self.update_schedule.stepped(network, self.step_loss)
        self.images_seen += self.step_images
        return terms

    def generator_step(self, batch: Batch) -> dict[str, Tensor]:
        """Train the generator on the content loss and, in phase gan, on the critic's judgement.

        Losses on the image are differentiated down to it first, which shows how much of the gradient is the critic's.
        """
        generator, optimizer, objective = self.network("generator").train(), self.optimizer("generator"), self.objective
        with self.toggled_optimizer(optimizer):
            # Forward. Losses on the image end at a copy of it that is detached from the generator.
            prediction: Prediction = generator(batch.grey, batch.luma, detailed=True)
            image = prediction.rgb.detach().requires_grad_()

            # Content loss: pixels and VGG features of the image; chroma and its distribution as predicted.
            image_terms = objective.content(image, batch.rgb)
            chroma_terms = objective.chroma_terms(generator, prediction, batch.rgb)
            weight = objective.weights.content
            content = total(image_terms | chroma_terms, image)
            chroma = weight * total(chroma_terms, image)
            gradient = gradient_at(image, weight * total(image_terms, image)) if image_terms else None
            terms = image_terms | chroma_terms | {"content": content, "total": weight * content}

            # Adversarial loss, where there is a critic.
            if self.critic is not None:
                logits = self.critic.eval()(image)
                adversarial = objective.weights.adversarial * adversarial_loss(logits, objective.weights.gan)
                adversarial_gradient = gradient_at(image, adversarial)
                gradient = torch.zeros_like(image) if gradient is None else gradient
                own = self.share_of(batch)
                share, scale = objective.balance(prediction, gradient, chroma, adversarial_gradient, own)
                gradient = gradient + scale * adversarial_gradient
                terms |= {"adversarial": adversarial, "adversarial_gradient_share": image.new_tensor(share)}
                terms["total"] = terms["total"] + adversarial

            # Backward, clip, step. The gradient of `loss` at the image is `gradient`; without losses there it is none.
            loss = chroma if gradient is None else (prediction.rgb * gradient).sum() + chroma
            stepped = self.backward_and_step("generator", loss, terms["total"], gradient, batch)

        # Exponential moving average of the weights, for each step that was taken.
        if self.ema is not None and stepped:
            self.ema.update(generator, self.step_images)
        return {f"generator/{name}": value.detach() for name, value in terms.items()}

    def critic_step(self, batch: Batch) -> dict[str, Tensor]:
        """Train the critic on photos against saved images or, in phase gan, fresh ones."""
        critic, optimizer = self.network("critic").train(), self.optimizer("critic")

        # Generated images, without gradient.
        fake = batch.fake
        if fake is None:
            with torch.no_grad():
                fake = self.network("generator").eval()(batch.grey, batch.luma)

        with self.toggled_optimizer(optimizer):
            # Forward, and the loss on photos and generated images.
            terms = self.objective.judge(critic, batch.rgb, fake)

            # Backward, clip, step.
            self.backward_and_step("critic", terms["loss"], terms["loss"], None, batch)
        return {f"critic/{name}": value.detach() for name, value in terms.items()}

    def backward_and_step(
        self, name: Network, loss: Tensor, value: Tensor, gradient: Tensor | None, batch: Batch
    ) -> bool:
        """Differentiate `loss`, and step (False: fp16 skipped). Raises UserError, before, if anything is not finite."""
        optimizer = self.optimizer(name)
        scaler: torch.amp.GradScaler | None = getattr(self.trainer.precision_plugin, "scaler", None)  # of fp16

        # Backward. Devices average their gradients; weighted by its share of the batch, each photo counts alike.
        optimizer.zero_grad()
        share, devices = self.share_of(batch), self.trainer.world_size
        if (weight := share * devices) != 1:
            loss = loss * weight
        self.manual_backward(loss)
        drop_frozen_gradients(optimizer.optimizer)

        # The one exchange of a step: gradients, own statistics, the loss (NaN for a gradient that no loss scale can
        # mend), and how many devices want more exchanged. Numbers are awaited from the device after it.
        told = value.detach().float()
        if gradient is not None:
            told = torch.where(gradient.isfinite().all(), told, math.nan)
        told = torch.stack([told, torch.full_like(told, any(wanted() for wanted, _ in self.exchanges))])
        gradients, statistics = gradients_of(optimizer.optimizer), distributed.own_statistics(self.network(name))
        weights = [1 / devices] * len(gradients) + [share] * len(statistics) + [share, 1.0]
        distributed.add_up([*gradients, *statistics, *told], weights)

        # Unscale, clip.
        if scaler is not None:
            scaler.unscale_(optimizer.optimizer)
        norm = clip_gradients(optimizer.optimizer, self.learning_rates[name].optim.clip_norm)
        self.step_loss, wanting = told.tolist()
        sound = math.isfinite(self.step_loss) and (scaler is not None or math.isfinite(norm))
        if wanting or not sound:
            for _, exchange in self.exchanges:
                exchange()
        if not sound:
            self.agree_on_fault(name, value, gradient, norm, batch)

        # Step. The scaler skips it after an overflow, and lowers its scale.
        scale = scaler.get_scale() if scaler is not None else 0.0
        optimizer.step()
        return scaler is None or scaler.get_scale() >= scale

    def agree_on_fault(self, name: Network, value: Tensor, gradient: Tensor | None, norm: float, batch: Batch) -> None:
        """Raise UserError on all devices, which know that one has a fault: it names its batch."""
        fault = None
        if not value.isfinite():
            fault = f"the {name}'s loss is {value.item()}"
        elif gradient is not None and not gradient.isfinite().all():
            fault = f"the {name}'s gradient at its images is not finite"
        elif math.isfinite(self.step_loss):
            fault = f"the gradient of the {name} is {norm}"
        said = (
            f"{fault} in epoch {self.trainer.current_epoch + 1}, batch {self.trainer.fit_loop.batch_idx}, on "
            f"{listed(batch.names, most=32)}; the checkpoints, if there are any yet, are from before it: lower "
            "optim.*.lr or set trainer.precision=32-true, then resume with resume=auto"
        )
        distributed.agree(None if fault is None else UserError(said))

    def share_of(self, batch: Batch) -> float:
        """Return the part of the global batch that is this device's; shares may differ by a photo."""
        return len(batch.rgb) / self.step_images

    @property
    def axis(self) -> int:
        """Place on the x-axis of curves: images seen by the weights, in the phases before this one too."""
        return self.metadata.images_before + self.images_seen

    def passed(self, images: int | None) -> bool:
        """Return True if the last step took the images seen to, or over, a multiple of `images`; None: of nothing."""
        return images is not None and self.images_seen // images > (self.images_seen - self.step_images) // images

    # --- learning rates and freezing ----------------------------------------------------------------------------------

    def configure_optimizers(self) -> list[Optimizer]:
        return [
            make_optimizer(self.network(name).layer_groups(), rates.lr, rates.optim)
            for name, rates in self.learning_rates.items()
        ]

    def on_fit_start(self) -> None:
        self.objective.to(self.device, HALF_DTYPES.get(self.trainer.precision))

    def on_train_epoch_start(self) -> None:
        for name, rates in self.learning_rates.items():
            self.network(name).fixed_norms = rates.optim.norms == "fixed"
            self.network(name).freeze(rates.frozen_at(self.trainer.current_epoch), rates.optim.frozen_norms)

    on_train_start = on_train_epoch_start  # Lightning does not announce the start of an epoch that is resumed within

    def current_learning_rates(self) -> dict[str, float]:
        groups = (group for name in self.learning_rates for group in self.optimizer(name).optimizer.param_groups)
        return {f"lr/{group['name']}": group["lr"] for group in groups if not group["norms"]}

    # --- validation ---------------------------------------------------------------------------------------------------

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Measure a batch; return its images on the photos' own luma, (B, 3, S, S), under `VAL` and `VAL_EMA`."""
        if not len(batch.rgb):
            return {}
        seen: dict[str, Tensor] = {}
        fake = batch.fake
        if self.generator is not None:
            found = self.generator.eval()(batch.grey, batch.luma, detailed=True)
            fake = found.rgb
            seen[VAL] = self.validate_colours(VAL, self.generator, found, batch)
            if self.ema_model is not None:
                averaged = self.ema_model(batch.grey, batch.luma, detailed=True)
                seen[VAL_EMA] = self.validate_colours(VAL_EMA, self.ema_model, averaged, batch)
        if self.critic is not None and fake is not None:
            judged = self.objective.judge(self.critic, batch.rgb, fake)
            terms = {"critic_loss": judged.pop("loss"), **judged}
            terms["accuracy"] = (judged["accuracy_real"] + judged["accuracy_fake"]) / 2
            self.validated.add(terms, len(batch.rgb), f"{VAL}/")
        if batch.regions is not None:
            for group, rgb in seen.items():
                table = taken_for(rgb, batch.rgb, batch.regions).sum(dim=0)
                self.regions[group] = self.regions[group] + table if group in self.regions else table
        return seen

    def validate_colours(self, group: str, generator: Generator, found: Prediction, batch: Batch) -> Tensor:
        """Measure a generator's colours, losses too, on the photos' own luma, as users see them: (B, 3, S, S)."""
        seen = merge_luma(found.rgb, batch.luma)
        content = self.objective.content(seen, batch.rgb) | self.objective.chroma_terms(generator, found, batch.rgb)
        terms = content | {"content": total(content, seen)}
        terms |= measure(VALIDATED, seen, batch.rgb, self.luma_lookup.predict(batch.grey))
        self.validated.add(terms, len(batch.rgb), f"{group}/")
        return seen

    def on_validation_epoch_start(self) -> None:
        self.validated, self.regions = MeanMetrics(), dict[str, Tensor]()
        if self.generator is not None:
            self.luma_lookup = self.trainer.datamodule.luma_lookup  # type: ignore[attr-defined]

    def on_validation_epoch_end(self) -> None:
        self.trainer.datamodule.share_unreadable()  # type: ignore[attr-defined]
        # The Monitor writes them, against images seen. Lightning's own means: see MeanMetrics.
        self.log_dict(self.validated.means(), sync_dist=True, logger=False)
        for group, table in self.regions.items():
            found = accuracies(self.trainer.strategy.reduce(table, reduce_op="sum").cpu())
            named = {f"{group}/region/{name}": share for name, share in found.items()}
            self.log_dict(named, sync_dist=True, logger=False)

    # --- parts and state ----------------------------------------------------------------------------------------------

    def network(self, name: Network) -> Any:
        found = self.generator if name == "generator" else self.critic
        if found is None:
            raise ValueError(f"phase {self.metadata.phase} was given no {name}")
        return found

    def optimizer(self, name: Network) -> LightningOptimizer:
        found: Any = self.optimizers()
        made: list[LightningOptimizer] = found if isinstance(found, list) else [found]
        return dict(zip(self.learning_rates, made, strict=True))[name]

    @property
    def ema_model(self) -> Generator | None:
        """The generator with averaged weights, in eval mode; None where there is none."""
        return self.ema.network if self.ema is not None else None

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        metadata = replace(
            self.metadata,
            # The epoch counts where its last batch is done: a checkpoint may be saved inside it.
            epochs_done=checkpoint["epoch"] + self.trainer.is_last_batch,
            images_seen=self.images_seen,
            turns=self.update_schedule.state(),
            averaged=self.ema is not None,
            curve=self.curve,
        )
        write_metadata(checkpoint, metadata)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Resume where a checkpoint was written; raise UserError where its optimizers have other groups."""
        try:
            for made, saved in zip(self.configure_optimizers(), checkpoint["optimizer_states"], strict=True):
                keep_settings(saved, made)
        except ValueError:
            path = self.trainer.ckpt_path
            fault = f"{path} is from when the lengths of weight norms were decayed: its weights fit, its optimizer not"
            taken = " ".join(f"init_from.{name}={path}" for name in self.learning_rates)
            raise distributed.on_all(UserError(f"{fault}; start another run with {taken}")) from None
        metadata = CheckpointMetadata(**checkpoint["colorize"])
        self.images_seen, self.curve = metadata.images_seen, metadata.curve
        self.metadata = replace(self.metadata, sources=metadata.sources, images_before=metadata.images_before)
        self.update_schedule.restore(metadata.turns)
