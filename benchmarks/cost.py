"""Cost as the work grows: seconds and memory against size, batch and count, each with the exponent of its growth.

A training step (phase pretrain_gen, the paper's networks, in a process of its own) against size and batch; colouring
with the paper's generator against size; colouring one after the other against their count. Memory is the peak of the
process above what it held once the networks were made.
"""

import argparse
import statistics
import time
from typing import Any

import torch
from common import exponent, in_child, parser, peak_mb, save, start, table
from fits import in_memory, quiet

QUICK = {"model": "tiny", "sizes": (64, 96), "batches": (1, 2), "counts": (1, 2)}
FULL = {"model": "paper", "sizes": (64, 128, 256, 512), "batches": (1, 2, 4, 8, 16), "counts": (4, 8, 16, 32)}


def training(job: dict[str, Any], threads: int) -> dict[str, float]:
    """Seconds of a step, and the memory that steps take."""
    quiet()
    torch.set_num_threads(threads)
    before: list[float] = []
    taken = in_memory(job, made=lambda: before.append(peak_mb()))
    return {"s": statistics.median(taken["generator"]), "mb": peak_mb() - before[0]}


def colouring(model: str, size_px: int, count: int, threads: int) -> dict[str, float]:
    """Seconds and memory of colouring `count` greys, one by one."""
    quiet()
    torch.set_num_threads(threads)
    from colorize.inference.colorizer import Colorizer
    from colorize.inference.torch_backend import TorchBackend
    from colorize.networks.preprocessing import Preprocessing
    from colorize.networks.unet import UNet

    torch.manual_seed(0)
    network = UNet(encoder="resnet10_half", width_factor=0.5) if model == "tiny" else UNet()
    colorizer = Colorizer(TorchBackend(network, "cpu"), Preprocessing(size_px))
    grey = torch.randint(0, 256, (size_px, size_px), dtype=torch.uint8).numpy()
    before, begin = peak_mb(), time.perf_counter()
    colorizer.colorize(grey)
    seconds = [time.perf_counter() - begin]
    for _ in range(count):
        begin = time.perf_counter()
        colorizer.colorize(grey)
        seconds.append(time.perf_counter() - begin)
    return {"s": statistics.median(seconds[1:]), "total_s": sum(seconds[1:]), "mb": peak_mb() - before}


def growth(name: str, unit: str, points: dict[int, dict[str, float]], per: str = "s") -> dict[str, Any]:
    """Print what `points` (the amount -> its cost) come to; returns it with the exponents."""
    amounts = list(points)
    rows = [{unit: amount, "ms": 1000 * cost[per], "memory_mb": cost["mb"]} for amount, cost in points.items()]
    powers = {"time": exponent(amounts, [cost[per] for cost in points.values()])}
    powers["memory"] = exponent(amounts, [max(cost["mb"], 1.0) for cost in points.values()])
    print(
        table(rows, f"{name}: time grows with {unit}^{powers['time']:.2f}, memory with {unit}^{powers['memory']:.2f}")
    )
    return {"what": name, "rows": rows, "exponents": powers}


def measure(given: argparse.Namespace) -> list[dict[str, Any]]:
    """All the curves."""
    plan: dict[str, Any] = QUICK if given.quick else FULL
    threads = torch.get_num_threads()
    model, steps = plan["model"], 3 + min(given.repeats, 3)
    job = {"phase": "pretrain_gen", "model": model, "precision": "auto", "accelerator": "cpu", "steps": steps}

    def step(size_px: int, batch: int) -> dict[str, float]:
        found: dict[str, float] = in_child(training, job | {"size_px": size_px, "batch": batch}, threads)[0]
        return found

    def colour(size_px: int, count: int) -> dict[str, float]:
        found: dict[str, float] = in_child(colouring, model, size_px, count, threads)[0]
        return found

    sizes, smallest = plan["sizes"], plan["sizes"][0]
    by_batch = {batch: step(smallest, batch) for batch in plan["batches"]}
    return [
        growth("A training step of a single image", "px", {size_px: step(size_px, 1) for size_px in sizes}),
        growth(f"A training step at {smallest} px", "batch", by_batch),
        growth("Colouring a picture", "px", {size_px: colour(size_px, given.repeats) for size_px in sizes}),
        growth(
            f"Colouring pictures of {sizes[1]} px", "count", {n: colour(sizes[1], n) for n in plan["counts"]}, "total_s"
        ),
    ]


def main() -> None:
    """Measure, print, save."""
    given = parser(__doc__, repeats=5).parse_args()
    start(given)
    save("cost", {"curves": measure(given)}, given)


if __name__ == "__main__":
    main()
