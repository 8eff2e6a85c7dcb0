"""Measure checkpoints, or folders of coloured images, against the originals.

python -m colorize.evaluate run=NAME
python -m colorize.evaluate 'checkpoint=[a.ckpt,b.ckpt]' data=imagenet data.root=IMAGENET protocol=val5k
python -m colorize.evaluate coloured=THEIRS data=folder data.root=PHOTOS split=all weights.lpips_vgg=none

Into output=DIR (by default evaluation/ in the run's folder) come metrics.json, metrics.md, per_image.csv and
gallery.png. Rows without any colour, with the mean colour of each grey value, and with the truth are always there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from colorize.cli.command import is_given, run_command
from colorize.cli.sweeps import Score
from colorize.config import EvaluateConfig
from colorize.data.roots import check_root
from colorize.evaluation.candidates import find_checkpoints, output_folder, take_data_of_run
from colorize.runtime.files import locked
from colorize.runtime.log import log

if TYPE_CHECKING:
    from colorize.data.datasets import RawBatch
    from colorize.data.sources import Photos
    from colorize.evaluation.measuring import Measurements

ANOTHER_PHOTO_DB = 18.0  # coloured images that keep the photos' luma no better than this show something else


def run(config: EvaluateConfig) -> Score | None:
    """Measure, write and print; return the CIEDE2000 of the last checkpoint or folder, on the first rank."""
    checkpoints = find_checkpoints(config)
    take_data_of_run(config, checkpoints)
    check_root(config.data, val_alone=True)
    output = output_folder(config, checkpoints)
    with locked(output):
        return evaluate(config, checkpoints, output)


def evaluate(config: EvaluateConfig, checkpoints: list[Path], output: Path) -> Score | None:
    """Measure, write and print, in a folder that this process holds."""
    from colorize.cli.launch import launch
    from colorize.data.from_config import list_photos
    from colorize.data.sources import spread
    from colorize.evaluation import candidates, measuring, scores, tables
    from colorize.evaluation.learned_metrics import Learned
    from colorize.evaluation.protocols import PROTOCOLS, ProtocolDataset, batches, leave_out
    from colorize.inference.colorizer import Colorizer
    from colorize.metrics import COLUMNS, JUDGED_BY, METRICS
    from colorize.runtime import distributed
    from colorize.runtime.files import sha256
    from colorize.runtime.progress import print_table, tracked
    from colorize.weights.checkpoints import has_average

    protocol = PROTOCOLS[config.protocol]
    ours = (measuring.GREY, measuring.LOOKUP, measuring.TRUTH)
    models = candidates.named(checkpoints, taken=ours)
    folders = candidates.named(config.coloured, taken=[*models, *ours])
    judged = [*models, *folders][-1]
    takes: dict[str, tuple[Path, bool]] = {}
    for row, path in models.items():
        takes[row] = (path, config.use_ema)
        if config.use_ema and has_average(path):  # beside averaged weights those of the last step: both are of interest
            takes[f"{row} raw"] = (path, False)
    doubts = [sentence for path in checkpoints if (sentence := candidates.of_another_split(config, path)) is not None]
    for sentence in doubts:
        log.warning(sentence)

    list_all = partial(list_photos, seed=config.seed, runs_dir=config.runs_dir, val_alone=True)
    chosen = candidates.choose(config, protocol, folders, list_all)
    photos, identities = chosen.photos, chosen.identities
    fabric = launch(config.trainer)
    device, first = fabric.device, fabric.is_global_zero
    colorizers = {
        row: Colorizer.from_checkpoint(path, str(device), config.trainer.precision, averaged, "torch")
        for row, (path, averaged) in takes.items()
    }
    learned = Learned(vars(config.weights), "weights", device)
    unusable: dict[str, str] = {}

    def read(names: Sequence[str], doing: str, measured: bool = True) -> Iterator[RawBatch]:
        coloured, bad = (chosen.coloured, unusable) if measured else ([], {})
        dataset = ProtocolDataset(photos, names, protocol, coloured=coloured, scene_px=config.scene_px)
        found = batches(dataset, config.batch_size, config.data, bad)
        return tracked(found, doing, len(names), lambda batch: len(batch.names) + len(batch.unreadable))

    own = slice(fabric.global_rank, None, fabric.world_size)
    render_px = {row: config.render_px or colorizer.preprocessing.render_px for row, colorizer in colorizers.items()}
    with distributed.abort_together(fabric.strategy.launcher):
        averaged_photos = spread(photos.train or identities, measuring.LOOKUP_PHOTOS)[own]
        lookup = measuring.fit_luma_lookup(read(averaged_photos, "luma look-up", measured=False))
        methods = {row: measuring.by(made, render_px[row], config.saturation) for row, made in colorizers.items()}
        methods |= {row: measuring.from_folder(number) for number, row in enumerate(folders)}
        rows = measuring.with_baselines(methods, lookup)
        measured = measuring.measure_rows(rows, read(identities[own], "evaluate"), device, learned, order=identities)
        elsewhere = [found for rank, found in enumerate(distributed.gathered(unusable)) if rank]
    if not first:
        return None
    for found in elsewhere:
        leave_out(found, unusable, config.data.max_unreadable)
    table = scores.tabulate(measured, config.seed)
    advice = []
    if not config.checkpoint and not config.coloured:  # a run: its result against that of step 1
        row, path = next(iter(models.items()))
        origin = row if path.parent.parent.name == "pretrain_gen" else judged
        advice.append(scores.verdict(table, judged, origin, str(path)))
    content = tables.to_json(
        config,
        table,
        checkpoint_sha256={row: sha256(path) for row, (path, _) in takes.items()},
        render_px=render_px,
        left_out=chosen.left_out | unusable,
        sampled_from=chosen.sampled_from,
        notes=[*notes(config, photos, measured, list(folders)), *(f"{doubt}." for doubt in doubts), *advice],
    )
    show = partial(measuring.coloured, rows, device)
    gallery = tables.draw_gallery(content, measured, judged, config.gallery_photos, lambda n: show(read(n, "gallery")))
    tables.write(content, measured, gallery, output)
    printed = [name for name in table.columns if COLUMNS[name].printed]
    print_table(tables.markdown(content["rows"], printed))
    print("".join(f"{sentence}\n" for sentence in advice), end="")
    print(f"{tables.about(content)}.\nEverything else: {output / 'metrics.md'}, gallery.png beside it")
    return Score(table.rows[judged][JUDGED_BY].mean, METRICS[JUDGED_BY].title)


def notes(config: EvaluateConfig, photos: Photos, measured: Measurements, folders: Sequence[str]) -> list[str]:
    """List what a reader has to know of this measurement."""
    found = []
    if not photos.train:
        found.append("There are no training photos: the luma look-up was fitted on those measured, which flatters it.")
    elif config.split != "val":
        found.append(
            "Photos of the training split are among those measured: no test of what was trained on them, and the luma "
            "look-up was fitted on some of them."
        )
    if config.saturation != 1:
        found.append(f"The networks' chroma is multiplied by saturation={config.saturation:g}.")
    if is_given("data.min_colourfulness"):  # recipes have it for training
        found.append("data.min_colourfulness is left aside: no photo is left out of a measurement.")
    for row in folders:
        if measured.luma_psnr[row] < ANOTHER_PHOTO_DB:
            found.append(
                f"The luma of {row} is {measured.luma_psnr[row]:.1f} dB from the photos': were they cut or resized in "
                f"another way than protocol={config.protocol} does it?"
            )
            log.warning(found[-1])
    return found


if __name__ == "__main__":
    run_command("evaluate", run)
