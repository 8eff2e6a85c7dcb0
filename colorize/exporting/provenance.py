"""What trained a generator, as its checkpoint and the configuration of its run say it, without paths of the machine.

The result is JSON: it travels in the metadata of an export, and the model card is made from it.
"""

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from colorize.runtime.errors import UserError
from colorize.runtime.version import __version__
from colorize.training.phases import VAL, VAL_EMA
from colorize.weights import checkpoints, foreign, safe_reading
from colorize.weights.checkpoints import Card
from colorize.weights.load import Weights, load_export

log = logging.getLogger("colorize")

FIGURES = ("psnr", "ciede2000", "delta_cf", "skill", "content")
"""Validation figures of a generator that an export carries."""

PUBLISHED = ("imagenet", "none")
"""Values of `encoder_weights` that are no path."""


def of(path: str | Path, weights: Weights, use_ema: bool) -> dict[str, Any]:
    """The provenance of the generator that `colorize.weights.load.load(path, use_ema)` gave; an export's is its own.

    Keys that nothing is known of are left out:

        program, source, sha256      what exported it; what the file was, and its digest
        phase, images_seen, epochs_done, epochs, size_px, averaged
                                     the fit that wrote the checkpoint
        figures                      of exactly these weights, see `FIGURES`
        score                        theirs on the fit's fixed photos, see `colorize.evaluation.stopping`
        training                     settings of the fit, from config.yaml in its folder
        started_from                 phase and images_seen of the checkpoint that gave the fit its generator, or
                                     source, where it was no checkpoint of this program

    Raises:
        UserError: the file cannot be read.
    """
    if weights.provenance:
        return weights.provenance
    stated: dict[str, Any] = {
        "program": f"colorize {__version__}",
        "source": weights.title,
        "sha256": checkpoints.sha256(path),
    }
    content = safe_reading.read_file(path)
    if not (isinstance(content, Mapping) and "colorize" in content):
        return stated
    card, _ = checkpoints.read(path)
    stated |= {
        "phase": card.phase,
        "images_seen": card.images_seen,
        "epochs_done": card.epochs_done,
        "epochs": card.epochs,
        "size_px": card.size_px,
        "averaged": card.averaged and use_ema,
    }
    rows = content.get("callbacks", {}).get("Monitor", {}).get("rows", [])
    stated["figures"] = _figures(rows, card, VAL_EMA if stated["averaged"] else VAL)
    if card.score is not None and stated["averaged"] == card.averaged:  # where there is an average, it is what scored
        stated["score"] = _finite({name: value for name, value in card.score.items() if name != "images_seen"})
    stated |= _settings(Path(path), card)
    return {name: value for name, value in stated.items() if value != {}}


def _figures(rows: list[dict[str, Any]], card: Card, group: str) -> dict[str, float]:
    """Those of the epoch that ended with these weights; a checkpoint from inside an epoch has none."""
    row = next((row for row in rows if row["images_seen"] == card.images_seen), {})
    return _finite({name: row[f"{group}/{name}"] for name in FIGURES if f"{group}/{name}" in row})


def _finite(figures: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in figures.items() if math.isfinite(value)}


def _settings(path: Path, card: Card) -> dict[str, Any]:
    """What PHASE/config.yaml says, where `path` is PHASE/checkpoints/NAME.ckpt."""
    phase_folder = path.absolute().parent.parent
    file = phase_folder / "config.yaml"
    try:
        config = yaml.safe_load(file.read_text(encoding="utf-8"))
        if config["phase"] != card.phase:
            raise KeyError(f"it is of phase {config['phase']}")
        data, model, resolution = config["data"], config["model"], config["resolution"]
        training = {
            "recipe": config["recipe"],
            "model": model["name"],
            "encoder_weights": model["encoder_weights"] if model["encoder_weights"] in PUBLISHED else "a file",
            "data": data["kind"],
            "train_fraction": data["train_fraction"],
            "sizes_px": resolution["size_px"],
            "epochs": resolution["epochs"],
            "seed": config["seed"],
        }
        return {"training": training} | _started_from(config["init_from"]["generator"], phase_folder.parent)
    except FileNotFoundError:
        log.info(f"there is no {file}: what the data were is left out")
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())[:100]
        log.warning(f"{file} is not the configuration of this checkpoint ({reason}): what the data were is left out")
    return {}


def _started_from(stated: str | None, run_folder: Path) -> dict[str, Any]:
    """What `init_from.generator` names, which may have moved with its run."""
    if stated is None:
        return {}
    run, *inside = Path(stated).parts[-4:]
    moved = run_folder.joinpath(*inside)
    path = moved if run == run_folder.name and moved.is_file() else Path(stated)
    try:
        if (export := load_export(path)) is not None:
            return {"started_from": {"source": export.title}}
        content = safe_reading.read_file(path)
        if isinstance(content, Mapping) and "colorize" in content:
            card, _ = checkpoints.read(path)
            return {"started_from": {"phase": card.phase, "images_seen": card.images_seen}}
        source = foreign.recognise(safe_reading.state_of(content, path))
    except UserError:
        return {"started_from": {"source": "a checkpoint that is not there any more"}}
    return {"started_from": {"source": source.title if source else "another file of weights"}}
