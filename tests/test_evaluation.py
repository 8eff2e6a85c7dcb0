"""colorize.evaluate and what it rests on, against figures that are computed in another way."""

import csv
import hashlib
import json
from argparse import Namespace
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import color as skimage_color
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from colorize import config as schemas
from colorize import evaluate
from colorize.cli.command import configured as composed
from colorize.cli.command import quoted, run_command
from colorize.data.sources import Photos, Split, list_folder, list_scenes
from colorize.evaluation.candidates import named, of_another_split
from colorize.evaluation.protocols import PROTOCOLS, match
from colorize.metrics import COLUMNS
from colorize.networks.unet import UNet
from colorize.photos.opening import UnreadableImage
from colorize.runtime.errors import UserError
from colorize.runtime.schema import BadOption
from colorize.weights.checkpoints import AVERAGE, CheckpointMetadata
from tests.conftest import draw_photo
from tests.test_scores import measurements

PLAIN = [
    *("trainer.accelerator=cpu", "trainer.precision=32-true", "data.num_workers=0", "gallery_photos=2"),
    *("weights.lpips_alex=none", "weights.lpips_vgg=none", "weights.fid=none"),
]
SCENES = ["data=scenes", "data.scenes=24", "data.val_fraction=0.25", "protocol=native", "scene_px=40", *PLAIN]


def configured(folder: Path, *words: str) -> Any:
    """The configuration that `colorize.evaluate` would get."""
    return composed("evaluate", [f"runs_dir={folder}/runs", *words])


def save_checkpoint(path: Path, seed: int = 0, phase: str = "gan", average: bool = False, images: int = 100) -> Path:
    """An untrained generator as a phase would leave it; with another one for its average, and a curve of scores."""
    torch.manual_seed(seed)
    network = UNet(encoder="resnet10_half", width_factor=0.25)
    card = CheckpointMetadata(phase, 1, 1, images, 32, network.architecture, None, 0)
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {f"generator.{name}": value for name, value in network.state_dict().items()}
    callbacks = {}
    if average:
        points = [(0, 0.9), (50, 0.6), (100, 0.8)]
        curve = [{"images_seen": n, "ciede2000": 10 * d, "delta_cf": 30 * d, "distance": d} for n, d in points]
        card = replace(card, averaged=True, curve=curve)
        other = UNet(encoder="resnet10_half", width_factor=0.25)
        callbacks = {AVERAGE: {"generator": other.state_dict()}}
    torch.save({"state_dict": state, "colorize": asdict(card), "callbacks": callbacks}, path)
    return path


# --- the command ------------------------------------------------------------------------------------------------------


