"""Training on a GPU: each phase and size in bf16 and channels_last, compiled and not, against float32 eager.

    python benchmarks/gpu.py [--photos IMAGENET/train]

Also: the share of the measured ceiling of matrix products, the time spent waiting for data, the fused optimizer, from
these the hours and the memory of the paper's recipe on ImageNet, and the colouring of squares and of a film. Runs on a
CPU too, at small sizes; what only a GPU has is "unmeasured" there, and so is the recipe.
"""

import argparse
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from before import coloured
from clips import write_clip
from common import compare, draw_photos, interleaved, parser, save, start, table
from fits import flops, from_photos, in_memory, matmul_ceiling, quiet, wait_for

PHASES = ("pretrain_gen", "pretrain_critic", "gan")
BATCHES = {64: 256, 128: 64, 192: 32, 220: 24}
"""Size in px -> the batch that recipe=paper has for an 80 GB GPU."""

EAGER_32, BF16, COMPILED = "float32, eager, contiguous", "bf16, channels_last", "bf16, channels_last, compiled"
IMAGENET_TRAIN = 1_281_167
"""Training photos of ImageNet-1k."""


def settings(phase: str, size_px: int, batch: int, model: str, steps: int, device: torch.device) -> dict[str, Any]:
    """A job for `fits`."""
    job = {"phase": phase, "size_px": size_px, "batch": batch, "model": model, "steps": steps, "workers": 0}
    return job | {"accelerator": device.type, "precision": "auto"}


def ways(compiled: bool) -> dict[str, dict[str, Any]]:
    """What is compared, as changes of a job."""
    found: dict[str, dict[str, Any]] = {EAGER_32: {"precision": "32-true", "channels_last": False}}
    found[BF16] = {"precision": "bf16-mixed"}
    if compiled:
        found[COMPILED] = {"precision": "bf16-mixed", "compile": True}
    return found


def phase_rows(job: dict[str, Any], given: argparse.Namespace, ceilings: dict[str, float]) -> list[dict[str, Any]]:
    """A row for each way of a phase at a size; steps of critic and generator are told apart in phase gan."""
    rows: list[dict[str, Any]] = []
    work = flops(job)
    baseline: dict[str, float] = {}
    for way, change in ways(given.compile).items():
        try:
            taken = in_memory(job | change)
        except torch.OutOfMemoryError:
            rows.append({"phase": job["phase"], "size_px": job["size_px"], "batch": job["batch"], "way": way})
            torch.cuda.empty_cache()
            continue
        precision = "float32" if way == EAGER_32 else "bf16"
        for network in ("critic", "generator"):
            if not taken[network]:
                continue
            seconds = statistics.median(taken[network])
            baseline.setdefault(network, seconds)
            rows.append(
                {
                    "phase": job["phase"],
                    "step": network,
                    "size_px": job["size_px"],
                    "batch": job["batch"],
                    "way": way,
                    "images_per_s": job["batch"] / seconds,
                    "ratio": baseline[network] / seconds,
                    "ceiling_share": job["batch"] * work[network] / seconds / ceilings[precision],
                    "memory_gb": taken["memory_mb"] / 1000 if taken["memory_mb"] is not None else None,
                }
            )
    return rows


def waiting(photos: str, job: dict[str, Any], workers: int) -> dict[str, Any]:
    """The share of a fit's time in which no step runs, for want of data, from the third step on."""
    clock = from_photos(job | {"photos": photos, "workers": workers})
    waits = [begin - end for end, begin in zip(clock.ends[2:], clock.begins[3:], strict=False)]
    steps = [end - begin for begin, end in zip(clock.begins[3:], clock.ends[3:], strict=False)]
    share = sum(waits) / (sum(waits) + sum(steps))
    return {"size_px": job["size_px"], "batch": job["batch"], "workers": workers, "waiting_share": share}


