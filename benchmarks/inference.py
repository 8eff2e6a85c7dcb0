"""Inference: `Colorizer` against the same network as DeOldify runs it: eager, float32, contiguous, nothing folded.

Also: peak memory of a large render and of a large photo, and how much of a folder's time is the network's.
"""

import argparse
import copy
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from common import compare, in_child, interleaved, parser, peak_mb, processor_seconds, save, start, table
from torch import Tensor, nn

from colorize.config import PredictConfig
from colorize.data.scenes import draw_scene
from colorize.inference.colorizer import Colorizer
from colorize.inference.torch_backend import TorchBackend
from colorize.networks.preprocessing import Preprocessing
from colorize.networks.unet import UNet
from colorize.runtime.devices import pick_precision
from colorize.weights.load import load_weights

NETWORKS: dict[str, dict[str, Any]] = {
    "paper": {},
    "deoldify_artistic": {"width_factor": 1.5, "norm": "spectral", "last_blur": True, "relu_before_sum": True},
}
"""What conf/model/NAME.yaml has beside the defaults."""


def greys(count: int, size_px: int) -> Tensor:
    """Drawn scenes, `(count, 1, size_px, size_px)` in [0, 1]."""
    rgb = torch.stack([torch.from_numpy(draw_scene(0, index, size_px).rgb) for index in range(count)])
    return (rgb.float() @ torch.tensor([0.299, 0.587, 0.114]) / 255)[:, None]


@torch.no_grad()
def random_network(name: str) -> UNet:
    """A network of random weights whose activations are of the size that a trained one's are.

    The batch norms know the statistics of some scenes, and the last convolution is scaled to give values that vary by
    one before the sigmoid: otherwise all is saturated, and rounding is not what it is in a trained network.
    """
    torch.manual_seed(0)
    network = UNet(**NETWORKS[name]).train()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # means of all it sees
    seen: list[Tensor] = []
    hook = network.to_colour.register_forward_hook(lambda module, inputs, output: seen.append(output))
    network(greys(8, 96))
    network.eval()(greys(8, 96))
    hook.remove()
    scale = 1 / float(seen[-1].std())
    last = network.to_colour.conv
    if hasattr(last, "parametrizations"):
        originals = last.parametrizations.weight
        if hasattr(originals, "original1"):
            originals.original0.mul_(scale)  # of weight norm: the length
        else:
            spectral = last.weight.detach() * scale
            nn.utils.parametrize.remove_parametrizations(last, "weight")
            last.weight.copy_(spectral)
    else:
        last.weight.mul_(scale)
    return network


