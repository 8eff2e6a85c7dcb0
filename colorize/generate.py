"""Step 2: save the generator's images of a data split, as the critic's first training material.

python -m colorize.generate run=NAME data=folder data.root=PHOTOS
python -m colorize.generate run=NAME data=folder data.root=PHOTOS size_px=64 batch_size=4 trainer.accelerator=cpu

The images are the network's raw output on centre squares, without loss. Started again, it resumes where it stopped.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from colorize.cli.command import run_command
from colorize.config import GenerateConfig
from colorize.data.roots import check_root
from colorize.runs import run_folder
from colorize.runtime.errors import UserError
from colorize.runtime.files import clear_unfinished, locked
from colorize.runtime.log import log
from colorize.weights.bundled import find_weights


def run(config: GenerateConfig) -> None:
    """Colour and save every photo of the split that has no image yet."""
    output = output_folder(config)
    config = replace(config, checkpoint=str(find_weights(config.checkpoint)))
    if not Path(config.checkpoint).is_file():
        raise UserError(
            f"generate needs a generator (there is no {config.checkpoint}): run phase=pretrain_gen or give checkpoint=…"
        )
    check_root(config.data)
    with locked(output):
        save_images(config, output)


def output_folder(config: GenerateConfig) -> Path:
    """Return the folder for the images of `config`."""
    return run_folder(config) / "generated" if config.output is None else Path(config.output)


def save_images(config: GenerateConfig, output: Path) -> None:
    """Colour and save, in a folder that this process holds."""
    import torch

    from colorize.cli.launch import launch
    from colorize.data.from_config import make_center_squares
    from colorize.data.generated import Manifest, image_path
    from colorize.data.images import save_png
    from colorize.data.tensors import to_pil
    from colorize.runtime import distributed
    from colorize.runtime.devices import autocast, pick_precision, place
    from colorize.runtime.files import sha256
    from colorize.runtime.progress import tracked
    from colorize.weights.checkpoints import has_average
    from colorize.weights.load import load_network

    datamodule = make_center_squares(config, config.size_px, config.batch_size)
    photos = datamodule.photos
    wanted = list(photos.of_split(config.split))
    digest = sha256(config.checkpoint)
    averaged = config.use_ema and has_average(config.checkpoint)
    refuse_to_mix(config, output, digest, averaged)
    fabric = launch(config.trainer)
    with distributed.abort_together(fabric.strategy.launcher):
        # Each photo belongs to one rank, whatever of its images is there: no rank looks at what another is writing.
        share = wanted[fabric.global_rank :: fabric.world_size]
        missing = [identity for identity in share if not image_path(output, identity).is_file()]
        lacking = int(*distributed.total([len(missing)]))
        log.info(f"{output}: {len(wanted) - lacking} of {len(wanted)} images of {config.size_px} px are there")
        if lacking:
            if fabric.is_global_zero:
                Manifest(config.checkpoint, digest, config.size_px, [], [], False, averaged).write(output)
                for folder in {image_path(output, identity).parent for identity in wanted}:
                    clear_unfinished(folder)
            fabric.barrier()
            device = fabric.device
            precision = pick_precision(config.trainer.precision, device)
            network = load_network(config.checkpoint, "generator", use_ema=config.use_ema)
            network = place(network, device)
            again = whole_batches(share, set(missing), config.batch_size)
            for batch in tracked(datamodule.center_squares(again), "generate", -(-len(again) // config.batch_size)):
                with torch.inference_mode(), autocast(precision, device):
                    coloured = network(batch.grey.to(device)).cpu()
                for name, image in zip(batch.names, coloured, strict=True):
                    if not image_path(output, name).is_file():
                        save_png(to_pil(image), image_path(output, name))
        datamodule.share_unreadable()
    if not fabric.is_global_zero:
        return
    unreadable = set(datamodule.unreadable)
    saved = [identity for identity in wanted if identity not in unreadable]
    Manifest(config.checkpoint, digest, config.size_px, saved, sorted(unreadable), True, averaged).write(output)
    log.info(f"{output} is complete: {len(saved)} images, {len(unreadable)} photos unreadable")


def whole_batches(identities: list[str], missing: set[str], batch_size: int) -> list[str]:
    """Return those of `identities` whose batch lacks some: others in its batch may change the last bit of an image."""
    batches = (identities[start : start + batch_size] for start in range(0, len(identities), batch_size))
    return [identity for batch in batches if not missing.isdisjoint(batch) for identity in batch]


def refuse_to_mix(config: GenerateConfig, output: Path, digest: str, averaged: bool) -> None:
    """Raise a UserError where `output` holds images of other weights or another size."""
    from colorize.data.generated import read_manifest

    if not (output / "manifest.json").exists():
        return
    earlier = read_manifest(output)
    if (earlier.checkpoint_sha256, earlier.size_px) != (digest, config.size_px):
        raise UserError(
            f"{output} holds images of {earlier.size_px} px made by {earlier.checkpoint} "
            f"({earlier.checkpoint_sha256[:8]}), not of {config.size_px} px by {config.checkpoint} ({digest[:8]}): "
            "remove it or give another output=DIR"
        )
    if earlier.averaged != averaged:
        weights, use_ema = ("averaged weights", "true") if earlier.averaged else ("weights of the last step", "false")
        raise UserError(
            f"{output} holds images made by the {weights} of {earlier.checkpoint}: give use_ema={use_ema}, remove it, "
            "or give another output=DIR"
        )


if __name__ == "__main__":
    run_command("generate", run)
