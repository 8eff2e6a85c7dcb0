"""Start-up: `--help`, imports, a photo from start to file with PyTorch and without, a network from a checkpoint."""

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from common import child_seconds, compare, draw_photos, interleaved, parser, save, start, table

from colorize.config import SCHEMAS
from colorize.networks.unet import UNet
from colorize.weights.checkpoints import CheckpointMetadata, write_metadata
from colorize.weights.load import load_network

IMPORTS = {
    "nothing": "pass",
    "torch": "import torch",
    "predict's": "import colorize.inference.colorizer, colorize.inference.photo_batches, colorize.inference.jobs",
    "train's": "import colorize.training.build",
    "lightning": "import lightning.pytorch",
}
"""What a Python process imports."""


def command(*words: str) -> Callable[[], float]:
    """A process, and the processor's seconds that it took: waiting for a busy machine is not the program's."""

    return lambda: child_seconds([sys.executable, *words])[1]


def first_photo(repeats: int) -> list[dict[str, Any]]:
    """A cold start to the written file, by the bundled generator: a JPEG of 500 x 375 px."""
    with tempfile.TemporaryDirectory() as folder:
        [photo] = draw_photos(Path(folder), 1).iterdir()
        words = ("-m", "colorize.predict", f"input={photo}", f"output={folder}/coloured.jpg", "overwrite=true")
        ways = {name: command(*words, "device=cpu", f"backend={name}") for name in ("torch", "onnx")}
        return compare(interleaved(ways, repeats), "torch", unit="starts")


def loading(repeats: int) -> list[dict[str, Any]]:
    """Reading the paper's generator from a checkpoint, against making it with first weights and filling it."""
    network = UNet()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "network.ckpt")
        checkpoint = {"state_dict": {f"generator.{key}": value for key, value in network.state_dict().items()}}
        write_metadata(checkpoint, CheckpointMetadata("pretrain_gen", 1, 1, 1, 64, network.architecture, None, 0))
        torch.save(checkpoint, path)

        def made_first() -> None:
            UNet().load_state_dict(load_network(path, "generator").state_dict())

        candidates = {"made with first weights, then filled": made_first}
        candidates["load_network"] = lambda: load_network(path, "generator")
        return compare(interleaved(candidates, repeats), "made with first weights, then filled", unit="networks")


def main() -> None:
    """Measure, print, save."""
    given = parser(__doc__, repeats=5).parse_args()
    start(given)
    begin = time.perf_counter()
    helps = {f"colorize.{name} --help": command("-m", f"colorize.{name}", "--help") for name in SCHEMAS}
    rows = compare(interleaved(helps, given.repeats), next(iter(helps)), unit="starts")
    print(table(rows, "--help"))
    imports = {name: command("-c", text) for name, text in IMPORTS.items()}
    imported = compare(interleaved(imports, given.repeats), "torch", unit="starts")
    print(table(imported, "A process that imports"))
    first = first_photo(given.repeats)
    print(table(first, "The first photo"))
    loaded = loading(given.repeats)
    print(table(loaded, "A generator from a checkpoint"))
    save(
        "startup",
        {"help": rows, "imports": imported, "first_photo": first, "loading": loaded, "s": time.perf_counter() - begin},
        given,
    )


if __name__ == "__main__":
    main()
