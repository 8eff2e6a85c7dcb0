"""Training on a CPU, end to end from JPEGs, against fastai and against the plain way: images per second, as ratios.

Every measurement is a fit in a process of its own, all ways in turn, repeated. A step pair of phase gan is one step of
the critic and one of the generator; its images count once.

The peer is measured where PEER_PYTHON names an interpreter that has fastai (`pip install fastai` into an environment of
its own); benchmarks/peer/fastai_fit.py is what it runs, or the script that PEER_SCRIPT names: it is given
`PHOTOS --size S --batch B --steps N`, and prints a JSON line a phase with `phase` and `images_per_s_mean`, in which an
image of phase gan counts once for each of the two steps.
"""

import argparse
import contextlib
import copy
import functools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from common import draw_photos, interleaved, paired_ratio, parser, processor_seconds, save, start, table
from fits import configuration, from_photos, quiet

HERE = Path(__file__).resolve().parent
PHASES = ("pretrain_gen", "gan")
SETTINGS = ((64, 16), (128, 8))
"""Size in px and batch."""
POCKET, POCKET_SETTINGS = "pocket", ((128, 32),)
DEPTHWISE = (  # channels, kernel, stride, and the division of the size, of EfficientNet-Lite0's depthwise convolutions
    (32, 3, 1, 2), (96, 3, 2, 2), (144, 3, 1, 4), (144, 5, 2, 4), (240, 5, 1, 8), (240, 3, 2, 8), (480, 3, 1, 16),
    (480, 5, 1, 16), (672, 5, 1, 16), (672, 5, 2, 16), (1152, 5, 1, 32), (1152, 3, 1, 32),
)  # fmt: skip

PLAIN, OURS_32, OURS_BF16, PEER = "plain", "ours, float32", "ours, bf16", "peer (fastai)"
PLAIN_BF16 = "plain, bf16"
NO_PEER = (
    "peer not measured: set PEER_PYTHON to an interpreter that has fastai (python -m venv V; V/bin/pip install fastai)"
)


def plain_fit(job: dict[str, Any]) -> dict[str, Any]:
    """The same networks and losses in a plain loop: float32, contiguous, whole JPEGs decoded, AdamW by tensors."""
    from torch.utils.data import DataLoader, Dataset
    from torchvision.io import ImageReadMode, decode_image
    from torchvision.transforms import v2

    from colorize import losses as terms
    from colorize.color import rgb_to_grey
    from colorize.networks.critic import Critic
    from colorize.networks.unet import UNet
    from colorize.networks.vgg import VGGFeatures

    augment = v2.Compose([v2.RandomResizedCrop(job["size_px"], (0.5, 1.0)), v2.RandomHorizontalFlip()])

    class Photos(Dataset[torch.Tensor]):
        files = sorted(Path(job["photos"]).rglob("*.[jJ][pP]*[gG]"))

        def __len__(self) -> int:
            return len(self.files)

        def __getitem__(self, index: int) -> torch.Tensor:
            return augment(decode_image(str(self.files[index]), ImageReadMode.RGB)).float() / 255

    torch.manual_seed(0)
    small = {"encoder": "resnet10_half", "width_factor": 0.5} if job["model"] == "tiny" else {}
    pocket = plain_pocket(job) if job["model"] == POCKET else None
    generator = pocket[0] if pocket else UNet(**small)
    critic, vgg = Critic("resnet10_half" if small else "resnet34"), VGGFeatures("vgg16" if small else "vgg16_bn")
    rates = {"lr": 1e-4, "weight_decay": 1e-3, "foreach": False, "fused": False}
    for_generator, for_critic = (torch.optim.AdamW(network.parameters(), **rates) for network in (generator, critic))
    begins: list[float] = []
    loader = DataLoader(
        Photos(), job["batch"], shuffle=True, drop_last=True, num_workers=job["workers"], multiprocessing_context=None
    )
    step = 0
    while step < job["steps"]:
        for rgb in loader:
            begins.append(time.perf_counter())
            grey = rgb_to_grey(rgb)
            if job["phase"] == "gan" and step % 2 == 0:
                with torch.no_grad():
                    fake = generator(grey)
                critic.requires_grad_(True)
                loss = terms.critic_loss(*critic(torch.cat([rgb, fake])).chunk(2))
                optimizer, network = for_critic, critic
            else:
                critic.requires_grad_(False)
                if pocket:
                    loss = pocket[1](grey, rgb)
                else:
                    fake = generator(grey)
                    pairs = zip(vgg(fake), vgg(rgb), strict=True)
                    loss = (fake - rgb).square().mean() + sum((a - b).abs().mean() for a, b in pairs)
                if job["phase"] == "gan":
                    loss = loss + terms.adversarial_loss(critic(fake))
                optimizer, network = for_generator, generator
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0, foreach=False)
            optimizer.step()
            step += 1
            if step == job["steps"]:
                break
    begins.append(time.perf_counter())
    return {"begins": begins, "losses": []}


def by_torch(conv: torch.nn.Module) -> None:
    """Give a convolution the passes of torch in place of those of our own."""
    conv._conv_forward = functools.partial(torch.nn.Conv2d._conv_forward, conv)