def optimizers(device: torch.device, model: str, repeats: int) -> list[dict[str, Any]]:
    """A step of AdamW over the generator's parameters: fused, by lists of tensors, tensor by tensor."""
    from colorize.networks.unet import UNet

    candidates = {}
    for name, options in {"a tensor at a time": {"foreach": False}, "foreach": {"foreach": True}, "fused": {}}.items():
        network = UNet(encoder="resnet10_half", width_factor=0.5) if model == "tiny" else UNet()
        network.to(device)
        for parameter in network.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimizer = torch.optim.AdamW(network.parameters(), 1e-4, fused=not options, **options)

        def step(optimizer: torch.optim.Optimizer = optimizer) -> None:
            optimizer.step()
            wait_for(device)

        candidates[name] = step
    return compare(interleaved(candidates, repeats), "a tensor at a time", unit="steps")


def colouring(device: torch.device, model: str, size_px: int, batch: int, repeats: int) -> list[dict[str, Any]]:
    """Colouring squares with the generator, as `colorize.predict` runs it: float32, and bf16."""
    from colorize.inference.torch_backend import TorchBackend
    from colorize.networks.unet import UNet

    options = {"encoder": "resnet10_half", "width_factor": 0.5} if model == "tiny" else {}
    grey = torch.rand(batch, 1, size_px, size_px).numpy()
    made = {way: TorchBackend(UNet(**options), str(device), way) for way in ("32-true", "bf16-mixed")}
    ways = {way: partial(backend.run, grey) for way, backend in made.items()}
    return [{"size_px": size_px} | row for row in compare(interleaved(ways, repeats), "32-true", units=batch)]


def film(device: torch.device, frames: int, size: tuple[int, int]) -> dict[str, Any]:
    """Frames per second of a film by the bundled generator, from file to file, with the start-up of the command."""
    with tempfile.TemporaryDirectory() as name:
        write_clip(Path(name, "film.mp4"), frames, *size)
        root = Path(__file__).resolve().parents[1]
        seconds, spent = coloured(root, Path(name), "film.mp4", f"device={device.type}", "backend=torch")
    return {"size": f"{size[0]} x {size[1]}", "frames_per_s": frames / seconds, "processor_s_a_frame": spent / frames}


def stages(phase: str) -> list[tuple[int, int, float]]:
    """(size in px, epochs, share of the training photos) of each stage of a phase of recipe=paper."""
    from colorize.cli.command import configured

    config = configured("train", [f"phase={phase}", "data.root=nowhere", "run=none"])
    resolution = config.resolution
    share = config.data.train_fraction
    return [(int(s), int(e), share) for s, e in zip(resolution.size_px, resolution.epochs, strict=True)]


def recipe(rows: list[dict[str, Any]], way: str) -> list[dict[str, Any]]:
    """Hours of the recipe from the rows' images per second; a batch of phase gan trains either network, taken as half.

    Of one GPU, and of eight with recipe=paper_8gpu, whose batches grow with them: an eighth of the time, without what
    they spend on each other, which was not measured.
    """
    measured = [row for row in rows if row["way"] == way and "step" in row]  # the others ran out of memory
    speeds = {(row["phase"], row["step"], row["size_px"]): row["images_per_s"] for row in measured}
    memory = {(row["phase"], row["size_px"]): row["memory_gb"] for row in measured}
    found = []
    for phase in PHASES:
        for size_px, epochs, share in stages(phase):
            of_each = [speeds.get((phase, network, size_px)) for network in ("critic", "generator")]
            steps = [1 / speed for speed in of_each if speed]
            images = epochs * share * IMAGENET_TRAIN
            hours = images * statistics.mean(steps) / 3600 if steps else None
            found.append(
                {
                    "phase": phase,
                    "size_px": size_px,
                    "images": f"{epochs} x {share:g} x {IMAGENET_TRAIN}",
                    "images_per_s": 1 / statistics.mean(steps) if steps else None,
                    "hours_1_gpu": hours,
                    "hours_8_gpus": hours / 8 if hours is not None else None,
                    "memory_gb": memory.get((phase, size_px)),
                }
            )
    return found


