"""The four steps in order: pretrain the generator, save its images, pretrain the critic, train both.

python -m colorize.pipeline run=NAME data=folder data.root=PHOTOS
python -m colorize.pipeline run=NAME data=folder data.root=PHOTOS model=small 'only.gan=optim.critic.lr=1e-5'

Each step is the command that you could type yourself. Started again, it goes on where it stopped. It ends with
runs/NAME/gallery.png and a table of scores.
"""

from __future__ import annotations

import logging
import shlex
import subprocess
import sys
from pathlib import Path

from colorize import cli
from colorize.config import GenerateConfig, PipelineConfig, leaves
from colorize.errors import UserError
from colorize.runs import PhaseFolder, write_text

log = logging.getLogger("colorize")

STEPS = ("pretrain_gen", "generate", "pretrain_critic", "gan")


class StepFailed(UserError):
    """A step ended with an error, which it has printed itself."""


def run(config: PipelineConfig) -> None:
    """Run the steps, each in a process of its own, then write the gallery and the table."""
    for number, step in enumerate(STEPS, 1):
        command = step_command(step, cli.given_overrides(), shlex.split(getattr(config.only, step)))
        log.info(f"step {number} of {len(STEPS)}: {shlex.join(['python', *command])}")
        status = subprocess.run([sys.executable, *command], check=False).returncode
        if status:
            raise StepFailed(f"step {step} failed (status {status}); mend it and start the same command again")
    summarize(config)


def step_command(step: str, overrides: list[str], only: list[str]) -> list[str]:
    """The arguments of `python` for one step: the user's overrides as far as the step knows their keys."""
    if step != "generate":
        return ["-m", "colorize.train", f"phase={step}", "resume=auto", *mine(overrides), *only]
    known = {key.name for key in leaves(GenerateConfig)} | {"data", "recipe"}
    shared = [override for override in mine(overrides) if override.split("=", 1)[0].lstrip("+~") in known]
    return ["-m", "colorize.generate", *shared, *only]


def mine(overrides: list[str]) -> list[str]:
    """The overrides that concern the steps, not the pipeline itself."""
    ours = ("only", "phase", "resume", "hydra")
    return [o for o in overrides if o.lstrip("+~").split("=", 1)[0].split(".", 1)[0] not in ours]


LOOKUP_PHOTOS = 2000
"""Training photos that the luma look-up averages: 256 means need no more."""


def summarize(config: PipelineConfig) -> None:
    """Write runs/NAME/gallery.png and scores.md, and print the table.

    Photos are scored as a user sees them, with their own luma, at the size that step 4 ended with.
    """
    from colorize import build, evaluation
    from colorize.checkpoints import load_network, read
    from colorize.data.images import save_png
    from colorize.devices import autocast, pick_device, pick_precision, place
    from colorize.gallery import sheet

    folder = Path(config.runs_dir) / config.run
    pretrained = PhaseFolder(config.runs_dir, config.run, "pretrain_gen").best
    trained = PhaseFolder(config.runs_dir, config.run, "gan").last
    size_px = config.data.val_size_px or read(trained)[0].size_px
    squares = build.make_squares(config, size_px, config.data.val_batch_size)
    device = pick_device(config.trainer.accelerator)
    numbers = autocast(pick_precision(config.trainer.precision, device), device)
    after_1, after_4 = (
        evaluation.as_seen(place(load_network(path, "generator"), device), numbers, device)
        for path in (pretrained, trained)
    )
    train, val = squares.photos.train, squares.photos.val
    colourers = {
        "grey": evaluation.grey_only,
        "luma look-up": evaluation.fit_luma_lookup(squares.squares(train[:: -(-len(train) // LOOKUP_PHOTOS)])),
        "after step 1 (pretrained)": after_1,
        "after step 4 (GAN)": after_4,
    }
    scores = evaluation.score(colourers, squares.squares(val))
    photos = squares.fixed_val(config.grid_photos)
    columns = [
        ("grey", photos.grey),
        ("after step 1", after_1(photos.grey)),
        ("after step 4", after_4(photos.grey)),
        ("truth", photos.rgb),
    ]
    save_png(sheet(columns, tile_px=max(160, size_px)), folder / "gallery.png")
    count = scores["grey"].photos
    text = f"{evaluation.table(scores)}\n{count} validation photos at {size_px} px, each with its own luma.\n"
    write_text(folder / "scores.md", text)
    print(f"\n{text}\nGallery: {folder / 'gallery.png'}")


def main() -> None:
    """Run from the command line."""
    cli.command("pipeline", run)


if __name__ == "__main__":
    main()