def speed(network: UNet, name: str, size_px: int, options: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each way of computing."""
    grey = greys(1, size_px)
    precisions = dict.fromkeys([pick_precision("auto", torch.device("cpu")), "32-true"])
    ours = {p: TorchBackend(copy.deepcopy(network), "cpu", p) for p in precisions}

    def eager() -> Tensor:
        with torch.no_grad():
            return network(grey)

    candidates = {"eager": eager} | {p: lambda c=c: torch.from_numpy(c.run(grey.numpy())) for p, c in ours.items()}
    results = {key: (run().clamp(0, 1) * 255).round() for key, run in candidates.items()}
    timed = {key: (lambda run=run: processor_seconds(run)) for key, run in candidates.items()}
    one_thread = torch.get_num_threads() == 1
    rows = compare(interleaved(timed if one_thread else candidates, options.repeats), "eager")
    for row in rows:
        difference = (results[row["candidate"]] - results["eager"]).abs()
        row |= {"mean_8_bit": float(difference.mean()), "max_8_bit": float(difference.max())}
    return [{"network": name, "size_px": size_px} | row for row in rows]


def render_peak(name: str, render_px: int) -> dict[str, float]:
    """Megabytes before and after a render of one square, in this process."""
    colorizer = Colorizer(TorchBackend(UNet(**NETWORKS[name]).eval(), "cpu"), Preprocessing(256))
    before = peak_mb()
    colorizer.backend.run(torch.rand(1, 1, render_px, render_px).numpy())
    return {"loaded_mb": before, "peak_mb": peak_mb()}


def photo_peak(name: str, megapixels: int) -> dict[str, float]:
    """Megabytes before and after a large JPEG was coloured, from file to file."""
    from PIL import Image

    from colorize.inference.jobs import plan
    from colorize.inference.photo_batches import colour_all

    if name == "bundled":
        colorizer = Colorizer.from_checkpoint(device="cpu")
    else:
        colorizer = Colorizer(TorchBackend(UNet(**NETWORKS[name]).eval(), "cpu"), Preprocessing(220))
    colorizer.backend.run(torch.rand(1, 1, 220, 330).numpy())
    height = round((megapixels * 1e6 / 1.5) ** 0.5)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "photo.jpg")
        in_child(_draw_large, str(source), round(1.5 * height), height)
        before = peak_mb()
        jobs = plan([str(source)], str(Path(folder, "result.jpg")), None, None).jobs
        for outcome in colour_all(colorizer, jobs, PredictConfig()):
            assert outcome.result is not None, outcome.reason
        with Image.open(Path(folder, "result.jpg")) as result:
            assert result.size == (round(1.5 * height), height)
    return {"loaded_mb": before, "peak_mb": peak_mb()}


def _draw_large(path: str, width: int, height: int) -> None:
    from PIL import Image

    Image.fromarray(draw_scene(0, 0, 1024).rgb).resize((width, height)).save(path, quality=92)


def folder_share(name: str, photos: int, size: tuple[int, int]) -> dict[str, float]:
    """Seconds for a folder as it is done, and for its parts one after the other; busy cores meanwhile."""
    from PIL import Image

    from colorize.inference import photo_batches
    from colorize.inference.jobs import plan
    from colorize.photos import reading

    colorizer = Colorizer(TorchBackend(random_network(name), "cpu"), Preprocessing(220))
    options = PredictConfig()
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "in")
        source.mkdir()
        for index in range(photos):
            scene = Image.fromarray(draw_scene(0, index, 512).rgb).resize(size)
            scene.save(source / f"{index}.jpg", quality=92)
        jobs = plan([str(source)], str(Path(folder, "out")), None, None).jobs
        list(photo_batches.colour_all(colorizer, jobs[:1], options))
        parts = {"read": 0.0, "network": 0.0, "write": 0.0}
        for job in jobs:
            times = [time.perf_counter()]
            photo = reading.read(job.source)
            times.append(time.perf_counter())
            made = colorizer.render([photo])[0]
            times.append(time.perf_counter())
            photo_batches.write_result(job, photo, made, options)
            times.append(time.perf_counter())
            for part, begin, end in zip(parts, times, times[1:], strict=False):
                parts[part] += end - begin
        begin, busy = time.perf_counter(), time.process_time()
        list(photo_batches.colour_all(colorizer, jobs, options))
        wall, busy = time.perf_counter() - begin, time.process_time() - busy
    apart = sum(parts.values())
    return {
        **{f"{part}_s": seconds for part, seconds in parts.items()},
        "apart_s": apart,
        "together_s": wall,
        "ratio": apart / wall,
        "busy_cores": busy / wall,
    }


def main() -> None:
    """Measure, print, save."""
    options = parser(__doc__, repeats=5)
    options.add_argument("--sizes", type=int, nargs="+", default=[256, 512], help="px")
    options.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    options.add_argument("--weights", type=Path, help="also this file of weights, as predict takes it")
    options.add_argument("--without", nargs="+", default=[], choices=["speed", "memory", "folder"])
    given = options.parse_args()
    start(given)
    if given.quick:
        given.sizes, given.networks = [64], ["paper"]
    results: dict[str, Any] = {}
    if "speed" not in given.without:
        networks = {name: random_network(name) for name in given.networks}
        if given.weights is not None:
            networks[given.weights.name] = load_weights(given.weights).network
        rows = [
            row
            for name, network in networks.items()
            for size in given.sizes
            for row in speed(network, name, size, given)
        ]
        results["speed"] = rows
        print(table(rows, "One square, network alone; random weights"))
    if "memory" not in given.without:
        name, render_px, megapixels = ("paper", 128, 2) if given.quick else ("deoldify_artistic", 1024, 24)
        large = in_child(render_peak, name, render_px)[0]
        photo = in_child(photo_peak, "paper", megapixels)[0]
        pocket = in_child(photo_peak, "bundled", 2 if given.quick else 12)[0]
        memory = [
            {"what": f"{name}, a render of {render_px} px"} | large,
            {"what": f"paper, a JPEG of {megapixels} megapixels"} | photo,
            {"what": f"bundled, a JPEG of {2 if given.quick else 12} megapixels"} | pocket,
        ]
        for row in memory:
            row["above_loaded_mb"] = row["peak_mb"] - row["loaded_mb"]
        results["memory"] = memory
        print(table(memory, "Peak memory"))
    if "folder" not in given.without:
        share = folder_share("paper", 3 if given.quick else 12, (300, 200) if given.quick else (3000, 2000))
        results["folder"] = share
        print(table([share], f"A folder, {os.cpu_count()} cores: its parts one after the other, and together"))
    save("inference", results, given)


if __name__ == "__main__":
    main()
