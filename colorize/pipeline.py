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
from colorize.config import BadOption, GenerateConfig, PipelineConfig, leaves
from colorize.errors import UserError
from colorize.runs import PhaseFolder, write_text

log = logging.getLogger("colorize")

STEPS = ("pretrain_gen", "generate", "pretrain_critic", "gan")


class StepFailed(UserError):
    """A step ended with an error, which it has printed itself."""


def run(config: PipelineConfig) -> None:
    """Run the steps, each in a process of its own, then write the gallery and the table."""
    check(config, cli.given_overrides())
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
        return ["-m", "colorize.train", f"phase={step}", "resume=auto", *mine(overrides, step), *only]
    known = {key.name for key in leaves(GenerateConfig)} | {"data", "recipe"}
    shared = [override for override in mine(overrides, step) if cli.key_of(override) in known]
    return ["-m", "colorize.generate", *shared, *only]


OURS = ("only", "hydra")
"""Sections that concern the pipeline itself."""

STARTS = {"init_from.generator": "pretrain_gen", "init_from.critic": "pretrain_critic"}
"""Weights given to the pipeline are for the first step that needs them, not for those that follow from it."""

ONE_FOR_ALL = ("seed", "data", "data.kind", "data.root", "data.file_list", "data.val_fraction", "data.scenes")
"""What decides the split, so that no step validates on what another trained on."""


def mine(overrides: list[str], step: str) -> list[str]:
    """The pipeline's overrides that are for `step`."""
    keys = [(cli.key_of(override), override) for override in overrides]
    return [o for key, o in keys if key.partition(".")[0] not in OURS and STARTS.get(key, step) == step]


def check(config: PipelineConfig, overrides: list[str]) -> None:
    """Refuse what would make the steps contradict each other.

    Raises:
        BadOption: it says which option, and what to do instead.
    """
    for key in map(cli.key_of, overrides):
        if key in ("phase", "resume", "generated"):
            raise BadOption(f"{key} is the pipeline's own business: it runs every phase and goes on where it stopped")
    for step in STEPS:
        for key in map(cli.key_of, shlex.split(getattr(config.only, step))):
            if key in ONE_FOR_ALL:
                raise BadOption(
                    f"only.{step}: {key} must be the same in all steps, or their splits differ: give {key}=…"
                )


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
