"""The four steps in order: pretrain the generator, save its images, pretrain the critic, train both.

python -m colorize.pipeline run=NAME recipe=paper data=folder data.root=PHOTOS
python -m colorize.pipeline run=NAME data=folder data.root=PHOTOS model=small 'only.gan=optim.critic.lr=1e-5'

Each step is the command that you could type yourself. Started again, it resumes where it stopped. It ends with
runs/NAME/gallery.png, a table of scores and a verdict. Without a recipe, data=folder takes recipe=finetune: step 1
alone, from the bundled generator on. With cycles=N, steps 2 to 4 are done N times, as in DeOldify's NoGAN
(https://github.com/jantic/DeOldify): each time from the networks of the time before, in runs/NAME/cycle_2 and so on.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING

from colorize.cli.command import given_config_dir, given_overrides, run_command
from colorize.cli.sweeps import Score
from colorize.config import GenerateConfig, PipelineConfig
from colorize.data.roots import check_root
from colorize.runs import SPLIT_KEYS, PhaseFolder, cycle_name, run_folder, run_name
from colorize.runtime import signals
from colorize.runtime.errors import UserError
from colorize.runtime.files import write_text
from colorize.runtime.log import log
from colorize.runtime.processes import processes_started
from colorize.runtime.schema import BadOption, key_of, leaves
from colorize.training.phases import PHASES

if TYPE_CHECKING:
    from colorize.data.datasets import RawBatch


STEPS = ("pretrain_gen", "generate", "pretrain_critic", "gan")


def run(config: PipelineConfig) -> Score | None:
    """Run the steps, each in a process of its own, then write gallery and table; return the last CIEDE2000."""
    given = given_overrides()
    check(config, given)
    check_root(config.data)
    folders = {name: PhaseFolder(config.runs_dir, run_name(config), name) for name in PHASES if name in config.steps}
    pending = [name for name, folder in folders.items() if not folder.last.exists()]
    model = config.model
    if pending and {model.encoder_weights, model.critic_weights, model.vgg_weights} != {"none"}:
        from colorize.training.first_weights import require_pretrained

        require_pretrained(config, pending)  # what step 3 lacks is said before step 1 has taken hours
    for cycle in range(1, config.cycles + 1):
        overrides, config_dir = for_steps(config, given, cycle), given_config_dir()
        for step in config.steps if cycle == 1 else STEPS[1:]:
            only = [*shlex.split(getattr(config.only, step)), *from_previous_cycle(config, step, cycle)]
            command = step_command(step, overrides, only, config_dir)
            where = f"step {STEPS.index(step) + 1} of {len(STEPS)}"
            where += f", cycle {cycle} of {config.cycles}" if cycle > 1 else ""
            log.info(f"{where}: {shlex.join(['python', *command])}")
            status = signals.run([sys.executable, *command])
            if status:
                raise UserError(f"step {step} failed (status {status}); mend it and start the same command again")
    return summarize(config) if {"pretrain_gen", "gan"} & set(config.steps) else None


def for_steps(config: PipelineConfig, overrides: list[str], cycle: int = 1) -> list[str]:
    """Return the pipeline's overrides for its steps; for a sweep's job and a later cycle, with a run of their own."""
    if config.sweep is None and cycle == 1:
        return overrides
    others = ("run", "sweep", "job", *(STARTS if cycle > 1 else ()))
    kept = [override for override in overrides if key_of(override) not in others]
    return [*(resolved(config, override) for override in kept), f"run={cycle_name(run_name(config), cycle)}"]


def from_previous_cycle(config: PipelineConfig, step: str, cycle: int) -> list[str]:
    """Return the overrides by which a step of a later cycle starts from the networks in best.ckpt of the one before."""
    if cycle == 1:
        return []
    before, own = (cycle_name(run_name(config), number) for number in (cycle - 1, cycle))
    last, generated = PhaseFolder(config.runs_dir, before, "gan").best, Path(config.runs_dir) / own / "generated"
    critic = PhaseFolder(config.runs_dir, own, "pretrain_critic").best
    places = {
        "generate": {"checkpoint": last, "output": generated},
        "pretrain_critic": {"init_from.critic": last, "generated": generated},
        "gan": {"init_from.generator": last, "init_from.critic": critic},
    }
    return [f"{key}={path}" for key, path in places[step].items()]


def resolved(config: PipelineConfig, override: str) -> str:
    """Return `override` with ${run} in its path resolved to the run that was typed, not to the job's folder in it."""
    key, paths = key_of(override), {leaf.name for leaf in leaves(PipelineConfig) if leaf.path}
    if key not in paths or not re.search(r"(?<!\\)\$\{", override):
        return override
    value = attrgetter(key)(config)
    return f"{key}={value if isinstance(value, str) else 'null'}"


def step_command(step: str, overrides: list[str], only: list[str], config_dir: str | None = None) -> list[str]:
    """Return the arguments of `python` for one step: the user's overrides as far as the step knows their keys."""
    flags = [] if config_dir is None else ["--config-dir", config_dir]
    known = {key.name for key in leaves(GenerateConfig)} - {"model"} | {"data", "recipe", SEARCH_PATH}
    own = []
    for override, key in zip(overrides, map(key_of, overrides), strict=True):
        pipelines = key.partition(".")[0] in PIPELINE_KEYS and key != SEARCH_PATH
        if not pipelines and STARTS.get(key, step) == step and (step != "generate" or key in known):
            own.append(override)
    if step == "generate":
        return ["-m", "colorize.generate", *flags, *own, *only]
    return ["-m", "colorize.train", *flags, f"phase={step}", "resume=auto", *own, *only]


