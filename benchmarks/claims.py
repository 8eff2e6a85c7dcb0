"""The paper's claims on photographs: measures many generators on the same photos, and sets trainings side by side.

    python benchmarks/claims.py measure PHOTOS TRAINING OUT CHECKPOINT... [--skin SAMPLE] [--aged 150]
    python benchmarks/claims.py table OUT pixel=pixel_0,pixel_1 random=random_0,random_1
    python benchmarks/claims.py regions OUT pixel_0@432 pixel_0@864
    python benchmarks/claims.py aged OUT bins=bins_0,bins_1 young=no_old_0,no_old_1
    python benchmarks/claims.py sheet PHOTOS OUT.jpg truth grey whole=CHECKPOINT

`measure` writes OUT/NAME.npz for each checkpoint (NAME is its run's, `@` and images for a kept one; `raw:` before the
path takes the weights that are not averaged), folder of photos that were coloured elsewhere, as PNGs, or word (truth,
grey, bundled). It has, of each photo below PHOTOS, held out, the figures of `colorize.metrics`, the features that
EfficientNet-Lite0 (ImageNet) finds, and the hues of its sky, greens, sea (photos of `SEA`) and, of the ImageNet sample
below `--skin`, skin. Photos are shown at 128 px and keep their own luma. The luma look-up is fitted on 2,000 photos
below TRAINING. `--aged N` also ages the first N photos' greys by known amounts; the colours that are found are judged
on the luma of the photo as it was.

`table`: the first row is the one that others are compared with, on the same photos. A figure is the mean over seeds,
with the least and the greatest; ± is half a 95 % bootstrap interval over photos of a mean over seeds.
"""

import argparse
import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageOps
from torch import Tensor

from colorize.color import merge_luma, rgb_to_grey, rgb_to_lab
from colorize.data.augment import OldPhoto
from colorize.data.luma_lookup import LumaLookup
from colorize.data.scene_painting import HUE_CLASSES, REGIONS
from colorize.evaluation.learned_metrics import frechet_distance, moments
from colorize.evaluation.regions import COUNTED, TAKEN_FOR, taken_for
from colorize.evaluation.scores import resampled_ratios
from colorize.inference.colorizer import Colorizer
from colorize.metrics import MEASURED, measure, skill
from colorize.networks.encoder_registry import make_encoder
from colorize.weights.pretrained import load_pretrained

Floats = NDArray[np.float64]
SHOWN_PX = 128
LOOKUP_PHOTOS = 2000

SEA = (
    "01080 02135 02828 04093 06171 06523 06659 07211 08175 08572 10183 10196 10318 10406 10967 11429 13860 13943 15305 "
    "15582 16111 18607 18810 18948 19193 21209 22149 23081 23175 23176"
)
"""Scenes whose lower half is sea, where it is blue; found by looking."""

SKIN = {
    "n02807133": [(0.42, 0.55, 0.68, 1)], "n02877765": [(0.25, 0.2, 0.8, 0.9)], "n02892767": [(0.2, 0.1, 0.45, 0.5)],
    "n03124170": [(0.62, 0.4, 0.78, 0.55), (0.2, 0.55, 0.4, 0.68)], "n03325584": [(0.42, 0.12, 0.78, 0.48)],
    "n03476991": [(0.1, 0.2, 0.38, 0.68), (0.78, 0.25, 0.97, 0.7)], "n03642806": [(0.52, 0.2, 0.68, 0.37)],
    "n03706229": [(0.05, 0.35, 0.3, 0.95)], "n03729826": [(0.25, 0.6, 0.55, 0.9)],
    "n03787032": [(0.22, 0.2, 0.42, 0.4), (0.64, 0.18, 0.84, 0.38)], "n03868863": [(0.25, 0.15, 0.85, 0.35)],
    "n03887697": [(0.3, 0.3, 0.5, 0.45), (0.6, 0.3, 0.8, 0.55)], "n03786901": [(0, 0.1, 0.42, 0.7)],
    "n03710721": [(0.35, 0.15, 0.7, 0.45), (0.42, 0.82, 0.8, 1)], "n04376876": [(0.05, 0.25, 0.55, 0.75)],
    "n04591157": [(0.44, 0.1, 0.68, 0.28)], "n02342885": [(0.1, 0.1, 0.3, 0.9)], "n02787622": [(0.45, 0.35, 0.7, 0.7)],
    "n03450230": [(0.5, 0.05, 0.75, 0.25), (0.6, 0.35, 0.8, 0.6)], "n03617480": [(0.45, 0.1, 0.62, 0.27)],
    "n04235860": [(0.22, 0.42, 0.4, 0.6), (0.4, 0.28, 0.55, 0.45)], "n04136333": [(0.2, 0.25, 0.42, 0.5)],
    "n07714571": [(0.42, 0.33, 0.62, 0.55), (0.3, 0.75, 0.65, 0.95)],
}  # fmt: skip
"""Boxes of skin in photos of the ImageNet sample, (left, top, right, bottom) as shares of the sides; marked by hand."""

