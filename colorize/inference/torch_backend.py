"""PyTorch: any generator, on a CPU or a GPU."""

import re
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext

import numpy as np
import torch

from colorize.color import Plane
from colorize.inference.backends import Likely
from colorize.networks.folding import prepare
from colorize.networks.generator import Generator
from colorize.networks.heads import BinsHead
from colorize.runtime.devices import HALF_DTYPES, autocast, exact_convolutions, pick_device, pick_precision, place
from colorize.runtime.errors import UserError


class TorchBackend:
    """A generator, which is taken over; a :class:`colorize.inference.backends.Backend`.

    It is made ready for inference in place (`colorize.networks.folding`), and moves to the device: auto (a GPU where
    there is one), cpu, cuda, cuda:N or mps. The precision is auto (bf16-mixed where the device is fast at it, which
    moves an 8-bit value by less than one on average, else 32-true), 32-true (exact float32: no TF32), bf16-mixed or
    16-mixed.

    Raises UserError where the machine has no such device, or the device no such precision.
    """

    def __init__(self, network: Generator, device: str = "auto", precision: str = "auto") -> None:
        self._device = _device(device)
        self.device, self.at_once = str(self._device), 1 if self._device.type == "cpu" else 8
        self.precision = pick_precision(precision, self._device, "precision")
        self.network = place(prepare(network.eval(), HALF_DTYPES.get(self.precision, torch.float32)), self._device)

    def run(self, grey: Plane) -> Plane:
        with self._numbers():
            shown = torch.from_numpy(np.ascontiguousarray(grey)).to(self._device)
            return self.network(shown.contiguous(memory_format=torch.channels_last)).float().cpu().numpy()  # type: ignore[no-any-return]

    def likely(self, grey: Plane) -> Likely:
        with self._numbers():
            made = self.network(torch.from_numpy(grey[None]).to(self._device), detailed=True)
        rgb, head = made.rgb[0].float().cpu().numpy(), self.network.head
        if made.logits is None or not isinstance(head, BinsHead):
            return Likely(rgb)
        return Likely(rgb, made.logits[0].float().cpu().numpy(), head.centres.cpu().numpy())

    def free_memory(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    @contextmanager
    def side_by_side(self) -> Iterator[tuple[Executor, int]]:
        """Let two passes share a CPU's cores: within a pass, threads wait for each other in step."""
        threads = torch.get_num_threads()
        passes = min(2, threads) if self._device.type == "cpu" else 1
        try:
            with ThreadPoolExecutor(passes, initializer=torch.set_num_threads, initargs=(threads // passes,)) as pool:
                yield pool, passes
        finally:
            torch.set_num_threads(threads)  # of threads to come, which take over what was said last

    @contextmanager
    def _numbers(self) -> Iterator[None]:
        """Set the precision that was chosen; 32-true means it, also where cuDNN would use TF32."""
        exact = exact_convolutions(self._device) if self.precision == "32-true" else nullcontext()
        with torch.inference_mode(), autocast(self.precision, self._device), exact:
            yield


def _device(word: str) -> torch.device:
    match = re.fullmatch(r"(auto|cpu|gpu|cuda|mps)(?::([0-9]+))?", word)
    if match is None:
        raise UserError(f"device={word} is not known: use auto, cpu, cuda, cuda:N or mps")
    kind = pick_device(match[1], "device").type
    if match[2] is None:
        return torch.device(kind)
    if int(match[2]) >= (torch.cuda.device_count() if kind == "cuda" else 1):
        raise UserError(f"device={word}: this machine has fewer; they are numbered from 0")
    return torch.device(kind, int(match[2]))