def test_a_run_on_scenes_leaves_the_documented_files(tmp_path: Path) -> None:
    for phase, kept in (("pretrain_gen", "best"), ("gan", "best"), ("gan", "last")):  # the last of gan is its best
        save_checkpoint(tmp_path / "runs" / "demo" / phase / "checkpoints" / f"{kept}.ckpt", len(phase), phase)
    config = configured(tmp_path, "run=demo", *SCENES)
    figure = evaluate.run(config)
    folder = tmp_path / "runs" / "demo" / "evaluation"
    found = json.loads((folder / "metrics.json").read_text(), parse_constant=pytest.fail)
    assert list(found)[:6] == ["protocol", "n", "files_sha256", "checkpoint_sha256", "versions", "rows"]
    models = ["pretrain_gen/best", "gan/best"]
    assert list(found["rows"]) == ["grey", "luma_lookup", *models, "truth"]
    assert list(found["checkpoint_sha256"]) == models
    checkpoint = tmp_path / "runs/demo/gan/checkpoints/best.ckpt"
    assert found["checkpoint_sha256"]["gan/best"] == hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    scenes = list_scenes(24, Split(val_fraction=0.25, seed=0))
    count = len(scenes.val)
    lines = [f"{hashlib.sha256(scenes.scene(v, 40).rgb.tobytes()).hexdigest()}  {v}\n" for v in sorted(scenes.val)]
    assert found["files_sha256"] == hashlib.sha256("".join(lines).encode()).hexdigest()
    assert (found["protocol"], found["n"], found["true_greys"]) == ("native", count, 0)
    assert found["versions"]["torch"] == torch.__version__.partition("+")[0]

    rows = found["rows"]
    for row in rows.values():
        assert set(row) == set(COLUMNS) - {"lpips_alex", "lpips_vgg", "fid"}
        for cell in row.values():
            assert {"mean", "low", "high", "without_greys"} <= set(cell)
            assert cell["mean"] is None or cell["low"] <= cell["mean"] <= cell["high"]
    assert rows["truth"]["psnr"] == {"mean": None, "low": None, "high": None, "without_greys": None, "infinite": count}
    assert rows["truth"]["ciede2000"]["mean"] == rows["grey"]["cf"]["mean"] == 0
    assert rows["truth"]["skill"]["low"] == 1 and rows["luma_lookup"]["skill"]["high"] == 0
    own = [rows[row]["skill"] for row in ("grey", *models)]
    assert all(-1 < cell["low"] < cell["mean"] < cell["high"] < 1 for cell in own)
    assert rows["grey"]["delta_cf_of_means"]["mean"] == pytest.approx(rows["truth"]["cf"]["mean"])
    assert rows["grey"]["region_accuracy"]["mean"] == 0 and rows["truth"]["region_accuracy"]["mean"] > 0.9
    assert found["regions"]["grey"]["grass"]["taken_for"] == {"colourless": 1.0}
    [difference] = found["differences"]
    assert (difference["row"], difference["minus"]) == ("gan/best", "pretrain_gen/best")
    assert difference["metrics"]["skill"]["mean"] == pytest.approx(own[2]["mean"] - own[1]["mean"], abs=2e-6)
    gap = rows["gan/best"]["ciede2000"]["mean"] - rows["pretrain_gen/best"]["ciede2000"]["mean"]
    assert difference["metrics"]["ciede2000"]["mean"] == pytest.approx(gap, abs=2e-6)
    assert figure == pytest.approx(rows["gan/best"]["ciede2000"]["mean"], abs=1e-6)

    with (folder / "per_image.csv").open() as file:
        lines_of_csv = list(csv.DictReader(file))
    assert len(lines_of_csv) == count * len(rows)
    own = [float(line["ciede2000"]) for line in lines_of_csv if line["row"] == "gan/best"]
    assert np.mean(own) == pytest.approx(figure, rel=1e-4)
    text = (folder / "metrics.md").read_text()
    assert f"| gan/best | {rows['gan/best']['psnr']['mean']:.2f} ± " in text and "## Regions: gan/best" in text
    with Image.open(folder / "gallery.png") as gallery:
        assert gallery.width > 2 * 4 * 176 and gallery.height > 2 * 2 * 176
    assert {path.name for path in folder.iterdir()} - {".lock"} == {
        "metrics.json", "metrics.md", "per_image.csv", "gallery.png",
    }  # fmt: skip

    config.batch_size, config.output = 2, str(tmp_path / "again")
    config.checkpoint = ["demo"]
    save_checkpoint(checkpoint, seed=len("gan"), average=True)
    assert evaluate.run(config) != pytest.approx(figure, abs=1e-3)
    again = json.loads((tmp_path / "again" / "metrics.json").read_text())
    assert [*again["rows"]][2:5] == ["pretrain_gen/best", "gan/best", "gan/best raw"], "averaged beside raw"
    compared = [(found["row"], found["minus"]) for found in again["differences"]]
    assert compared == [
        ("gan/best", "pretrain_gen/best"), ("gan/best raw", "pretrain_gen/best"), ("gan/best raw", "gan/best")
    ]  # fmt: skip
    del again["rows"]["gan/best"]
    for row, cells in again["rows"].items():
        for metric, cell in cells.items():
            for name, value in cell.items():
                before = rows[row.removesuffix(" raw")][metric][name]
                assert value == before or value == pytest.approx(before, abs=1e-2)
    assert again["notes"] == [], "of checkpoints that are given nobody knows the start"


