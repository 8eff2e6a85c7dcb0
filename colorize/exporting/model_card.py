"""Origin of an export, without the machine's paths, and the Markdown beside it, which says so."""

import math
from pathlib import Path
from typing import Any

from colorize.evaluation.candidates import trained_with
from colorize.exporting.onnx_file import CHECKED, descriptions
from colorize.metrics import LOGGED, VALIDATED
from colorize.networks.preprocessing import AREA_PER_RENDER, Preprocessing
from colorize.runtime.errors import UserError
from colorize.runtime.files import markdown_table, sha256
from colorize.runtime.log import log
from colorize.runtime.version import __version__
from colorize.training.phases import PHASES, VAL, VAL_EMA
from colorize.weights.load import Weights, load_weights
from colorize.weights.safe_reading import read_file

_DATA = {"folder": "a folder of photos", "imagenet": "ImageNet (ILSVRC)", "scenes": "drawn images (`data=scenes`)"}
_ENCODER = {"imagenet": "ImageNet classification (published weights)", "none": "nothing: its first weights were random"}
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
    """Write the card; `difference` is ONNX's from PyTorch. Raises UserError where the training is stated oddly."""
    try:
        training, scores = _training(weights.provenance), _scores(weights.provenance)
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise UserError(
            f"the file states its training in a way that this program does not read ({error!r}): export the "
            "checkpoint that it was made from"
        ) from error
    source = weights.provenance.get("source", weights.title)
    parameters = sum(parameter.numel() for parameter in weights.network.parameters())
    sections = [
        f"# {name}\n\nA neural network that colours black-and-white photos: {source}.",
        "**The colours are invented, not recovered.** The network shows what is likely, not what was there.",
        f"## Network\n\nA U-Net, {parameters / 1e6:.1f} M parameters{_HALF * half}:\n\n"
        f"{_table(weights.network.architecture)}",
        f"## Training\n\n{training}",
        f"## Scores\n\n{scores}",
        f"## What it is shown\n\n{_shown(weights.preprocessing)}",
        f"## Use\n\n{_use(weights, name, difference, half)}",
        "Meant for colouring photos for looking at, by people who know that the result is a guess. Not evidence of "
        "what colour something had, and not to be passed on as a colour photo of its time: say that a program coloured "
        "it. It errs towards what its training photos had most of, and that holds for skin, dress and flags too.",
        "## Licence\n\nNot stated yet: whoever passes this file on writes here under which licence.",
    ]
    return "\n\n".join(sections) + "\n"


def _table(rows: dict[str, Any], head: tuple[str, str] = ("option", "value")) -> str:
    return markdown_table(head, ([key, str(value)] for key, value in rows.items())).rstrip()


def _training(stated: dict[str, Any]) -> str:
    origin = {"SHA-256 of the file": stated.get("sha256", "unknown"), "exported by": stated.get("program", "unknown")}
    if "phase" not in stated:
        rows = {"from": stated.get("source", "unknown"), "training": "not stated in the file it comes from"}
        return _table(rows | origin, ("", ""))
    training, earlier = stated.get("training", {}), stated.get("started_from", {})
    rows = {
        "last phase": f"{stated['phase']}: {PHASES[stated['phase']].description}",
        "images seen in it": f"{stated['images_seen']:,}",
        "epochs": f"{stated['epochs_done']} of {stated['epochs']}",
        "weights": "averaged over the training's steps (EMA)" if stated["averaged"] else "those of the last step",
    }
    if earlier:  # exports of before state phase and images
        rows["started from"] = (
            earlier.get("source") or f"phase {earlier['phase']}, {earlier['images_seen']} images seen"
        )
    if training:
        share = "" if training["train_fraction"] == 1 else f", {training['train_fraction']:.0%} of the training split"
        before = _ENCODER.get(training["encoder_weights"], "something else (weights from a file)")
        rows |= {
            "data": _DATA[training["data"]] + share,
            "sizes, px": ", ".join(map(str, training["sizes_px"])),
            "recipe, model, seed": f"{training['recipe']}, {training['model']}, {training['seed']}",
            "encoder taught before by": before,
        }
    else:
        rows["data"] = "not known: the run's configuration was not beside the checkpoint"
        rows["last size, px"] = stated["size_px"]
    return _table(rows | origin, ("", ""))


def _scores(stated: dict[str, Any]) -> str:
    shown = {
        "the run's validation photos, each with its own luma": stated.get("figures"),
        "the fixed photos by which the run compares its checkpoints": stated.get("score"),
    }
    tables = []
    for photos, scores in shown.items():
        if scores:
            rows = {_METRICS.get(name, name): f"{value:.4g}" for name, value in scores.items()}
            tables.append(f"Means of these weights on {photos}:\n\n{_table(rows, ('metric', 'value'))}")
    return "\n\n".join(tables) or "None are known for exactly these weights: `colorize evaluate` measures them."


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
