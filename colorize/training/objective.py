"""The objective of the training step: losses of generator and critic, their weights, and the balance between them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from colorize.color import strengthen
from colorize.config.sections import LossConfig
from colorize.losses import ChromaLoss, ContentLoss, critic_loss
from colorize.networks.critic import Critic
from colorize.networks.generator import Generator
from colorize.networks.heads import BinsHead, Prediction
from colorize.runtime import distributed
from colorize.runtime.log import log

UNBALANCED_SHARE, UNBALANCED_STEPS = 0.8, 50  # a share above it so long undoes what was learned (docs/LOG.md)


@dataclass
class Objective:
    """Losses of both networks with their weights; no module, so that checkpoints do not hold the content loss's VGG."""

    content: ContentLoss
    chroma: ChromaLoss
    weights: LossConfig
    unbalanced_steps: int = 0

    def to(self, device: torch.device, dtype: torch.dtype | None) -> None:
        """Move the losses to `device`, and round the VGG for mixed precision in `dtype`."""
        self.content.to(device)
        self.chroma.to(device)
        if self.content.vgg is not None and dtype is not None:
            self.content.vgg.round_to(dtype)

    def chroma_terms(self, generator: Generator, prediction: Prediction, rgb: Tensor) -> dict[str, Tensor]:
        """Return the named losses of predicted chroma and its distribution; none for a generator that predicts RGB."""
        prior = generator.head.prior if isinstance(generator.head, BinsHead) else None
        return self.chroma(prediction, rgb, prior)

    def judge(self, critic: Critic, real: Tensor, fake: Tensor) -> dict[str, Tensor]:
        """Return the critic's loss and its accuracy on photos and on generated images, both (B, 3, H, W) RGB in [0, 1].

        They go through the critic as one batch, so that its BatchNorm layers cannot tell them apart by statistics.
        A logit of 0 counts as generated.
        """
        real = strengthen(real, self.weights.real_chroma)
        real_logits, fake_logits = critic(torch.cat([real, fake])).chunk(2)
        loss = critic_loss(real_logits, fake_logits, self.weights.gan)
        accuracy_real, accuracy_fake = (told.float().mean() for told in (real_logits > 0, fake_logits <= 0))
        return {"loss": loss, "accuracy_real": accuracy_real, "accuracy_fake": accuracy_fake}

    def balance(
        self, prediction: Prediction, content: Tensor, chroma: Tensor, adversarial: Tensor, share_of_batch: float
    ) -> tuple[float, float]:
        """Return the adversarial share of the gradient, and the factor that brings it to `weights.adversarial_share`.

        Norms are over all devices, of which this one has `share_of_batch`. They are taken at the image, where `content`
        and `adversarial` are gradients, or, where losses (`chroma`) act on `prediction` itself, at what was predicted.
        """
        if chroma.requires_grad:
            place = prediction.ab if prediction.logits is None else prediction.logits
            assert place is not None
            (content,) = torch.autograd.grad((prediction.rgb * content).sum() + chroma, place, retain_graph=True)
            (adversarial,) = torch.autograd.grad((prediction.rgb * adversarial).sum(), place, retain_graph=True)
        squared_norms = torch.stack([(share_of_batch * g.float()).square().sum() for g in (content, adversarial)])
        ours, theirs = map(math.sqrt, distributed.total(squared_norms.tolist()))
        share, wanted = theirs / max(ours + theirs, 1e-30), self.weights.adversarial_share
        if wanted is not None:  # without any content loss, there is nothing to be a share of
            return share, wanted / (1 - wanted) * ours / max(theirs, 1e-30) if ours else 1.0
        self.unbalanced_steps = self.unbalanced_steps + 1 if share > UNBALANCED_SHARE else 0
        if self.unbalanced_steps == UNBALANCED_STEPS:
            log.warning(
                f"the critic's share of the generator's gradient has been above {UNBALANCED_SHARE} for "
                f"{UNBALANCED_STEPS} steps: what step 1 learned will be lost; set loss.adversarial_share=0.3"
            )
        return share, 1.0


def total(terms: Mapping[str, Tensor], like: Tensor) -> Tensor:
    """Return the sum of named scalars; zero, on the device of `like`, where there are none."""
    return torch.stack(list(terms.values())).sum() if terms else like.new_zeros(())


def gradient_at(image: Tensor, loss: Tensor) -> Tensor:
    """Return the gradient of scalar `loss` at `image`, (B, 3, H, W) float32; scaled on the way, lest half rounds it."""
    scale = image.numel()
    (gradient,) = torch.autograd.grad(loss * scale, image)
    return gradient.float() / scale
