"""Statement of an export, in JSON: its network, how that is shown photos, what it was trained on.

Files of safetensors and of ONNX have it in their metadata, as `colorize`: `format`, `generator` (its `architecture`),
`preprocessing` (the fields of `Preprocessing`), `provenance`, for people to read. Nothing here imports torch.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from colorize.networks.preprocessing import Preprocessing
from colorize.runtime.errors import UserError, brief
from colorize.weights import bundled

EXPORT_FORMAT = 1

ORIGINS: dict[Any, str] = {
    "scenes": ", trained on drawn scenes only: photographs will come out wrong",
    "imagenet": ", trained on ImageNet",
    "folder": ", trained on a folder of photos",
    "shards": ", trained on photos in shards",
}
"""Training data of a generator, for people to read, by its `data.kind`."""


@dataclass(frozen=True)
class Stated:
    """Statement of an export; `title` is what it is and was trained on, for people to read."""

    generator: Any
    preprocessing: Preprocessing
    provenance: dict[str, Any]
    title: str


def read_stated(path: str | Path, text: str) -> Stated:
    """Read the statement `text` of the export at `path`. Raises UserError where it is none, or of another format."""
    try:
        content = json.loads(text)
        if content["format"] != EXPORT_FORMAT:
            raise UserError(f"{path} has export format {content['format']}; this program reads format {EXPORT_FORMAT}")
        provenance = dict(content.get("provenance", {}))
        is_bundled = Path(path).with_suffix("") == bundled.BUNDLED.with_suffix("")
        title = "the bundled generator (pocket)" if is_bundled else "export of this program"
        title += ORIGINS.get(provenance.get("training", {}).get("data"), "")
        return Stated(content["generator"], Preprocessing(**content["preprocessing"]), provenance, title)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path} does not state its network in a way this program reads: {brief(error)}") from error
