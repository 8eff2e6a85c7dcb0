"""Choice of what an evaluation measures: checkpoints, runs, folders of coloured images, and which photos."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml

from colorize.cli.command import given_overrides, is_given, key_of
from colorize.config import EvaluateConfig
from colorize.config.sections import DataConfig
from colorize.runs import SPLIT_KEYS, PhaseFolder, cycles_in, run_folder
from colorize.runtime.errors import UserError, listed
from colorize.runtime.log import log
from colorize.runtime.schema import BadOption
from colorize.weights.bundled import find_weights

if TYPE_CHECKING:
    from colorize.data.sources import Photos
    from colorize.evaluation.protocols import Protocol

OF_A_RUN = (("pretrain_gen", "best"), ("gan", "last"), ("gan", "best"))
"""The checkpoints of a cycle that are measured, where they are there and differ; the one to take comes last."""


def find_checkpoints(config: EvaluateConfig) -> list[Path]:
    """Find the checkpoints that are measured. Raises UserError where one is not there, or a run has none."""
    if not config.checkpoint and not config.coloured:
        folder = Path(config.runs_dir) / config.run
        if not folder.is_dir():
            raise UserError(f"there is no run {folder}: give run=NAME, checkpoint=FILE or coloured=DIR")
        return _checkpoints_of(folder)
    found: list[Path] = []
    for given in config.checkpoint:
        places = (find_weights(given), Path(config.runs_dir) / given)
        if places[0].is_file():
            found.append(places[0])
        elif folders := [place for place in places if place.is_dir()]:
            found += _checkpoints_of(next(filter(_places, folders), folders[0]))
        else:
            raise UserError(f"there is no checkpoint and no run {given} (looked in {config.runs_dir} too)")
    return found


def _places(run: Path) -> list[Path]:
    places = [
        PhaseFolder(cycle.parent, cycle.name, phase).checkpoints / f"{kept}.ckpt"
        for cycle in cycles_in(run)
        for phase, kept in OF_A_RUN
    ]
    return [place for place in places if place.is_file()]


def _checkpoints_of(run: Path) -> list[Path]:
    from colorize.weights.checkpoints import read_checkpoint

    found = _places(run)
    if not found:
        raise UserError(f"{run} is no run with a trained generator: give checkpoint=FILE, or coloured=DIR for images")
    moments: dict[tuple[Path, int], Path] = {}
    for path in reversed(found):  # the last checkpoint of a phase may be its best one, and is called so then
        metadata, _ = read_checkpoint(path)
        moments.setdefault((path.parent, metadata.images_seen), path)
    return list(moments.values())[::-1]


def named(paths: Iterable[str | Path], taken: Iterable[str] = ()) -> dict[str, Path]:
    """Name a row for each path of a checkpoint or folder by the shortest end that no other and none of `taken` has."""
    parts: dict[Path, list[str]] = {}
    for path in map(Path, paths):
        whole = path.resolve()
        if whole in parts:
            raise BadOption(f"{path} is given twice")
        stem = whole.with_suffix("") if whole.is_file() else whole
        parts[whole] = [part for part in stem.parts if part != "checkpoints"]
    others = [name.split("/") for name in taken]
    of_runs = [whole for whole in parts if whole.parent.name == "checkpoints"]
    runs = {whole.parent.parent.parent for whole in of_runs}
    names: dict[str, Path] = {}
    for whole, own in parts.items():
        rest = [other for path, other in parts.items() if path != whole] + others
        # Of several runs each row has its own in its name, not only those that would be mistaken for each other.
        least = 1 if whole not in of_runs else 2 if len(runs) == 1 else 3
        length = next((n for n in range(least, len(own)) if all(own[-n:] != other[-n:] for other in rest)), len(own))
        names["/".join(own[-length:])] = whole
    return names


def output_folder(config: EvaluateConfig, checkpoints: Sequence[Path]) -> Path:
    """Return output=…, else evaluation/ in the run of the first checkpoint or in `run`, else in the working folder."""
    if config.output is not None:
        return Path(config.output)
    if config.checkpoint and checkpoints and config.sweep is None:
        phase = checkpoints[0].parent.parent
        if checkpoints[0].parent.name == "checkpoints" and phase.name in dict(OF_A_RUN):
            return phase.parent / "evaluation"
    of_no_run = (config.checkpoint or config.coloured) and config.sweep is None and not is_given("run")
    return (Path() if of_no_run else run_folder(config)) / "evaluation"


def take_data_of_run(config: EvaluateConfig, checkpoints: Sequence[Path]) -> None:
    """Measure on the photos and the split that the first of `checkpoints` was trained with, but for what was typed."""
    typed = set(map(key_of, given_overrides()))
    trained = next(filter(None, (trained_with(path.parent.parent) for path in checkpoints)), None)
    other_kind = trained and trained["data"].get("kind") != config.data.kind and typed & {"data", "data.kind", "recipe"}
    if trained and not other_kind and (typed or not config.data.root):
        if trained["data"].get("file_list") and "data.root" not in typed:
            raise BadOption("the training took photos by data.file_list, which is gone: give data.root=DIR with these")
        for key in SPLIT_KEYS:
            section, _, name = key.rpartition(".")
            source, target = (trained["data"], config.data) if section else (trained, config)
            if key not in typed and name in source:
                setattr(target, name, source[name])
        log.info(f"photos and split of the training: {config.data.kind} {config.data.root}, seed={config.seed}")
    if not config.data.root:
        raise BadOption("data.root is not set, and there is no run that says it: give data=folder data.root=PHOTOS")


def trained_with(phase: Path) -> dict[str, Any] | None:
    """Return the configuration that a phase keeps; None where that is no phase of a run of this program."""
    try:
        found = yaml.safe_load((phase / "config.yaml").read_text(encoding="utf-8"))
        return found if isinstance(found["data"], dict) else None
    except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError):
        return None


class Chosen(NamedTuple):
    """Choice of the photos that are measured."""

    photos: Photos  # the source, with those training photos that the luma look-up may be fitted on
    identities: list[str]  # in order
    coloured: list[dict[str, Path]]  # for each folder of coloured images, the file of each identity
    left_out: dict[str, str]  # identities, and why
    sampled_from: int | None  # how many the split has, where a fixed sample of its validation photos is measured


def choose(
    config: EvaluateConfig, protocol: Protocol, folders: Mapping[str, Path], list_photos: Callable[[DataConfig], Photos]
) -> Chosen:
    """Choose the photos that the protocol takes and each folder has an image of. Raises UserError if none is left."""
    whole = replace(config.data, max_val=None)
    photos = everything = list_photos(whole)
    if folders and whole.train_fraction < 1:
        everything = list_photos(replace(whole, train_fraction=1.0))
    identities, sampled_from = choose_photos(photos, config.split, protocol), None
    if config.split != "train" and config.data.max_val is not None and config.data.max_val < len(photos.val):
        sampled_from = len(identities)
        photos = replace(photos, val=photos.val[: config.data.max_val])
        identities = choose_photos(photos, config.split, protocol)
    coloured = [match_coloured(everything, identities, folder) for folder in folders.values()]
    left_out = {
        identity: f"without an image in {row}"
        for row, found in zip(folders, coloured, strict=True)
        for identity in identities
        if identity not in found
    }
    identities = [identity for identity in identities if identity not in left_out]
    if not identities:
        raise UserError(f"no photo in {photos.root} has an image in each of {', '.join(config.coloured)}")
    return Chosen(photos, identities, coloured, left_out, sampled_from)


def choose_photos(photos: Photos, split: str, protocol: Protocol) -> list[str]:
    """Return a split's identities that the protocol takes, by their file names. Raises UserError for an empty split."""
    found = sorted(photos.of_split(split), key=lambda identity: (PurePosixPath(identity).name, identity))
    if not found:
        raise UserError(f"there are no photos in the split {split} of {photos.root}: give another split=…")
    return found[: protocol.photos]