def test_a_run_is_measured_on_its_own_data_as_predict_would_show_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    save_checkpoint(Path("runs/mine/pretrain_gen/checkpoints/best.ckpt"), 2, "pretrain_gen")
    for name, images in (("best", 50), ("last", 100)):
        save_checkpoint(Path(f"runs/mine/gan/checkpoints/{name}.ckpt"), images, average=True, images=images)
    trained = "seed: 3\ndata: {kind: scenes, root: scenes, scenes: 24, val_fraction: 0.25, max_val: 2}\n"
    Path("runs/mine/gan/config.yaml").write_text(trained)
    monkeypatch.setattr("sys.argv", ["evaluate", "run=mine", "use_ema=false", *PLAIN])
    run_command("evaluate", evaluate.run)
    found = json.loads(Path("runs/mine/evaluation/metrics.json").read_text())
    assert (found["data"], found["seed"], found["n"]) == ("scenes", 3, len(list_scenes(24, Split(0.25, 3)).val))
    assert found["protocol"] == "val5k" and set(found["render_px"].values()) == {32}
    assert "validation split, shown to the networks at 32 px." in capsys.readouterr().out
    (advice,) = found["notes"]
    assert advice.startswith(f"The result, gan/best: CIEDE2000 {found['rows']['gan/best']['ciede2000']['mean']:.2f} (")
    better = "better than its start: kept" in advice
    start = Path("runs/mine/pretrain_gen/checkpoints/best.ckpt").resolve()
    assert better or f"than the generator it started from: use checkpoint={start} (" in advice

    Path("theirs").mkdir()
    scenes = list_scenes(24, Split(0.25, 5))
    for name in scenes.val:
        Image.fromarray(scenes.scene(name, 40).rgb).save(f"theirs/{name}.png")
    monkeypatch.setattr("sys.argv", ["evaluate", "coloured=theirs", "seed=5", *SCENES])
    run_command("evaluate", evaluate.run)
    assert Path("evaluation/metrics.md").is_file() and not Path("runs/default").exists()
    monkeypatch.setattr("sys.argv", ["evaluate", "coloured=theirs"])
    with pytest.raises(SystemExit):
        run_command("evaluate", evaluate.run)
    assert "data.root is not set, and there is no run that says it" in capsys.readouterr().err
    Path("runs/mine/gan/config.yaml").write_text(trained.replace("max_val: 2", "file_list: some.txt"))
    monkeypatch.setattr("sys.argv", ["evaluate", "run=mine"])
    with pytest.raises(SystemExit):
        run_command("evaluate", evaluate.run)
    assert "data.file_list, which is gone: give data.root=" in capsys.readouterr().err


def test_other_peoples_images_score_what_scikit_image_says(
    tmp_path: Path, photos: Path, caplog: pytest.LogCaptureFixture
) -> None:
    theirs, names = tmp_path / "theirs", sorted(path.relative_to(photos) for path in photos.rglob("*.jpg"))
    expected: dict[str, list[float]] = {"psnr": [], "ssim": [], "ciede2000": []}
    for name in names[1:]:
        with Image.open(photos / name) as file:
            truth = np.asarray(file)
        result = np.clip(truth.astype(int) + np.array([25, 0, -40]), 0, 255).astype(np.uint8)
        path = (theirs / name).with_suffix(".png")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(result).save(path)
        expected["psnr"].append(peak_signal_noise_ratio(truth, result, data_range=255))
        windows: dict[str, Any] = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
        expected["ssim"].append(structural_similarity(truth, result, channel_axis=2, data_range=255, **windows))
        lab1, lab2 = skimage_color.rgb2lab(truth), skimage_color.rgb2lab(result)
        expected["ciede2000"].append(skimage_color.deltaE_ciede2000(lab1, lab2).mean())
    Image.new("RGB", (80, 64)).save(theirs / "nobody's.png")
    caplog.set_level("WARNING", "colorize")
    words = ["data=folder", f"data.root={photos}", "protocol=native", "split=all", f"output={tmp_path}/out", *PLAIN]
    evaluate.run(configured(tmp_path, f"coloured={theirs}", *words))
    found = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert (found["n"], found["checkpoint_sha256"]) == (len(names) - 1, {})
    for metric, values in expected.items():
        assert found["rows"]["theirs"][metric]["mean"] == pytest.approx(np.mean(values), rel=2e-4), metric
    assert found["left_out"] == {str(names[0]): "without an image in theirs"} and found["sampled_from"] is None
    said = f"- 1 photos are left out of all rows ({names[0]}: without an image in theirs)."
    assert said in (tmp_path / "out" / "metrics.md").read_text()
    assert "1 images belong to no photo" in caplog.text and "nobody's.png" in caplog.text


@pytest.mark.parametrize(
    ("words", "named_thing"),
    [
        (["run=nobody"], "there is no run .*runs/nobody: give run=NAME, checkpoint=FILE or coloured=DIR"),
        (["checkpoint=no.ckpt"], "there is no checkpoint and no run no.ckpt"),
        (["checkpoint={here}/page.ckpt"], "page.ckpt"),
        (["checkpoint={here}/empty"], "empty is no run with a trained generator"),
        (["coloured={here}/nowhere"], "no such folder: .*nowhere"),
        (["coloured={here}/empty"], "no images in .*empty"),
        (["coloured={here}/other"], "other holds no image named as one of the"),
        (["coloured=[{here}/other,{here}/other]"], "other is given twice"),
        (["coloured={here}/other", "data=folder", "data.root=/no/such/folder"], "no such folder: /no/such/folder"),
        (["checkpoint={here}/good.ckpt", "weights.fid=/no/file.pth"], "weights.fid: there is no file /no/file.pth"),
    ],
)
def test_bad_input_is_named_in_one_line(tmp_path: Path, words: list[str], named_thing: str) -> None:
    (tmp_path / "page.ckpt").write_text("<html>not found</html>")
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    draw_photo(0).save(tmp_path / "other" / "x.png")
    if "good" in str(words):
        save_checkpoint(tmp_path / "good.ckpt")
    config = configured(tmp_path, *SCENES, f"output={tmp_path}/out", *(word.format(here=tmp_path) for word in words))
    with pytest.raises(UserError, match=named_thing) as caught:
        evaluate.run(config)
    assert "\n" not in str(caught.value)