def plain_pocket(job: dict[str, Any]) -> tuple[torch.nn.Module, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]]:
    """The pocket network by torch's own passes, in channels_last, and its recipe's loss of grey and colour."""
    from colorize.losses import ChromaLoss
    from colorize.networks.generator_registry import make_generator
    from colorize.runtime.devices import autocast
    from colorize.training.first_weights import generator_options

    config = configuration(Path(job["photos"]), Path("nowhere"), job)
    generator: Any = make_generator(generator_options(config.model)).to(memory_format=torch.channels_last)
    for module in generator.modules():
        if isinstance(module, torch.nn.Conv2d):
            by_torch(module)
    chroma = ChromaLoss(config.loss, generator.head.centres)

    def loss(grey: torch.Tensor, rgb: torch.Tensor) -> torch.Tensor:
        with autocast(job["precision"], torch.device("cpu")):
            return torch.stack(
                [*chroma(generator(grey, grey, detailed=True), rgb, generator.head.prior).values()]
            ).sum()

    return generator, loss


def depthwise(size_px: int, batch: int, given: argparse.Namespace) -> list[dict[str, Any]]:
    """Processor milliseconds of the backward pass of each depthwise convolution, torch's and ours."""
    from colorize.networks.efficientnet import SameConv2d

    def backward(ours: bool, dtype: torch.dtype, x: torch.Tensor, conv: torch.nn.Module) -> Callable[[], float]:
        conv = copy.deepcopy(conv)
        if not ours:
            by_torch(conv)
        x = x.to(dtype).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype != torch.float32):
            y = conv(x)
        gradient = torch.randn_like(y)
        learns = (x, *conv.parameters())
        return lambda: processor_seconds(lambda: torch.autograd.grad(y, learns, gradient, retain_graph=True))

    rows = []
    for channels, kernel, stride, division in DEPTHWISE:
        side = size_px // division
        x = torch.randn(batch, channels, side, side).to(memory_format=torch.channels_last)
        conv = SameConv2d(channels, channels, kernel, stride, groups=channels).to(memory_format=torch.channels_last)
        dtypes = {"float32": torch.float32, "bf16": torch.bfloat16}
        both = {
            f"{way}, {name}": backward(way == "ours", d, x, conv)
            for way in ("torch", "ours")
            for name, d in dtypes.items()
        }
        seconds = interleaved(both, given.repeats)
        row: dict[str, Any] = {
            "channels": channels,
            "kernel": kernel,
            "stride": stride,
            "side_px": side,
            "batch": batch,
        }
        row |= {f"{way}, ms": 1000 * statistics.median(taken) for way, taken in seconds.items()}
        rows.append(
            row
            | {
                f"times torch, {name}": paired_ratio(seconds[f"torch, {name}"], seconds[f"ours, {name}"])
                for name in dtypes
            }
        )
    return rows


def peer_fit(job: dict[str, Any]) -> dict[str, float]:
    """Seconds an image of each phase, as fastai does it."""
    script = os.environ.get("PEER_SCRIPT", str(HERE / "peer" / "fastai_fit.py"))
    words = [os.environ["PEER_PYTHON"], script, job["photos"], "--size", job["size_px"], "--batch", job["batch"]]
    # Its own count leaves the first step out; an even number holds as many steps of each network.
    words += ["--steps", job["steps"] // 2 * 2]
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True)
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    if not found:
        raise SystemExit(f"the peer failed:\n{done.stderr[-2000:]}")
    halves = {"pretrain_gen": 1, "gan": 2}  # steps that an image is counted in
    return {line["phase"]: halves[line["phase"]] / line["images_per_s_mean"] for line in found}


def seconds_an_image(begins: list[float], job: dict[str, Any]) -> float:
    """The median over the steps, or pairs of them, without the first two."""
    width = 2 if job["phase"] == "gan" else 1
    spans = [b - a for a, b in zip(begins[2:], begins[2 + width :], strict=False)]
    return statistics.median(spans[::width]) / job["batch"]


def child(job: dict[str, Any]) -> dict[str, Any]:
    """What `--child` prints."""
    quiet()
    if job["way"] in (PLAIN, PLAIN_BF16):
        return plain_fit(job)
    clock = from_photos(job)
    return {"begins": clock.begins, "losses": clock.losses}


