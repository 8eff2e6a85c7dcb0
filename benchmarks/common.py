"""What the benchmarks share: interleaved repeats, medians, a table of ratios, the machine's facts, JSON.

Machines differ and are shared, so a figure counts only as a ratio to another one of the same run, the two measured in
turn. `python benchmarks/NAME.py` prints its table and writes benchmarks/results/NAME.json; `make bench` runs them all.
"""

import argparse
import json
import multiprocessing
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).resolve().parent / "results"


def parser(description: str | None, repeats: int = 7) -> argparse.ArgumentParser:
    """The options that every benchmark has; `--quick` is for seeing that it runs, not for figures."""
    options = argparse.ArgumentParser(description=(description or "").strip().partition("\n")[0])
    options.add_argument("--repeats", type=int, default=repeats, help="interleaved repeats of each measurement")
    options.add_argument("--threads", type=int, help="threads of torch in each process (default: its own choice)")
    options.add_argument("--quick", action="store_true", help="the least that shows that it works")
    return options


def start(options: argparse.Namespace) -> None:
    """Set what `parser` read."""
    if options.threads:
        os.environ["OMP_NUM_THREADS"] = str(options.threads)  # of child processes too
        torch.set_num_threads(options.threads)
    if options.quick:
        options.repeats = min(options.repeats, 2)


def interleaved(
    candidates: Mapping[str, Callable[[], Any]],
    repeats: int,
    warm_up: int = 1,
    between: Callable[[], Any] | None = None,
) -> dict[str, list[float]]:
    """Seconds that each candidate took, a figure a repeat, all candidates in turn within each repeat.

    A candidate that returns a float says itself how long it took, as one does whose preparation is not to count.

    Args:
        candidates: name -> what to time; it must wait for its device itself (`synchronize`).
        repeats: measurements of each.
        warm_up: calls of each before, which are not counted.
        between: called before each measurement, untimed.
    """
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for repeat in range(-warm_up, repeats):
        for name, candidate in candidates.items():
            if between is not None:
                between()
            begin = time.perf_counter()
            own = candidate()
            took = own if isinstance(own, float) else time.perf_counter() - begin
            if repeat >= 0:
                seconds[name].append(took)
    return seconds


def processor_seconds(run: Callable[[], object]) -> float:
    """For one thread, whose work is not to be counted longer where it waits for its turn on a shared machine."""
    begin = time.process_time()
    run()
    return time.process_time() - begin


def child_seconds(command: Sequence[str], **options: Any) -> tuple[float, float]:
    """Run a command that succeeds: seconds on the clock, and of the processor, which a busy machine leaves alone."""
    begin, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, capture_output=True, **options)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - begin, spent


def paired_ratio(slow: Sequence[float], fast: Sequence[float]) -> float:
    """How many times as fast: the median of the ratios within each repeat, in which noise strikes both alike."""
    return statistics.median(s / f for s, f in zip(slow, fast, strict=True))


def spread(seconds: Sequence[float]) -> tuple[float, float]:
    """First and third quartile."""
    if len(seconds) < 2:
        return seconds[0], seconds[0]
    first, _, third = statistics.quantiles(seconds, n=4, method="inclusive")
    return first, third


def compare(
    seconds: Mapping[str, Sequence[float]], baseline: str, units: float = 1, unit: str = "images"
) -> list[dict[str, Any]]:
    """A row for each candidate: median seconds, units per second, and how many times as fast as `baseline`."""
    rows = []
    for name, taken in seconds.items():
        median = statistics.median(taken)
        low, high = spread(taken)
        rows.append(
            {
                "candidate": name,
                "ms": 1000 * median,
                "ms_quartiles": [1000 * low, 1000 * high],
                f"{unit}_per_s": units / median,
                "ratio": paired_ratio(seconds[baseline], taken),
            }
        )
    return rows


def exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """The exponent p of the power law cost = a * size**p, by least squares of the logarithms."""
    x, y = torch.tensor(sizes, dtype=torch.float64).log(), torch.tensor(costs, dtype=torch.float64).log()
    x = x - x.mean()
    return float((x * (y - y.mean())).sum() / x.square().sum())


def table(rows: Sequence[Mapping[str, Any]], title: str = "") -> str:
    """Rows of equal keys as Markdown; floats to three digits."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = [[_text(row.get(column, "")) for column in columns] for row in rows]
    widths = [max(len(line[i]) for line in [columns, *lines]) for i in range(len(columns))]
    ruled = [columns, ["-" * width for width in widths], *lines]
    text = "\n".join("| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |" for line in ruled)
    return f"\n{title}\n\n{text}" if title else text


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    if isinstance(value, (list, tuple)):
        return " to ".join(_text(item) for item in value)
    return "unmeasured" if value is None else str(value)


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    facts: dict[str, Any] = {
        "cpu": _cpu_name(),
        "cores_usable": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "cpu_bf16": torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported(),
        "cpu_amx": torch.cpu._is_amx_tile_supported(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "os": platform.platform(terse=True),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    if hasattr(os, "getloadavg"):
        facts["load"] = os.getloadavg()[0]
    return facts


def _cpu_name() -> str:
    if Path("/proc/cpuinfo").exists():
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def commit() -> str | None:
    """The checkout's commit, with a + where files differ from it; None outside a checkout."""
    here = {"cwd": Path(__file__).parent, "capture_output": True, "text": True}
    try:
        found = subprocess.run(["git", "describe", "--always", "--dirty=+", "--exclude=*"], **here)  # type: ignore[call-overload]
    except FileNotFoundError:
        return None
    return found.stdout.strip() or None


def save(name: str, results: Mapping[str, Any], options: argparse.Namespace) -> Path:
    """Write results/NAME.json: the results with the options, the machine, and when."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}{'-quick' if options.quick else ''}.json"
    report = {
        "benchmark": name,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "machine": machine(),
        "options": {key: str(value) if isinstance(value, Path) else value for key, value in vars(options).items()},
        **results,
    }
    path.write_text(json.dumps(report, indent=1) + "\n")
    print(f"\n{path}")
    return path


def in_child(function: Callable[..., Any], *arguments: Any) -> tuple[Any, float]:
    """What `function` returns in a process of its own, and that process's peak memory in MB.

    The function must be importable (of a module's top level). To part its own memory from what was loaded before, let
    it return `peak_mb()` of that moment.

    Raises:
        RuntimeError: the function failed there.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_report, args=(theirs, function, arguments))
    process.start()
    theirs.close()
    try:
        result, peak = ours.recv()
    except EOFError:
        raise RuntimeError(f"{function.__name__}{arguments} ended without a result") from None
    finally:
        process.join()
    return result, peak


def _report(pipe: Any, function: Callable[..., Any], arguments: Sequence[Any]) -> None:
    result = function(*arguments)
    pipe.send((result, peak_mb()))


def peak_mb() -> float:
    """Most memory that this process has held so far, in MB (10^6 bytes)."""
    status = Path("/proc/self/status")
    if status.exists():  # rusage begins with the peak of the process that started this one
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024 / 1e6
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


def draw_photos(folder: Path, count: int) -> Path:
    """JPEGs of drawn scenes, 500 x 375 px with the noise of a camera, quality 90: 51 KB each (ImageNet's: 110 KB)."""
    import numpy as np
    from PIL import Image

    from colorize.data.scenes import draw_scene

    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        scene = draw_scene(0, index, 500).rgb[:375].astype(np.int16)
        noise = np.random.default_rng(index).normal(0, 6, scene.shape)
        picture = Image.fromarray((scene + noise).clip(0, 255).astype(np.uint8))
        picture.save(folder / f"{index:05}.jpg", quality=90)
    return folder
