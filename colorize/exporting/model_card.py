"""Origin of an export, without the machine's paths, and the Markdown beside it, which says so."""

import math
from pathlib import Path
from typing import Any

from colorize.evaluation.candidates import trained_with
from colorize.exporting.weight_files import CHECKED, descriptions
from colorize.metrics import LOGGED, VALIDATED
from colorize.networks.preprocessing import AREA_PER_RENDER, Preprocessing
from colorize.runtime.errors import UserError
from colorize.runtime.files import markdown_table, sha256
from colorize.runtime.log import log
from colorize.runtime.version import __version__
from colorize.training.phases import PHASES, VAL, VAL_EMA
from colorize.weights.load import Weights, load_weights
from colorize.weights.safe_reading import read_file

_SCORES = {
    "figures": "the run's validation photos, each with its own luma",
    "score": "the fixed photos by which the run compares its checkpoints",
}
_ATTENTION = " The memory of the self-attention grows with the fourth power of the side."
_HALF = ", stored as float16 (its arithmetic is float32)"
_METRICS = {name: f"{row.title} ({row.note})" if row.note else row.title for name, row in LOGGED.items()}
_METRICS |= {"content": "content loss", "distance": "distance (0: truth, 1: grey)"}


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
    stated["figures"] = _finite({name: row.get(f"{group}/{name}", math.nan) for name in (*VALIDATED, "content")})
    if metadata.score is not None and stated["averaged"] == metadata.averaged:  # an average, if there is one, scored
        stated["score"] = _finite({name: value for name, value in metadata.score.items() if name != "images_seen"})
    stated |= _trained_by(Path(path), metadata.phase)
    return {name: value for name, value in stated.items() if value != {}}


def _finite(scores: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in scores.items() if math.isfinite(value)}


def _trained_by(path: Path, phase: str) -> dict[str, Any]:
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


def text(weights: Weights, name: str, difference: float | None, half: bool = False) -> str:
    """Write the card; `difference` is ONNX's from PyTorch."""
    stated = {key: part for key, part in weights.provenance.items() if key not in _SCORES}
    source, rows = stated.get("source", weights.title), _rows(stated)
    if phase := PHASES.get(str(stated.get("phase"))):
        rows["phase"] += f": {phase.description}"
    if "training" not in stated:
        rows["training"] = "not known: it is not in the file, nor was the run's configuration beside it"
    tables = []
    for key, photos in _SCORES.items():
        if scores := weights.provenance.get(key):
            shown = {_METRICS.get(metric, metric): text for metric, text in _rows(scores).items()}
            tables.append(f"Means of these weights on {photos}:\n\n{_table(shown, ('metric', 'value'))}")
    parameters = sum(parameter.numel() for parameter in weights.network.parameters())
    sections = [
        f"# {name}\n\nA neural network that colours black-and-white photos: {source}.",
        "**The colours are invented, not recovered.** The network shows what is likely, not what was there.",
        f"## Network\n\nA U-Net, {parameters / 1e6:.1f} M parameters{_HALF * half}:\n\n"
        f"{_table(weights.network.architecture)}",
        f"## Training\n\n{_table(rows, ('', ''))}",
        "## Scores\n\n"
        + ("\n\n".join(tables) or "None are known for exactly these weights: `colorize evaluate` measures them."),
        f"## What it is shown\n\n{_shown(weights.preprocessing)}",
        f"## Use\n\n{_use(weights, name, difference, half)}",
        "Meant for colouring photos for looking at, by people who know that the result is a guess. Not evidence of "
        "what colour something had, and not to be passed on as a colour photo of its time: say that a program coloured "
        "it. It errs towards what its training photos had most of, and that holds for skin, dress and flags too.",
        "## Licence\n\nNot stated yet: whoever passes this file on writes here under which licence.",
    ]
    return "\n\n".join(sections) + "\n"


def _rows(stated: Any) -> dict[str, str]:
    """Turn what a file states of its training, of whatever kind, into the rows of a table."""
    if not isinstance(stated, dict):
        return {"": str(stated)}
    rows = dict[str, str]()
    for key, part in stated.items():
        if isinstance(part, dict):
            rows |= {f"{key}: {name}": text for name, text in _rows(part).items()}
        else:
            rows[key] = f"{part:,}" if type(part) is int else f"{part:.4g}" if type(part) is float else str(part)
    return {key.replace("_", " "): text for key, text in rows.items()}


def _table(rows: dict[str, Any], head: tuple[str, str] = ("option", "value")) -> str:
    return markdown_table(head, ([key, str(value)] for key, value in rows.items())).rstrip()


def _shown(preprocessing: Preprocessing) -> str:
    px = preprocessing.render_px
    if preprocessing.deoldify:
        size = f"scaled to a square of {px} px, whatever its shape (bilinear); the network's RGB is cut to [0, 1]"
    else:
        size = f"scaled so that its short side has {px} px, at most {AREA_PER_RENDER:g} × {px}² pixels in all (bicubic)"
    return (
        f"The photo's grey (Rec. 601 luma of its sRGB values, in [0, 1]), {size}. Of what it answers only the chroma "
        "counts: enlarged to the photo's size, and joined with the photo's own luma."
    )


def _use(weights: Weights, name: str, difference: float | None, half: bool) -> str:
    if difference is None:
        return (
            f"```bash\npython -m colorize.predict checkpoint={name} input=photos output=coloured\n```\n\n"
            f'From Python: `colorize.Colorizer.from_checkpoint("{name}").colorize("photo.jpg")`. Architecture and '
            "preprocessing are in the file's metadata."
        )
    sizes = ", ".join(f"{batch}×1×{height}×{width}" for batch, height, width in CHECKED)
    return (
        f"{_table(descriptions(weights.network), ('tensor', 'what it is'))}\n\n"
        f'```python\nsession = onnxruntime.InferenceSession("{name}")\n'
        f'(rgb,) = session.run(["rgb"], {{"grey": grey}})\n'
        f"```\n\nOn {sizes} ONNX Runtime and PyTorch (float32{', weights rounded to float16' * half}) differ by at "
        f"most {difference:.1g}.{_ATTENTION * weights.network.architecture.get('self_attention', False)}"
    )
