"""The checkpoint that a phase resumes from, if any, and the options in which it differs from the configuration."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from colorize.cli.command import is_given
from colorize.config import TrainConfig
from colorize.runs import PhaseFolder, before, kept_in, run_name
from colorize.runtime.errors import OutOfMemory, UserError
from colorize.runtime.files import hardlink_or_copy
from colorize.runtime.log import log
from colorize.runtime.processes import is_first_process
from colorize.runtime.schema import BadOption
from colorize.training.hyper_parameters import PHOTOS, differences
from colorize.training.phases import PHASES, Network
from colorize.weights.checksum import fingerprint

if TYPE_CHECKING:
    from colorize.weights.checkpoints import CheckpointMetadata


def where_to_resume(config: TrainConfig, folder: PhaseFolder) -> tuple[Path, CheckpointMetadata] | None:
    """Return the checkpoint to resume from, or None. Raises UserError if training would be lost or options differ."""
    if config.resume == "true" and is_given("init_from"):
        raise BadOption("resume=true resumes with everything, init_from.* starts a new phase: give one of them")
    found = newest_whole(folder)
    if found is None:
        if config.resume == "true":
            raise UserError(f"nothing to resume: there is no {folder.last}; start with resume=false or resume=auto")
        return None
    path, metadata = found
    if is_given("init_from") and not is_complete(config, metadata):
        log.warning(f"init_from.* is left aside: {path} resumes with its own weights")
    if config.resume == "false" and not is_complete(config, metadata):
        other = "run=NAME" if config.sweep is None else "sweep=LABEL"
        raise UserError(f"{folder.path} holds a started training: give resume=auto, or start another with {other}")
    compare(config, metadata)
    return found


def starting_weights(config: TrainConfig, name: Network) -> Path | None:
    """Return the file that gives a new phase its network `name`, None if none does; raise UserError if it needs one."""
    path, predecessor = getattr(config.init_from, name), PHASES[config.phase].predecessors.get(name)
    if path is not None and Path(path).is_file():
        return Path(path)
    if predecessor is not None:
        raise UserError(
            f"phase {config.phase} needs a {name} (there is no {path}): run phase={predecessor} or give "
            f"init_from.{name}=…"
        )
    if path is not None:
        raise UserError(f"there is no checkpoint {path} (init_from.{name})")
    return None


def newest_whole(folder: PhaseFolder) -> tuple[Path, CheckpointMetadata] | None:
    """Return the newest undamaged checkpoint of a phase, then also its last.ckpt; None where there is none at all."""
    kept = [path for _, path in sorted(kept_in(folder.checkpoints).items(), reverse=True)]
    present = [path for path in (folder.last, before(folder.last), *kept) if path.exists()]
    if not present:  # best.ckpt alone is no started training: somebody may have put it there for the phases that follow
        return None
    from colorize.weights.checkpoints import read_checkpoint

    faults: list[UserError] = []
    for path in (*present, folder.best):
        try:
            metadata, _ = read_checkpoint(path)
        except OutOfMemory:  # which says nothing of the file
            raise
        except UserError as fault:
            faults.append(fault)
            continue
        if faults:
            log.warning(f"{faults[0]}: resuming from {path}, at {metadata.images_seen:,} images")
            if is_first_process():  # the next save would put the damaged one in the place of the whole one
                if folder.last.exists():
                    hardlink_or_copy(folder.last, folder.last.with_name(f"{folder.last.name}.damaged"))
                hardlink_or_copy(path, folder.last)
        return path, metadata
    raise UserError(f"{faults[0]}; there is no other to resume from: remove {folder.path}, or give run=NAME")


def is_complete(config: TrainConfig, metadata: CheckpointMetadata) -> bool:
    """Return True if a checkpoint has seen all the epochs that the configuration asks for."""
    return metadata.epochs_done >= sum(config.resolution.epochs)


def sources(config: TrainConfig) -> dict[str, str]:
    """Return a digest for each existing file, made by other phases or somebody, that this training would start from."""
    from colorize.data.generated import read_manifest

    found = {}
    for name in PHASES[config.phase].trains:
        path = getattr(config.init_from, name)
        if path is not None and Path(path).is_file():
            found[f"init_from.{name}"] = fingerprint(Path(path))
    if config.generated is not None and (Path(config.generated) / "manifest.json").is_file():
        manifest = read_manifest(Path(config.generated))
        found["generated"] = f"{manifest.checkpoint_sha256} {manifest.size_px} px, averaged: {manifest.averaged}"
    return found


def compare(config: TrainConfig, metadata: CheckpointMetadata) -> None:
    """Warn where a started training resumes with other options, or raise UserError where it is complete with others."""
    if not metadata.settings:  # written before checkpoints had them
        return
    differing = differences(metadata.settings, config)
    if config.resolution.images is not None and any(each.startswith("resolution.images") for each in differing):
        raise UserError("resolution.images cannot change in a started training: start another with init_from.*")
    if not is_complete(config, metadata):
        if differing:
            log.warning(f"resumes with other options than until now: {', '.join(differing)}")
        return
    if PHOTOS in differing:
        differing.remove(PHOTOS)
        log.warning(f"the photos of phase {config.phase} lay elsewhere than in data.root={config.data.root}")
    started_from = sources(config)
    differing += [
        f"what is in {key} (another file then)"
        for key, digest in metadata.sources.items()
        if started_from.get(key, digest) != digest
    ]
    if differing:
        other = "run=NAME" if config.sweep is None else "sweep=LABEL"
        raise UserError(
            f"phase {config.phase} of run {run_name(config)} is complete, but came of other options: "
            f"{', '.join(differing)}; start another with {other}, or give the options that it came of"
        )
