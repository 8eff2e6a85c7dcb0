"""Fits to be timed: the paper's recipe at one size, from photos or from a batch in memory."""

import logging
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

RANDOM_WEIGHTS = ("model.encoder_weights=none", "model.critic_weights=none", "model.vgg_weights=none")


def configuration(photos: Path, runs: Path, job: dict[str, Any]) -> Any:
    """The paper's recipe at one size, everything free to learn."""
    from colorize.cli.command import configured

    overrides = [
        f"phase={job['phase']}",
        *(["recipe=pocket"] if job["model"] == "pocket" else []),  # its losses, and its way of ageing photos
        "data=folder",
        f"data.root={photos}",
        f"runs_dir={runs}",
        f"data.num_workers={job['workers']}",
        "data.max_val=16",
        "data.min_colourfulness=null",
        "data.train_fraction=1",
        f"seed={job.get('seed', 0)}",
        f"resolution.size_px=[{job['size_px']}]",
        f"resolution.batch_size=[{job['batch']}]",
        "resolution.epochs=[1]",
        f"trainer.accelerator={job.get('accelerator', 'cpu')}",
        f"trainer.precision={job['precision']}",
        "trainer.enable_progress_bar=false",
        f"trainer.limit_train_batches={job['steps']}",
        "trainer.limit_val_batches=1",
        f"model={job['model']}",
        "optim.generator.freeze_low=null",
        "optim.generator.freeze_high=null",
        "ema.half_life_share=null",
        *RANDOM_WEIGHTS,
    ]
    overrides += ["switch.mode=fixed"] if job["phase"] == "gan" else []
    return configured("train", overrides)


def quiet() -> None:
    """No advice of libraries among the figures."""
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")