def test_a_validation_set_alone_can_be_measured_and_a_sample_says_so(tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    for index in range(3):
        for path in (tmp_path / "photos" / "val" / "class" / f"{index}.jpg", theirs / f"{index}.jpg.png"):
            path.parent.mkdir(parents=True, exist_ok=True)
            draw_photo(index).save(path)
    (theirs / "2.jpg.png").write_bytes(b"spoilt")
    words = [f"data.root={tmp_path}/photos", f"coloured={theirs}", "protocol=native", f"output={tmp_path}/out", *PLAIN]
    for kind in ("folder", "imagenet"):
        evaluate.run(configured(tmp_path, f"data={kind}", *words))
        found = json.loads((tmp_path / "out" / "metrics.json").read_text())
        assert (
            found["n"] == 2
            and found["rows"]["theirs"]["ciede2000"]["mean"] < found["rows"]["grey"]["ciede2000"]["mean"]
        )
        assert found["notes"] == [
            "There are no training photos: the luma look-up was fitted on those measured, which flatters it."
        ]
        ((name, reason),) = found["left_out"].items()
        assert name == "val/class/2.jpg" and reason.endswith("theirs/2.jpg.png: not an image in a known format")
    with pytest.raises(UserError, match="has a folder val but no folder train"):
        list_folder(tmp_path / "photos", Split(0.5, 0))
    evaluate.run(configured(tmp_path, "data=folder", *words, "data.max_val=2"))
    found = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert (found["n"] + len(found["left_out"]), found["sampled_from"]) == (2, 3)
    assert "- A fixed sample of 2 of 3 photos." in (tmp_path / "out" / "metrics.md").read_text()


def test_without_saturation_a_generator_scores_as_grey_and_a_note_says_why(tmp_path: Path) -> None:
    words = [f"checkpoint={save_checkpoint(tmp_path / 'good.ckpt')}", f"output={tmp_path}/out", *SCENES]
    evaluate.run(configured(tmp_path, *words, "saturation=0"))
    found = json.loads((tmp_path / "out" / "metrics.json").read_text())
    ours, grey = found["rows"]["good"], found["rows"]["grey"]
    assert ours["cf"]["mean"] == grey["cf"]["mean"] == 0
    assert ours["ciede2000"]["mean"] == pytest.approx(grey["ciede2000"]["mean"], abs=0.05)
    assert "The networks' chroma is multiplied by saturation=0." in found["notes"]
    for wrong in ("inf", "nan", "-0.5"):
        with pytest.raises(BadOption, match=f"saturation={wrong} is .*: give at least 0"):
            configured(tmp_path, *SCENES, f"saturation={wrong}")


def test_what_makes_figures_doubtful_is_said(tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = configured(tmp_path, "data=folder", f"data.root={photos}", "split=all", "seed=1", *PLAIN)
    measured = measurements(theirs=([20] * 4, [0] * 4))
    known = Photos(photos, ["a.jpg"], ["b.jpg"])
    (said,) = evaluate.notes(config, known, measured, ["theirs"])
    assert said.startswith("Photos of the training split are among those measured: no test of what was trained on them")
    assert config.data.min_colourfulness == 15  # the recipe's, for training: no word of it, unless one asks for it here
    monkeypatch.setattr("colorize.cli.command._typed", [Namespace(overrides=["data.min_colourfulness=15"])])
    assert "no photo is left out of a measurement" in evaluate.notes(config, known, measured, ["theirs"])[1]
    monkeypatch.undo()
    measured.luma_psnr["theirs"] = 12.0
    assert "The luma of theirs is 12.0 dB from the photos'" in evaluate.notes(config, known, measured, ["theirs"])[1]
    checkpoint = tmp_path / "gan" / "checkpoints" / "last.ckpt"
    checkpoint.parent.mkdir(parents=True)
    text = f"seed: 0\ndata: {{root: {json.dumps(str(photos))}, val_fraction: 0.05}}\n"
    (tmp_path / "gan" / "config.yaml").write_text(text)
    config.split = "val"
    sentence = of_another_split(config, checkpoint) or ""
    assert "was trained on another split" in sentence and "give seed=0 data.val_fraction=0.05" in sentence
    config.seed = 0
    assert of_another_split(config, checkpoint) is None
    (tmp_path / "gan" / "config.yaml").write_text("seed: 0\ndata: {kind: scenes, root: scenes, val_fraction: 0.05}\n")
    config = configured(tmp_path, *SCENES)
    assert "give seed=0 data.val_fraction=0.05" in (of_another_split(config, checkpoint) or "")
    config.seed = 1
    assert of_another_split(config, checkpoint) is None, "other scenes"


def test_several_paths_are_given_in_brackets() -> None:
    def read(*words: str, sweep: bool = False) -> list[str]:
        return quoted(words, schemas.EvaluateConfig, sweep=sweep)

    assert read("checkpoint=a b(1).ckpt", "coloured=[it's,'a,b']") == [
        "checkpoint=['a b(1).ckpt']",
        r"coloured=['it\'s','a,b']",
    ]
    assert read("checkpoint=a,b") == ["checkpoint=['a,b']"]
    assert read("checkpoint=a,b", sweep=True) == ["checkpoint=['a'],['b']"]
    assert read(*read("coloured=[it's,b]")) == read("coloured=[it's,b]")


def test_rows_are_named_by_what_tells_them_apart(tmp_path: Path) -> None:
    for path in ("x/gan/checkpoints/last.ckpt", "y/gan/checkpoints/last.ckpt", "y/gan/checkpoints/best.ckpt", "z.ckpt"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    files = sorted(tmp_path.rglob("*.ckpt"))
    assert list(named(files)) == ["x/gan/last", "y/gan/best", "y/gan/last", "z"]
    assert list(named(files[1:3])) == ["gan/best", "gan/last"], "of a single run"
    assert list(named([tmp_path / "x"], taken=["x"])) == [f"{tmp_path.name}/x"]


# --- protocols --------------------------------------------------------------------------------------------------------


def test_protocols_cut_and_squeeze() -> None:
    wide = Image.new("RGB", (300, 100), "red")
    wide.paste("blue", (100, 0, 200, 100))
    assert PROTOCOLS["val5k"].apply(wide).getcolors() == [(256 * 256, (0, 0, 255))]
    squeezed = PROTOCOLS["stretch256"].apply(wide)
    assert squeezed.tobytes() == wide.resize((256, 256), Image.Resampling.BILINEAR).tobytes()
    assert PROTOCOLS["native"].apply(wide) is wide
    assert PROTOCOLS["val5k"].photos == 5000
    val5k = PROTOCOLS["val5k"]
    for theirs in (wide, wide.resize((150, 50)), Image.new("RGB", (256, 256), "blue")):
        assert max(val5k.apply_to_coloured(theirs, wide.size).getcolors(9**5) or [])[1] == (0, 0, 255)
    with pytest.raises(UnreadableImage, match="is 80 × 50 px, neither a square nor of the photo's shape"):
        val5k.apply_to_coloured(wide.resize((80, 50)), wide.size)
    with pytest.raises(UnreadableImage, match="is 256 × 256 px, the photo 300 × 100"):
        PROTOCOLS["native"].apply_to_coloured(squeezed, wide.size)


def test_coloured_pictures_are_found_by_path_and_by_name(tmp_path: Path) -> None:
    for name in (
        "a/1.jpg",
        "a/2.png",
        "a/3.jpg.png",
        "elsewhere/4_out.webp",
        "elsewhere/5.png",
        "6.png",
        ".7.png",
        "8.jpg.png",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    photos = ["a/1.jpg", "a/2.jpg", "a/3.jpg", "a/4.jpg", "b/5.jpg", "b/6.jpg", "c/6.jpg", "d/7.jpg", "d/8.jpg"]
    found, surplus = match(photos, tmp_path)
    assert {photo: file.relative_to(tmp_path).as_posix() for photo, file in found.items()} == {
        "a/1.jpg": "a/1.jpg", "a/2.jpg": "a/2.png", "a/3.jpg": "a/3.jpg.png", "b/5.jpg": "elsewhere/5.png",
        "d/8.jpg": "8.jpg.png",
    }  # fmt: skip
    assert surplus == ["6.png", "elsewhere/4_out.webp"], "two photos are called 6"
    (tmp_path / "a/2.webp").touch()
    with pytest.raises(UserError, match=r"several images for a/2.jpg: a/2.png, a/2.webp"):
        match(photos, tmp_path)