PIPELINE_KEYS = ("only", "cycles", "steps", "hydra")  # of the pipeline itself, but for this:
SEARCH_PATH = "hydra.searchpath"

STARTS = {f"init_from.{network}": phase for network, phase in PHASES["gan"].predecessors.items()}
"""Weights given to the pipeline are for the first step that needs them, not for those that follow from it."""

SHARED_KEYS = ("data", *SPLIT_KEYS)  # the same in all steps: none validates on what another trained on


def check(config: PipelineConfig, overrides: list[str]) -> None:
    """Refuse, by BadOption, what would make the steps contradict each other."""
    if processes_started() > 1:
        raise BadOption("start the pipeline once, with trainer.devices=N: it starts the processes of each step itself")
    for key in map(key_of, overrides):
        if key in ("phase", "resume", "generated"):
            raise BadOption(f"{key} is the pipeline's own business: it runs every phase and resumes where it stopped")
    if not config.steps or config.steps != [step for step in STEPS if step in config.steps]:
        raise BadOption(f"steps={config.steps}: name some of {', '.join(STEPS)}, each once, in this order")
    if config.cycles > 1 and config.steps[-3:] != list(STEPS[1:]):
        raise BadOption(f"cycles={config.cycles} repeats steps 2 to 4, which steps={config.steps} leaves out")
    for step in STEPS:
        for key in map(key_of, shlex.split(getattr(config.only, step))):
            if key in SHARED_KEYS:
                raise BadOption(f"only.{step}: {key} must be the same in all steps, or splits differ: give {key}=…")


def summarize(config: PipelineConfig) -> Score:
    """Write gallery.png and scores.md of the run, print the table, and return the CIEDE2000 after the last step 4."""
    from colorize.data.datasets import to_floats
    from colorize.data.from_config import make_photos
    from colorize.data.images import save_png
    from colorize.data.sources import spread
    from colorize.evaluation import measuring, scores, tables
    from colorize.evaluation.gallery import sheet
    from colorize.evaluation.protocols import Protocol, ProtocolDataset, batches
    from colorize.inference.colorizer import Colorizer
    from colorize.metrics import JUDGED_BY, METRICS, SUMMARY
    from colorize.runtime.devices import pick_device
    from colorize.runtime.progress import print_table
    from colorize.weights.bundled import find_weights
    from colorize.weights.checkpoints import read_checkpoint

    folder = run_folder(config)
    titles = {name: f"after {phase.title}" for name, phase in PHASES.items()}
    trained = PhaseFolder(config.runs_dir, run_name(config), "pretrain_gen").best
    last, start = titles["pretrain_gen"], config.init_from.generator
    checkpoints = {} if start is None else {"start": find_weights(start)}
    if "pretrain_gen" in config.steps or trained.is_file():
        checkpoints[last] = trained
    for cycle in range(1, config.cycles + 1) if "gan" in config.steps else ():
        last = titles["gan"] if cycle == 1 else titles["gan"].replace(" (", f", cycle {cycle} (")
        trained = checkpoints[last] = PhaseFolder(config.runs_dir, cycle_name(run_name(config), cycle), "gan").best
    size_px = config.data.val_size_px or read_checkpoint(trained)[0].size_px
    device, protocol, photos = pick_device(config.trainer.accelerator), Protocol(size_px), make_photos(config)

    def squares(names: Sequence[str], batch_size: int = config.data.val_batch_size) -> Iterator[RawBatch]:
        dataset = ProtocolDataset(photos, names, protocol)
        return batches(dataset, batch_size, config.data)

    networks = {
        row: measuring.by(
            Colorizer.from_checkpoint(path, str(device), config.trainer.precision, config.use_ema, "torch"), size_px
        )
        for row, path in checkpoints.items()
    }
    averaged = squares(spread(photos.train, measuring.LOOKUP_PHOTOS))
    rows = measuring.with_baselines(networks, measuring.fit_luma_lookup(averaged))
    table = scores.tabulate(measuring.measure_rows(rows, squares(photos.val), device), config.seed)
    shown = to_floats(next(squares(photos.val[: config.grid_photos], config.grid_photos)), device)
    columns = [
        ("grey", shown.grey),
        *((row.partition(" (")[0].replace("step 4, ", ""), network(shown)) for row, network in networks.items()),
        ("truth", shown.rgb),
    ]
    save_png(sheet(columns, tile_px=max(160, size_px)), folder / "gallery.png")
    shown_rows = {row: found for row, found in scores.rows_to_json(table).items() if row != measuring.TRUTH}
    cells = tables.markdown(shown_rows, SUMMARY)
    caption = f"{len(table.measured.names)} validation photos at {size_px} px, each with its own luma.\n"
    first, path = next(iter(checkpoints.items()))
    verdict = scores.verdict(table, last, first, start or str(path))
    write_text(folder / "scores.md", f"{cells}\n{caption}\n{verdict}\n")
    print_table(cells)
    print(f"{caption}\nGallery: {folder / 'gallery.png'}")
    print(f"\n{verdict}")
    return Score(table.rows[last][JUDGED_BY].mean, METRICS[JUDGED_BY].title)


if __name__ == "__main__":
    run_command("pipeline", run)