def measured(job: dict[str, Any]) -> dict[str, Any]:
    """`child` in a process of its own."""
    words = [sys.executable, __file__, "--child", json.dumps(job)]
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{job} failed:\n{done.stderr[-3000:]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def ways(model: str) -> dict[str, str]:
    """Name -> precision of what this machine can do; of the pocket network, bf16 in plain torch as well."""
    from colorize.runtime.devices import pick_precision

    found = {PLAIN: "32-true", OURS_32: "32-true"}
    if model == POCKET:
        found[PLAIN_BF16] = "bf16-mixed"
    if pick_precision("auto", torch.device("cpu")) == "bf16-mixed":
        found[OURS_BF16] = "bf16-mixed"
    return found


def speed(photos: str, size_px: int, batch: int, given: argparse.Namespace) -> list[dict[str, Any]]:
    """Rows of the phases' table at one size."""
    seconds: dict[tuple[str, str], list[float]] = {}
    job = {"photos": photos, "size_px": size_px, "batch": batch, "model": given.model, "workers": given.workers}
    for _ in range(given.repeats):
        for way, precision in ways(given.model).items():
            for phase in PHASES[:1] if given.model == POCKET else PHASES:
                this = job | {"way": way, "phase": phase, "precision": precision, "steps": given.steps}
                seconds.setdefault((phase, way), []).append(seconds_an_image(measured(this)["begins"], this))
        if os.environ.get("PEER_PYTHON"):
            for phase, took in peer_fit(job | {"steps": given.steps}).items():
                seconds.setdefault((phase, PEER), []).append(took)
    rows = []
    for (phase, way), taken in seconds.items():
        row: dict[str, Any] = {"phase": phase, "size_px": size_px, "batch": batch, "way": way}
        row["images_per_s"] = 1 / statistics.median(taken)
        row["times_plain"] = paired_ratio(seconds[phase, PLAIN], taken)
        row["times_peer"] = paired_ratio(seconds[phase, PEER], taken) if (phase, PEER) in seconds else None
        rows.append(row)
    return sorted(rows, key=lambda row: row["phase"] != PHASES[0])


def curves(photos: str, given: argparse.Namespace) -> dict[str, Any]:
    """How far the loss in bf16 is from that in float32, step by step on the same batches; and from another seed's.

    Another seed is other first weights, another order and other crops: the noise that any two fits differ by.
    """
    job = {"photos": photos, "size_px": 64, "batch": 16, "model": given.model, "workers": given.workers}
    job |= {"way": OURS_32, "phase": "pretrain_gen", "steps": given.curve_steps, "precision": "32-true"}
    exact, rounded, other = (
        measured(job | change)["losses"] for change in ({}, {"precision": "bf16-mixed"}, {"seed": 1})
    )

    def apart(losses: list[float]) -> float:
        return statistics.mean(abs(a - b) / b for a, b in zip(losses, exact, strict=True))

    ends = {"float32": exact, "bf16": rounded, "float32, other seed": other}
    return {
        "steps": given.curve_steps,
        "bf16_from_float32": apart(rounded),
        "other_seed_from_float32": apart(other),
        "last_ten": {name: statistics.mean(losses[-10:]) for name, losses in ends.items()},
        "losses": ends,
    }


@contextlib.contextmanager
def jpegs(given: argparse.Namespace) -> Iterator[str]:
    """The folder given, or one of drawn scenes."""
    with tempfile.TemporaryDirectory() as folder:
        most = max(batch for _, batch in (*SETTINGS, *POCKET_SETTINGS)) * (given.steps + 4)
        yield str(given.photos or draw_photos(Path(folder), most))


def main() -> None:
    """Measure, print, save."""
    options = parser(__doc__, repeats=3)
    options.add_argument("--photos", type=Path, help="folder of JPEGs (default: drawn scenes of 500x375 px)")
    options.add_argument("--model", default="paper", help="preset of networks; the peer has the paper's")
    options.add_argument("--depthwise-batch", type=int, default=8, help="of the table of kernels of model=pocket")
    options.add_argument("--steps", type=int, default=12, help="steps of each fit; the first two are not counted")
    options.add_argument("--workers", type=int, default=2, help="processes that decode")
    options.add_argument("--sizes", default="64,128", help="those of 64,128 px to measure")
    options.add_argument("--curve-steps", type=int, default=40, help="of the comparison of losses (0: none)")
    options.add_argument("--child", help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.child:
        print(json.dumps(child(json.loads(given.child))))
        return
    start(given)
    if given.quick:
        given.model, given.steps, given.repeats, given.curve_steps, given.workers = "tiny", 6, 1, 0, 0
    rows, kernels = [], []
    with jpegs(given) as photos:
        for size_px, batch in POCKET_SETTINGS if given.model == POCKET else SETTINGS:
            if given.model == POCKET:
                kernels = depthwise(size_px, given.depthwise_batch, given)
                print(table(kernels, "Backward pass of the depthwise convolutions"))
            if str(size_px) in given.sizes.split(","):
                rows += speed(photos, size_px, batch, given)
        print(table(rows, "Training, end to end from JPEGs"))
        if not os.environ.get("PEER_PYTHON"):
            print(f"\n{NO_PEER}")
        curve = None
        if given.curve_steps and OURS_BF16 in ways(given.model):
            curve = curves(photos, given)
            print(
                f"\nLoss over {curve['steps']} steps at 64 px: bf16 differs from float32 by "
                f"{curve['bf16_from_float32']:.2%} a step on average, another seed by "
                f"{curve['other_seed_from_float32']:.2%}"
            )
    save(
        "train",
        {"rows": rows, "depthwise": kernels, "curve": curve, "peer": os.environ.get("PEER_PYTHON") or NO_PEER},
        given,
    )


if __name__ == "__main__":
    main()
