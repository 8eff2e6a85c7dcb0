"""The training of a generator as JSON for exports and model cards, without the machine's paths."""

import math
from pathlib import Path
from typing import Any

from colorize.evaluation.candidates import trained_with
from colorize.metrics import VALIDATED
from colorize.runtime.errors import UserError
from colorize.runtime.files import sha256
from colorize.runtime.log import log
from colorize.runtime.version import __version__
from colorize.training.phases import VAL, VAL_EMA
from colorize.weights.load import Weights, load_weights
from colorize.weights.safe_reading import read_file

METRICS = (*VALIDATED, "content")  # validation metrics of a generator that an export carries


def find_provenance(path: str | Path, weights: Weights, use_ema: bool) -> dict[str, Any]:
    """Return the provenance of the generator that `load_weights(path, use_ema)` gave; an export's is its own.

    As far as they are known: `program` that exported it; `source`, what the file was, and its `sha256`; of a checkpoint
    its `phase`, `images_seen`, `epochs_done`, `epochs`, `size_px`, `averaged`; `figures`, scores of exactly these
    weights, and `score`, theirs on the run's fixed photos; `training`, settings from its run's config.yaml;
    `started_from`, the `source` of the generator that it began with.
    """
    if weights.provenance:
        return weights.provenance
    stated: dict[str, Any] = {"program": f"colorize {__version__}", "source": weights.title, "sha256": sha256(path)}
    if (metadata := weights.metadata) is None:
        return stated
    for name in ("phase", "images_seen", "epochs_done", "epochs", "size_px"):
        stated[name] = getattr(metadata, name)
    stated["averaged"] = metadata.averaged and use_ema
    # Scores of the epoch that ended with these weights; a checkpoint from inside an epoch has none.
    rows = read_file(path).get("callbacks", {}).get("Monitor", {}).get("rows", [])
    row: dict[str, Any] = next((row for row in rows if row["images_seen"] == metadata.images_seen), {})
    group = VAL_EMA if stated["averaged"] else VAL
    stated["figures"] = _finite({name: row.get(f"{group}/{name}", math.nan) for name in METRICS})
    if metadata.score is not None and stated["averaged"] == metadata.averaged:  # an average, if there is one, scored
        stated["score"] = _finite({name: value for name, value in metadata.score.items() if name != "images_seen"})
    stated |= _settings(Path(path), metadata.phase)
    return {name: value for name, value in stated.items() if value != {}}


def _finite(scores: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in scores.items() if math.isfinite(value)}


def _settings(path: Path, phase: str) -> dict[str, Any]:
    phase_folder = path.absolute().parent.parent
    try:
        config = trained_with(phase_folder) or {}
        if config["phase"] != phase:
            raise KeyError(phase)
        data, model, resolution = config["data"], config["model"], config["resolution"]
        training = {
            "recipe": config["recipe"],
            "model": model["name"],
            "encoder_weights": first if (first := model["encoder_weights"]) in ("imagenet", "none") else "a file",
            "data": data["kind"],
            "train_fraction": data["train_fraction"],
            "sizes_px": resolution["size_px"],
            "epochs": resolution["epochs"],
            "seed": config["seed"],
        }
        return {"training": training} | _started_from(config["init_from"]["generator"], phase_folder.parent)
    except (KeyError, TypeError):
        file = phase_folder / "config.yaml"
        log.warning(f"{file} is missing, or not the configuration of this checkpoint: what the data were is left out")
        return {}


def _started_from(stated: str | None, run_folder: Path) -> dict[str, Any]:
    """Find the origin of the file that `init_from.generator` names, which may have moved with its run."""
    if stated is None:
        return {}
    run, *inside = Path(stated).parts[-4:]
    moved = run_folder.joinpath(*inside)
    path = moved if run == run_folder.name and moved.is_file() else Path(stated)
    try:
        return {"started_from": {"source": load_weights(path).title}}
    except UserError:
        return {"started_from": {"source": "a file that cannot be read any more"}}
