"""Step 2: save the generator's images of a data split, as the critic's first training material.

python -m colorize.generate run=NAME data=folder data.root=PHOTOS
python -m colorize.generate run=NAME data=folder data.root=PHOTOS size_px=64 batch_size=4 trainer.accelerator=cpu

The images are the network's raw output on centre squares, without loss: PNG files, or of data=shards shards of them.
Started again, it resumes where it stopped.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice
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
    from PIL.Image import Image

    from colorize.cli.launch import launch
    from colorize.data.datasets import Batch
    from colorize.data.from_config import make_center_squares
    from colorize.data.generated import Manifest, SavedFiles
    from colorize.data.packing import SavedShards
    from colorize.data.shards import PackedPhotos
    from colorize.data.tensors import to_pil
    from colorize.photos.opening import UnreadableImage
    from colorize.runtime import distributed
    from colorize.runtime.devices import autocast, pick_precision, place
    from colorize.runtime.files import sha256
    from colorize.runtime.progress import tracked
    from colorize.weights.checkpoints import has_average
    from colorize.weights.load import load_network

    datamodule = make_center_squares(config, config.size_px, config.batch_size)
    photos = datamodule.photos
    if isinstance(photos, PackedPhotos):
        saved: SavedFiles = SavedShards(photos, config.split, output)
    else:
        saved = SavedFiles(photos.of_split(config.split), output, config.batch_size)
    averaged = config.use_ema and has_average(config.checkpoint)
    checkpoint = config.checkpoint, sha256(config.checkpoint)
    begun = Manifest(*checkpoint, config.size_px, [], [], False, averaged, saved.photos)
    begun.refuse_to_mix(output)
    fabric = launch(config.trainer)
    with distributed.abort_together(fabric.strategy.launcher):
        # Each part belongs to one rank, whatever of it is there: no rank looks at what another is writing.
        own = [part for part in saved.parts[fabric.global_rank :: fabric.world_size] if not saved.has(part)]
        lacking = int(*distributed.total([sum(map(len, own))]))
        log.info(f"{output}: {lacking} of {len(saved.identities)} images of {config.size_px} px are to be made")
        if lacking:
            if fabric.is_global_zero:
                begun.write(output)
                for folder in (output, *output.rglob("*/")):
                    clear_unfinished(folder)
            fabric.barrier()
            device = fabric.device
            precision = pick_precision(config.trainer.precision, device)
            network = place(load_network(config.checkpoint, "generator", use_ema=config.use_ema), device)

            def coloured(batches: Iterable[Batch]) -> Iterator[tuple[str, Image | UnreadableImage]]:
                for batch in batches:
                    yield from ((name, UnreadableImage(reason)) for name, reason in batch.unreadable)
                    if batch.names:
                        with torch.inference_mode(), autocast(precision, device):
                            images = network(batch.grey.to(device)).cpu()
                        yield from zip(batch.names, map(to_pil, images), strict=True)

            steps = {part: -(-len(part) // config.batch_size) for part in own}
            squares = datamodule.center_squares(saved.identities, parts=own)
            batches = tracked(squares, "generate", sum(steps.values()))
            for part, count in steps.items():
                saved.write(part, coloured(islice(batches, count)))
            next(batches, None)  # there is none: the bar ends
        datamodule.share_unreadable()
    if fabric.is_global_zero:
        saved.finish(begun, datamodule.unreadable)
        log.info(f"{output} is complete")


if __name__ == "__main__":
    run_command("generate", run)