def totals(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """The last line of the recipe's table: None where a part is missing."""
    total: dict[str, Any] = {"phase": "all, without saving and validating", "size_px": "", "images": ""}
    total["images_per_s"] = total["memory_gb"] = ""
    hours = [part["hours_1_gpu"] for part in parts]
    known = None if None in hours else sum(hours)
    return total | {"hours_1_gpu": known, "hours_8_gpus": None if known is None else known / 8}


def main() -> None:
    """Measure, print, save."""
    options = parser(__doc__, repeats=7)
    options.add_argument(
        "--photos", type=Path, help="folder of JPEGs for the time spent waiting (default: drawn scenes)"
    )
    options.add_argument("--device", default="auto", help="auto, cuda or cpu")
    options.add_argument("--steps", type=int, default=14, help="steps of each fit; the first are not counted")
    options.add_argument("--workers", type=int, default=8, help="processes that decode")
    options.add_argument("--no-compile", dest="compile", action="store_false", help="leave torch.compile out")
    given = options.parse_args()
    start(given)
    quiet()
    from colorize.runtime.devices import pick_device

    device = pick_device(given.device)
    gpu = device.type == "cuda"
    small = given.quick or not gpu
    model, batches = ("tiny", {32: 2, 48: 2}) if small else ("paper", BATCHES)
    if small:
        given.steps, given.workers = min(given.steps, 6), min(given.workers, 1)
    side = 8192 if gpu else 512
    kinds = {"float32": torch.float32, "bf16": torch.bfloat16}
    ceilings = {name: matmul_ceiling(device, dtype, side) for name, dtype in kinds.items()}
    print(table([{"numbers": name, "TFLOP/s": rate / 1e12} for name, rate in ceilings.items()], "Matrix products"))
    rows: list[dict[str, Any]] = []
    for phase in PHASES:
        for size_px, batch in batches.items():
            rows += phase_rows(settings(phase, size_px, batch, model, given.steps, device), given, ceilings)
    print(table(rows, "Training steps on a batch in memory"))
    optimizer_rows = optimizers(device, model, given.repeats)
    print(table(optimizer_rows, "AdamW over the generator"))
    with tempfile.TemporaryDirectory() as folder:
        most = max(batches.values()) * (given.steps + 2)
        photos = str(given.photos or draw_photos(Path(folder), most))
        jobs = [settings("pretrain_gen", s, b, model, given.steps, device) for s, b in batches.items()]
        waits = [waiting(photos, job, given.workers) for job in jobs]
    print(table(waits, "Waiting for data, of the time of a fit (pretrain_gen)"))
    best = COMPILED if given.compile else BF16
    hours = recipe(rows, best) if gpu and not given.quick else recipe([], best)
    hours.append(totals(hours))
    print(table(hours, f"recipe=paper on ImageNet ({best}): images / images per second / 3600; of 8 GPUs worked out"))
    squares = colouring(device, model, *((512, 8) if gpu else (64, 2)), given.repeats)
    print(table(squares, "Colouring squares"))
    films = [film(device, *((240, (1280, 720)) if gpu else (12, (160, 120))))]
    print(table(films, "A film"))
    if not gpu:
        print("\nNo GPU here: the steps above are the tiny networks' on a CPU, and show only that this works.")
    found = {"ceilings_flop_per_s": ceilings, "steps": rows, "optimizers": optimizer_rows, "waiting": waits}
    found |= {"recipe": hours, "squares": squares, "film": films}
    save("gpu" if gpu else "gpu-on-cpu", found, given)


if __name__ == "__main__":
    begin = time.perf_counter()
    main()
    print(f"{time.perf_counter() - begin:.0f} s")