def match_coloured(photos: Photos, identities: Sequence[str], folder: Path) -> dict[str, Path]:
    """Find the coloured image of each photo in `folder`, with a warning of surplus ones. Raises UserError for none."""
    from colorize.evaluation.protocols import match

    found, surplus = match(sorted({*photos.train, *photos.val, *identities}), folder)
    if found.keys().isdisjoint(identities):
        raise UserError(
            f"{folder} holds no image named as one of the {len(identities)} photos in {photos.root} "
            f"(the first is {identities[0]}{', the first there ' + surplus[0] if surplus else ''}; see split=…)"
        )
    if surplus:
        log.warning(f"{folder}: {len(surplus)} images belong to no photo in {photos.root}: {listed(surplus)}")
    return found


def of_another_split(config: EvaluateConfig, checkpoint: Path) -> str | None:
    """Say so where a checkpoint was trained on another split of the same photos, and may know those it is shown."""
    is_scenes, trained = config.data.kind == "scenes", trained_with(checkpoint.parent.parent)
    if config.split != "val" or trained is None or (not is_scenes and (Path(config.data.root) / "val").is_dir()):
        return None
    data = trained["data"]
    there, here = (trained.get("seed"), data.get("val_fraction")), (config.seed, config.data.val_fraction)
    if is_scenes:  # another seed draws other scenes
        same = data.get("kind") == "scenes" and there[0] == here[0]
    else:
        same = Path(str(data.get("root"))).resolve() == Path(config.data.root).resolve()
    if not same or None in there or there == here:
        return None
    decisive = f"seed={there[0]} data.val_fraction={there[1]}"
    return f"{checkpoint} was trained on another split, and knows some of these photos: give {decisive}"