class Clock:
    """When steps began and ended, and what they trained: a callback, see `as_callback`."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.begins: list[float] = []
        self.ends: list[float] = []
        self.losses: list[float] = []
        self.seconds: dict[str, list[float]] = {"generator": [], "critic": []}

    def began(self, *arguments: Any) -> None:
        wait_for(self.device)
        self.begins.append(time.perf_counter())

    def ended(self, trainer: Any, module: Any, outputs: dict[str, Any], *rest: Any) -> None:
        wait_for(self.device)
        self.ends.append(time.perf_counter())
        network = "critic" if "critic/loss" in outputs else "generator"
        self.losses.append(float(outputs["critic/loss" if network == "critic" else "generator/total"]))
        self.seconds[network].append(self.ends[-1] - self.begins[-1])


def as_callback(clock: Clock) -> Any:
    """`clock` for a Trainer. Lightning is imported here, for the workers that decode import this module too."""
    import lightning as L

    class ClockCallback(L.Callback):
        on_train_batch_start, on_train_batch_end = staticmethod(clock.began), staticmethod(clock.ended)

    return ClockCallback()


def from_photos(job: dict[str, Any]) -> Clock:
    """A fit as `colorize.train` does it, on the photos of `job`."""
    import lightning as L

    from colorize.runs import PhaseFolder
    from colorize.runtime.devices import pick_device
    from colorize.training import build

    with tempfile.TemporaryDirectory() as runs:
        config = configuration(Path(job["photos"]), Path(runs), job)
        clock = Clock(pick_device(config.trainer.accelerator))
        L.seed_everything(config.seed, verbose=False)
        datamodule = build.make_datamodule(config)
        # As for a resumed fit: phase gan asks for no predecessors.
        module = build.make_module(config, resume_from=Path("none"))
        schedule = build.make_schedule(config)
        trainer = build.make_trainer(config, PhaseFolder(config.runs_dir, "bench", job["phase"]), schedule, None)
        trainer.callbacks.insert(0, as_callback(clock))  # type: ignore[attr-defined]
        trainer.fit(module, datamodule)
    return clock


def in_memory(job: dict[str, Any], made: Callable[[], Any] | None = None) -> dict[str, Any]:
    """Seconds and peak memory of training steps on one batch of random colours, without reading data.

    Args:
        job: phase, size_px, batch, model, precision, steps, accelerator; `compile` and `channels_last` (default) too.
        made: called once the networks are there.

    Returns:
        "critic" and "generator": seconds of each of its steps but the first two (compiled: three); "memory_mb": the
        most that a GPU held, or None.
    """
    import lightning as L
    from torch.utils.data import DataLoader

    from colorize.color import rgb_to_grey
    from colorize.data.datamodule import Batch
    from colorize.runtime.devices import pick_device, pick_precision
    from colorize.training import build

    config = configuration(Path("nowhere"), Path("nowhere"), job | {"workers": 0})
    device = pick_device(job["accelerator"])
    L.seed_everything(0, verbose=False)
    config.trainer.compile = bool(job.get("compile"))
    module = build.make_module(config, resume_from=Path("none"))
    if not job.get("channels_last", True):
        for network in (module.generator, module.critic, module.objective.content):
            if network is not None:
                network.to(memory_format=torch.contiguous_format)
    rgb = torch.rand(job["batch"], 3, job["size_px"], job["size_px"], generator=torch.Generator().manual_seed(0))
    fake = rgb_to_grey(rgb).expand_as(rgb).contiguous() if job["phase"] == "pretrain_critic" else None
    grey = rgb_to_grey(rgb)
    batch = Batch(rgb, grey, grey, fake, [str(number) for number in range(job["batch"])])
    clock = Clock(device)

    class Data(L.LightningDataModule):
        def train_dataloader(self) -> Any:
            return DataLoader([batch] * job["steps"], batch_size=None, collate_fn=lambda one: one)

    trainer = L.Trainer(
        accelerator=device.type,
        devices=1,
        precision=pick_precision(job["precision"], device),  # type: ignore[arg-type]
        benchmark=device.type == "cuda",
        max_epochs=1,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[as_callback(clock)],
    )
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    if made is not None:
        made()
    trainer.fit(module, Data())
    skipped = 3 if job.get("compile") else 2
    memory = torch.cuda.max_memory_allocated() / 1e6 if device.type == "cuda" else None
    return {name: seconds[skipped:] for name, seconds in clock.seconds.items()} | {"memory_mb": memory}


def flops(job: dict[str, Any]) -> dict[str, float]:
    """Operations (two to a multiplication and addition) of a step for an image: of the generator's and the critic's.

    Counted for the convolutions and matrix products of one pass, and from that for a step: a backward pass is twice a
    forward pass, but once where the weights do not learn.
    """
    from torch.utils.flop_counter import FlopCounterMode

    from colorize.training.first_weights import make_networks

    config = configuration(Path("nowhere"), Path("nowhere"), job | {"workers": 0})
    generator, critic, content_loss = make_networks(config, resume_from=Path("none"))

    def forward(network: Any, channels: int) -> float:
        if network is None:
            return 0.0
        network.eval()
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(torch.rand(1, channels, job["size_px"], job["size_px"]))
        return float(counter.get_total_flops())

    of_generator, of_critic = forward(generator, 1), forward(critic, 3)
    of_features = forward(content_loss.vgg if content_loss is not None else None, 3)
    return {
        "generator": 3 * of_generator + 3 * of_features + 2 * of_critic,  # features: the photo's and, both ways, ours
        "critic": of_generator + 6 * of_critic,  # both ways, real and generated
    }


def matmul_ceiling(device: torch.device, dtype: torch.dtype, side: int) -> float:
    """Operations a second of the best of ten products of square matrices."""
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    best = float("inf")
    for _ in range(12):
        wait_for(device)
        begin = time.perf_counter()
        a @ b
        wait_for(device)
        best = min(best, time.perf_counter() - begin)
    return 2 * side**3 / best


def wait_for(device: torch.device) -> None:
    """Until a GPU has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize()