SHARES = {
    "sky": (0, 1 / 3),
    "sea": (1 / 2, 1),
    "foliage": (0, 1),
    "skin": (0, 1),
}  # rows in which a region is looked for

AGES: dict[str, tuple[OldPhoto | None, float]] = {
    "as it is": (None, 0.0),
    "grain 0.03": (None, 0.03),
    "grain 0.06": (None, 0.06),
    "blur 1 px": (OldPhoto(1.0, 1.0, 1.0), 0.0),
    "blur 2 px": (OldPhoto(1.0, 1.0, 2.0), 0.0),
    "half the contrast": (OldPhoto(1.0, 0.5, 0.0), 0.0),
    "gamma 1.5": (OldPhoto(1.5, 1.0, 0.0), 0.0),
    "gamma 0.67": (OldPhoto(0.67, 1.0, 0.0), 0.0),
    "blur 1 px, contrast 0.6, grain 0.04": (OldPhoto(1.0, 0.6, 1.0), 0.04),
}
"""What age does to a grey, and the standard deviation of grain, in units of [0, 1]."""


def files(folder: str) -> list[Path]:
    """Photos below `folder`, in an order of chance that is always the same."""
    found = [path for path in Path(folder).rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png")]
    return sorted(found, key=lambda path: hashlib.sha256(path.name.encode()).hexdigest())


def load(path: Path) -> Tensor:
    """A photo as (1, 3, H, W) in [0, 1], its short side at most `SHOWN_PX`."""
    with Image.open(path) as image:
        rgb = image.convert("RGB")
    if min(rgb.size) > SHOWN_PX:
        scale = SHOWN_PX / min(rgb.size)
        size = round(rgb.width * scale), round(rgb.height * scale)
        rgb = rgb.resize(size, Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(rgb)).permute(2, 0, 1)[None].float() / 255


def regions(path: Path, rgb: Tensor) -> Tensor:
    """(1, H, W): where a photo shows sky, sea, greens or skin in a hue that these have; elsewhere `boat`: any hue."""
    height, width = rgb.shape[-2:]
    lightness, a, b = rgb_to_lab(rgb)[0]
    hue = torch.rad2deg(torch.atan2(b, a)) % 360
    ids = torch.full((height, width), REGIONS.index("boat"))
    number, wanted = path.stem.rpartition("_")[2], ["foliage", "sky"]
    boxes: list[tuple[float, float, float, float]] = [(0, 0, 1, 1)]
    if path.stem.partition("_")[0] in SKIN:
        wanted, boxes = ["skin"], SKIN[path.stem.partition("_")[0]]
    elif number in SEA.split():
        wanted = ["sea"]
    for name in wanted:
        low, high = HUE_CLASSES[name] or (0, 360)
        top, bottom = SHARES[name]
        for left, upper, right, lower in boxes:
            part = (
                slice(round(max(top, upper) * height), round(min(bottom, lower) * height)),
                slice(round(left * width), round(right * width)),
            )
            here = (hue[part] >= low) & (hue[part] <= high)
            if name == "sky":
                here &= lightness[part] > 50
            ids[part][here] = REGIONS.index(name)
    return ids[None]


def colourer(source: str) -> Callable[[Path, Tensor, Tensor], Tensor]:
    """What gives a photo's path, truth and grey, (1, 1, H, W), colours: (1, 3, H, W)."""
    if source == "truth":
        return lambda path, truth, grey: truth
    if source == "grey":
        return lambda path, truth, grey: grey.expand(-1, 3, -1, -1)
    if Path(source).is_dir():
        return lambda path, truth, grey: load(Path(source, f"{path.stem}.png"))
    raw = source.startswith("raw:")
    colorizer = Colorizer.from_checkpoint(source.removeprefix("raw:"), use_ema=not raw)

    def colour(path: Path, truth: Tensor, grey: Tensor) -> Tensor:
        plane = (grey[0, 0].clamp(0, 1) * 255).round().to(torch.uint8).numpy()
        (image,) = colorizer.colorize_batch([plane], SHOWN_PX)
        return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255

    return colour


def measured(source: str, options: argparse.Namespace, lookup: LumaLookup) -> dict[str, Any]:
    """Numbers of each photo."""
    colour = colourer(source)
    encoder = make_encoder("efficientnet_lite0").eval()
    load_pretrained(encoder, "efficientnet_lite0", "imagenet", "encoder")
    found: dict[str, list[Any]] = {}
    rows = {name: MEASURED[name] for name in ("psnr", "ciede2000", "cf", "skill")}
    photos = files(options.photos)[: options.most]
    skins = [path for path in files(options.skin) if path.stem.partition("_")[0] in SKIN] if options.skin else []
    skins = [] if Path(source).is_dir() else skins  # of these nothing was coloured
    for path in photos + skins:
        truth = load(path)
        grey = rgb_to_grey(truth)
        image = colour(path, truth, grey)
        seen = taken_for(image, truth, regions(path, truth))[0]
        found.setdefault("regions", []).append(seen.numpy())
        if path in skins:
            continue
        for name, value in measure(rows, image, truth, lookup.predict(grey)).items():
            found.setdefault(name, []).append(value[0].clamp_max(rows[name].most).numpy())
        found.setdefault("features", []).append(encoder(encoder.normalize(image))[-1].mean(dim=(2, 3))[0].numpy())
    for name, (age, grain) in AGES.items() if options.aged and source != "truth" else ():
        for number, path in enumerate(photos[: options.aged]):
            truth = load(path)
            grey = rgb_to_grey(truth)
            old = age(grey) if age else grey
            old = old + grain * torch.randn(old.shape, generator=torch.Generator().manual_seed(number))
            image = merge_luma(colour(path, truth, old), grey)
            values = measure(rows, image, truth, lookup.predict(grey))
            row = [float(values["ciede2000"]), float(values["cf"]), *values["skill"][0].tolist()]
            found.setdefault(f"aged {name}", []).append(row)
    return {name: np.array(values) for name, values in found.items()}


def name_of(checkpoint: str) -> str:
    """pixel_0 of …/pixel_0/pretrain_gen/checkpoints/last.ckpt, pixel_0@432 of a kept one, raw-pixel_0 of `raw:`."""
    path = Path(checkpoint.removeprefix("raw:"))
    if path.is_dir():
        return f"{path.parent.name}-{path.name}"
    images = "".join(c for c in path.stem if c.isdigit())
    run = path.parts[-4] if len(path.parts) > 3 else path.stem
    return "raw-" * checkpoint.startswith("raw:") + run + (f"@{int(images)}" if images else "")


def run_measure(options: argparse.Namespace) -> None:
    """Measure what has not been measured yet."""
    lookup = LumaLookup()
    for path in files(options.training)[:LOOKUP_PHOTOS]:
        lookup.update(load(path))
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    for checkpoint in options.checkpoints:
        file = out / f"{name_of(checkpoint)}.npz"
        if file.exists():
            continue
        with torch.inference_mode():
            found = measured(checkpoint, options, lookup)
        np.savez_compressed(file, **found)
        print(file, f"CIEDE2000 {found['ciede2000'].mean():.2f}")


def seeds_of(out: str, rows: Sequence[str]) -> Iterator[tuple[str, list[Any]]]:
    """Each row's name, and what was measured of each of its seeds."""
    for row in rows:
        name, _, runs = row.partition("=")
        yield name, [dict(np.load(Path(out) / f"{run}.npz")) for run in (runs or name).split(",")]


def resampled(values: Floats) -> Floats:
    """Means over samples of photos, drawn with replacement: (samples, columns) of (photos, columns)."""
    return resampled_ratios(values, np.ones_like(values), seed=0)


def half_interval(samples: Floats) -> float:
    """Half a 95 % interval."""
    low, high = np.quantile(samples, [0.025, 0.975])
    return float(high - low) / 2


def skill_of(sums: Floats) -> float:
    """Skill over all photos, from the sums of each."""
    return float(skill(torch.from_numpy(sums.sum(axis=0))))


def resampled_skill(sums: Floats) -> Floats:
    """The same of samples of photos."""
    return skill(torch.from_numpy(resampled(sums))).numpy()


def spread(values: Sequence[float], digits: int, signed: bool = False) -> str:
    """Mean, and the least and greatest where there are several."""
    form = f"{'+' * signed}.{digits}f"
    mean = format(float(np.mean(values)), form)
    return mean if len(values) == 1 else f"{mean} ({format(min(values), form)} to {format(max(values), form)})"


def run_table(options: argparse.Namespace) -> None:
    """Scores of each row, and how far they are from the first row's with the same seeds."""
    truth = dict(np.load(Path(options.out) / "truth.npz"))
    of_truth = moments(torch.from_numpy(truth["features"]))
    head = [
        "seeds",
        "PSNR, dB",
        "CIEDE2000",
        "CF",
        "skill",
        "Lite0 distance",
        "CIEDE2000 less the first's",
        "skill less",
    ]
    print(f"\n{len(truth['cf'])} photos; truth's CF {truth['cf'].mean():.1f}\n\n| | {' | '.join(head)} |")
    print("|---" * (len(head) + 1) + "|")
    first: list[Any] = []
    for name, seeds in seeds_of(options.out, options.rows):
        cells = [str(len(seeds)), *(spread([seed[key].mean() for seed in seeds], 2) for key in ("psnr", "ciede2000"))]
        cells.append(f"{np.mean([seed['cf'].mean() for seed in seeds]):.1f}")
        cells.append(spread([skill_of(seed["skill"]) for seed in seeds], 3))
        distances = [frechet_distance(moments(torch.from_numpy(seed["features"])), of_truth) for seed in seeds]
        cells.append(f"{np.mean(distances):.0f}")
        if first:
            pairs = list(zip(seeds, first * len(seeds) if len(first) == 1 else first, strict=False))
            change = np.mean([seed["ciede2000"] - start["ciede2000"] for seed, start in pairs], axis=0)
            of_seeds = [float((seed["ciede2000"] - start["ciede2000"]).mean()) for seed, start in pairs]
            cells.append(f"{spread(of_seeds, 2, signed=True)} ± {half_interval(resampled(change[:, None])):.2f}")
            gains = [skill_of(seed["skill"]) - skill_of(start["skill"]) for seed, start in pairs]
            samples = [resampled_skill(seed["skill"]) - resampled_skill(start["skill"]) for seed, start in pairs]
            over = half_interval(np.mean(samples, axis=0))
            cells.append(f"{spread(gains, 3, signed=True)} ± {over:.3f}")
        else:
            cells += ["", ""]
        first = first or seeds
        print(f"| {name.replace('_', ' ')} | {' | '.join(cells)} |")


def run_regions(options: argparse.Namespace) -> None:
    """How much of each region has a hue that it can have, and how much of the sea was taken for green."""
    names, taken = list(COUNTED), list(TAKEN_FOR)
    print("\n| | sky right | greens right | sea right | sea taken for green | skin right | without colour |")
    print("|---|---|---|---|---|---|---|")
    for name, seeds in seeds_of(options.out, options.rows):
        table = sum(seed["regions"].sum(axis=0) for seed in seeds)
        share = table / np.maximum(1, table.sum(axis=1, keepdims=True))
        green = share[names.index("sea")][[taken.index("grass"), taken.index("foliage")]].sum()
        cells = [share[names.index(part), taken.index(part)] for part in ("sky", "foliage", "sea", "skin")]
        cells = [*cells[:3], green, cells[3], table[:, taken.index("colourless")].sum() / table.sum()]
        print(f"| {name.replace('_', ' ')} | " + " | ".join(f"{100 * cell:.0f} %" for cell in cells) + " |")


def run_aged(options: argparse.Namespace) -> None:
    """Scores by what was done to the greys."""
    rows = list(seeds_of(options.out, options.rows))
    print("\n| CIEDE2000 / CF / skill | " + " | ".join(name for name, _ in rows) + " |")
    print("|---" * (len(rows) + 1) + "|")
    for age in AGES:
        cells = []
        for _, seeds in rows:
            tables = [seed[f"aged {age}"] for seed in seeds]
            figures = [[table[:, 0].mean(), table[:, 1].mean(), skill_of(table[:, 2:])] for table in tables]
            ciede, cf, of_skill = np.mean(figures, axis=0)
            over = half_interval(resampled(np.mean([table[:, :1] for table in tables], axis=0)))
            cells.append(f"{ciede:.2f} ± {over:.2f} / {cf:.1f} / {of_skill:.3f}")
        print(f"| {age} | " + " | ".join(cells) + " |")


def run_sheet(options: argparse.Namespace) -> None:
    """Show the first photos, of the sea and others, as each row has them, titles on the left."""
    photos, side, margin = files(options.photos), 88, 74
    sea = [path for path in photos if path.stem.rpartition("_")[2] in SEA.split()]
    chosen = sea[:3] + [path for path in photos if path not in sea][: options.columns - 3]
    sheet = Image.new("RGB", (margin + side * len(chosen), side * len(options.rows)), "white")
    draw = ImageDraw.Draw(sheet)
    for row, (title, _, source) in enumerate(given.partition("=") for given in options.rows):
        colour = torch.inference_mode()(colourer(source or title))
        draw.multiline_text((3, row * side + 30), title.replace("_", "\n"), fill="black")
        for column, path in enumerate(chosen):
            truth = load(path)
            image = colour(path, truth, rgb_to_grey(truth))[0].clamp(0, 1).permute(1, 2, 0)
            square = Image.fromarray((255 * image).round().to(torch.uint8).numpy())
            part = ImageOps.fit(square, (side - 2, side - 2), Image.Resampling.BICUBIC)
            sheet.paste(part, (margin + column * side, row * side))
    sheet.save(options.out, quality=90)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("measure")
    for name in ("photos", "training", "out"):
        one.add_argument(name)
    one.add_argument("checkpoints", nargs="+", help="or folders of PNGs, or the words truth, grey, bundled")
    one.add_argument("--skin", help="folder of the ImageNet sample")
    one.add_argument("--aged", type=int, default=0, help="photos whose greys are aged too")
    one.add_argument("--most", type=int, help="photos measured")
    one.set_defaults(run=run_measure)
    for name, run in (("table", run_table), ("regions", run_regions), ("aged", run_aged)):
        one = commands.add_parser(name)
        one.add_argument("out")
        one.add_argument("rows", nargs="+", help="TITLE=NAME,NAME…: the seeds of a row; or a NAME")
        one.set_defaults(run=run)
    one = commands.add_parser("sheet")
    for name in ("photos", "out"):
        one.add_argument(name)
    one.add_argument("rows", nargs="+", help="TITLE=CHECKPOINT, or a word")
    one.add_argument("--columns", type=int, default=10, help="photos")
    one.set_defaults(run=run_sheet)
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.run(options)


if __name__ == "__main__":
    main()
