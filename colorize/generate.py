"""Step 2: save the generator's images of a data split, as the critic's first training material.

python -m colorize.generate run=NAME data=folder data.root=PHOTOS
python -m colorize.generate run=NAME data=folder data.root=PHOTOS size_px=64 batch_size=4 trainer.accelerator=cpu

The images are the network's raw output on centre squares, without loss. Started again, it goes on where it stopped.
"""

from __future__ import annotations

import logging
from pathlib import Path

from colorize import cli
from colorize.config import GenerateConfig
from colorize.errors import UserError
from colorize.runs import locked, run_folder

log = logging.getLogger("colorize")


def run(config: GenerateConfig) -> None:
    """Colour and save every photo of the split that has no image yet."""
    output = output_folder(config)
    if not Path(config.checkpoint).is_file():
        raise UserError(
            f"generate needs a generator (there is no {config.checkpoint}): run phase=pretrain_gen or give checkpoint=…"
        )
    with locked(output):
        save_images(config, output)


def output_folder(config: GenerateConfig) -> Path:
    """Where the images of `config` go."""
    return run_folder(config) / "generated" if config.output is None else Path(config.output)


def save_images(config: GenerateConfig, output: Path) -> None:
    """The work, in a folder that this process holds."""
    import torch
    from rich.progress import track

    from colorize import build
    from colorize.checkpoints import has_average, load_network, sha256
    from colorize.data.generated import Manifest, image_path
    from colorize.data.images import save_png, to_pil
    from colorize.devices import autocast, pick_device, pick_precision, place

    squares = build.make_squares(config, config.size_px, config.batch_size)
    photos = squares.photos
    wanted = {"train": photos.train, "val": photos.val, "all": photos.train + photos.val}[config.split]
    digest = sha256(config.checkpoint)
    averaged = config.use_ema and has_average(config.checkpoint)
    refuse_to_mix(config, output, digest, averaged)
    missing = [identity for identity in wanted if not image_path(output, identity).is_file()]
    log.info(f"{output}: {len(wanted) - len(missing)} of {len(wanted)} images of {config.size_px} px are there")
    if missing:
        Manifest(config.checkpoint, digest, config.size_px, [], [], False, averaged).write(output)
        device = pick_device(config.trainer.accelerator)
        precision = pick_precision(config.trainer.precision, device)
        network = place(load_network(config.checkpoint, "generator", use_ema=config.use_ema), device)
        batches = -(-len(missing) // config.batch_size)
        for batch in track(squares.squares(missing), description="generate", total=batches):
            with torch.inference_mode(), autocast(precision, device):
                coloured = network(batch.grey.to(device)).cpu()
            for name, picture in zip(batch.names, coloured, strict=True):
                save_png(to_pil(picture), image_path(output, name))
    unreadable = set(squares.unreadable)
    saved = [identity for identity in wanted if identity not in unreadable]
    Manifest(config.checkpoint, digest, config.size_px, saved, sorted(unreadable), True, averaged).write(output)
    log.info(f"{output} is complete: {len(saved)} images, {len(unreadable)} photos unreadable")


def refuse_to_mix(config: GenerateConfig, output: Path, digest: str, averaged: bool) -> None:
    """Make sure that what is in `output` was made by the same weights at the same size.

    Raises:
        UserError: it was not.
    """
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


def main() -> None:
    """Run from the command line."""
    cli.command("generate", run)


if __name__ == "__main__":
    main()
