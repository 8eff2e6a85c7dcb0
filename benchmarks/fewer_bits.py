"""Static int8 by OpenVINO and NNCF against PyTorch as it colours, on a CPU: time and, with `--photos`, colours.

    python benchmarks/fewer_bits.py --threads 1 [--photos VAL --calibrate TRAIN]

Wants openvino, nncf and the extra `onnx`, which nothing else here needs all of, so `make bench` leaves it out. Of the
bundled generator it also times ONNX Runtime. The other networks have random weights, whose colours say nothing.
"""

import argparse
import copy
import importlib.util
import logging
import statistics
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from common import compare, interleaved, parser, processor_seconds, save, start, table
from inference import NETWORKS, greys, random_network
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2.functional import center_crop, resize, to_image

from colorize.color import merge_luma, rgb_to_grey
from colorize.inference.torch_backend import TorchBackend
from colorize.metrics import mean_ciede2000
from colorize.networks.folding import fold_norms
from colorize.networks.generator import Generator
from colorize.weights.load import load_weights

PACKAGES = ("openvino", "nncf", "onnx", "onnxscript", "onnxruntime")
Run = Callable[[Tensor], Tensor]
"""Grey (1, 1, H, W) in [0, 1] to RGB (1, 3, H, W)."""


def photo_greys(folder: Path, count: int, size_px: int) -> list[Tensor]:
    """Centre squares of up to `count` photos, spread over the folder's names."""
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    photos = (to_image(Image.open(path).convert("RGB")) for path in files[:: max(1, len(files) // count)][:count])
    squares = (resize(center_crop(photo, min(photo.shape[-2:])), [size_px], antialias=True) for photo in photos)  # type: ignore[arg-type]
    return [rgb_to_grey(square[None].float() / 255) for square in squares]


def write_onnx(network: Generator, size_px: int, path: Path) -> Path:
    """Write one fixed size, which OpenVINO is fastest with."""
    network = fold_norms(copy.deepcopy(network)).requires_grad_(False)
    example, names = (torch.zeros(1, 1, size_px, size_px),), {"input_names": ["grey"], "output_names": ["rgb"]}
    torch.onnx.export(network, example, path, dynamo=True, external_data=False, verbose=False, **names)  # type: ignore[arg-type]
    return path


def with_openvino(model: Any, threads: int) -> Run:
    """Compile; where the processor has bf16, OpenVINO computes in it unasked, as `auto` does here."""
    import openvino

    settings = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY"}
    request = openvino.Core().compile_model(model, "CPU", settings).create_infer_request()
    return lambda grey: torch.from_numpy(request.infer({"grey": grey.numpy()})[0].copy())


def with_onnxruntime(path: Path, threads: int) -> Run:
    """Load."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda grey: torch.from_numpy(session.run(None, {"grey": grey.numpy()})[0])


def quantized(path: Path, calibration: list[Tensor]) -> Any:
    """Quantise all of it, weights to 7 bits: with 8, the 16-bit sums of processors without VNNI overflow."""
    import nncf
    import openvino
    from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters, OverflowFix

    logging.getLogger("nncf").setLevel(logging.ERROR)
    seven_bits = AdvancedQuantizationParameters(overflow_fix=OverflowFix.ENABLE)
    data = nncf.Dataset([{"grey": grey.numpy()} for grey in calibration])
    return nncf.quantize(
        openvino.Core().read_model(path),
        data,
        preset=nncf.QuantizationPreset.MIXED,
        subset_size=len(calibration),
        advanced_parameters=seven_bits,
    )


def measure(name: str, size_px: int, given: argparse.Namespace) -> list[dict[str, Any]]:
    """Return a row for each way of computing."""
    bundled, threads = name == "bundled", torch.get_num_threads()
    network = load_weights("bundled").network.eval() if bundled else random_network(name)
    grey = greys(1, size_px)
    few = given.count if bundled else min(6, given.count)  # random weights have no accuracy to care for
    calibration = photo_greys(given.calibrate, few, size_px) if given.calibrate else list(greys(6, size_px).split(1))
    with tempfile.TemporaryDirectory() as folder:
        path = write_onnx(network, size_px, Path(folder, "network.onnx"))
        ours = TorchBackend(network, "cpu")
        runs: dict[str, Run] = {"PyTorch": lambda grey: torch.from_numpy(ours.run(grey.numpy()))}
        if bundled:
            runs["ONNX Runtime"] = with_onnxruntime(path, threads)
        runs["OpenVINO"] = with_openvino(path, threads)
        runs["OpenVINO, int8"] = with_openvino(quantized(path, calibration), threads)
    each = {key: partial(run, grey) for key, run in runs.items()}
    timed = {key: partial(processor_seconds, run) for key, run in each.items()} if threads == 1 else each
    rows = compare(interleaved(timed, given.repeats), "PyTorch")
    shown = photo_greys(given.photos, given.count, size_px) if given.photos and bundled else []
    for row in rows if shown else []:
        ways = runs[row["candidate"]], runs["PyTorch"]
        pairs = [[merge_luma(way(photo), photo).clamp(0, 1) for way in ways] for photo in shown]
        row["mean_ciede2000"] = statistics.mean(float(mean_ciede2000(*pair)) for pair in pairs)
    return [{"network": name, "size_px": size_px} | row for row in rows]


def main() -> None:
    """Measure, print, save."""
    options = parser(__doc__, repeats=5)
    options.add_argument("--networks", nargs="+", default=["bundled", *NETWORKS], choices=["bundled", *NETWORKS])
    options.add_argument("--sizes", type=int, nargs="+", default=[256, 512], help="px")
    options.add_argument("--photos", type=Path, help="measure colours of the bundled generator on these")
    options.add_argument("--calibrate", type=Path, help="other photos, for the ranges of values (default: drawn ones)")
    options.add_argument("--count", type=int, default=100, help="photos of each folder")
    given = options.parse_args()
    if missing := [name for name in PACKAGES if importlib.util.find_spec(name) is None]:
        sys.exit(f"fewer_bits.py needs {', '.join(missing)}: pip install {' '.join(missing)}")
    start(given)
    if given.quick:
        given.networks, given.sizes, given.count = ["bundled"], [64], 2
    rows = [row for name in given.networks for size_px in given.sizes for row in measure(name, size_px, given)]
    print(table(rows, "One square, network alone"))
    save("fewer_bits", {"rows": rows}, given)


if __name__ == "__main__":
    main()
