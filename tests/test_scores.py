"""Means, bootstrap intervals, differences and region tables, against figures that are computed in another way."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio

from colorize.color import lab_to_rgb
from colorize.data.scenes import REGIONS
from colorize.data.sources import Photos, list_scenes
from colorize.errors import UserError
from colorize.evaluation import measuring, scores
from colorize.evaluation.bootstrap import interval, resampled_ratios
from colorize.evaluation.files import choose
from colorize.evaluation.inputs import choose_photos
from colorize.evaluation.protocols import PROTOCOLS, Protocol, ProtocolDataset, batches
from colorize.evaluation.regions import COUNTED, TAKEN_FOR, taken_for
from colorize.metrics import colourfulness

CPU = torch.device("cpu")


def test_photos_come_by_their_file_names_and_true_greys_are_not_the_best() -> None:
    photos = Photos(Path("x"), ["t/0.jpg"], ["b/1.jpg", "a/3.jpg", "c/2.jpg"])
    assert choose_photos(photos, "val", PROTOCOLS["native"]) == ["b/1.jpg", "c/2.jpg", "a/3.jpg"]
    assert choose_photos(photos, "all", Protocol("two", 32, photos=2)) == ["t/0.jpg", "b/1.jpg"]
    with pytest.raises(UserError, match="no photos in the split train of x"):
        choose_photos(Photos(Path("x"), [], ["a.jpg"]), "train", PROTOCOLS["native"])
    measured = measurements(one=([20] * 4, [0] * 4))
    measured.values["one"]["ciede2000"] = np.array([0.0, 9.0, 3.0, 5.0])  # of a, which is grey, to d
    chosen = choose(measured, "one", 1, seed=0)
    assert (chosen["Best"], chosen["Median"], chosen["Worst"]) == (["c"], ["d"], ["b"])


def test_a_bootstrap_interval_is_the_normal_one_for_normal_values() -> None:
    values = np.random.default_rng(0).normal(5, 2, size=(400, 1))
    samples = resampled_ratios(values, np.ones_like(values), seed=1)[:, 0]
    low, high = interval(samples)
    half = 1.96 * values.std() / 20
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.03)
    assert np.array_equal(samples, resampled_ratios(values, np.ones_like(values), seed=1)[:, 0])
    # Columns are paired, and a photo that counts twice as much is drawn no more often.
    both = np.hstack([values, values + 1])
    apart = resampled_ratios(both, np.ones_like(both), seed=1)
    assert np.ptp(apart[:, 1] - apart[:, 0]) < 1e-9
    weights = np.array([[1.0], [3.0]])
    assert set(np.round(resampled_ratios(weights * [[0.0], [1.0]], weights, seed=0)[:, 0], 9)) == {0, 0.75, 1}
    assert all(map(np.isnan, interval(np.array([np.nan]))))


def measurements(**rows: Sequence[Sequence[float]]) -> measuring.Measurements:
    """Of four photos, the first grey; each row has psnr and cf of each."""
    values = {}
    for row, (psnr, cf) in rows.items():
        values[row] = {"psnr": np.array(psnr), "cf": np.array(cf), "cf_abs": np.array(cf) / 2}
    names, grey = list("abcd"), np.array([True, False, False, False])
    return measuring.Measurements(names, ["0"] * 4, grey, values, {row: 50.0 for row in rows})


def test_means_leave_out_infinities_and_say_what_greys_do() -> None:
    infinite = np.inf
    table = scores.tabulate(
        measurements(
            one=([infinite, 20, 22, 24], [40, 10, 20, 30]),
            two=([30, 21, 23, 25], [10, 10, 20, 30]),
            truth=([infinite] * 4, [0, 30, 40, 30]),
        ),
        seed=0,
    )
    one, two = table.rows["one"], table.rows["two"]
    assert (one["psnr"].mean, one["psnr"].left_out) == (22, 1)
    assert (two["psnr"].mean, two["psnr"].without_greys, two["psnr"].left_out) == (24.75, 23, 0)
    assert table.difference("psnr", "two", "one").mean == pytest.approx(1), "on the photos that both have"
    assert table.difference("psnr", "two", "one").exceeds and not table.difference("cf", "two", "two").exceeds
    # Right on the whole and wrong everywhere.
    assert one["delta_cf_of_means"].mean == 0
    assert one["delta_cf_per_image"].mean == (40 + 20 + 20 + 0) / 4
    assert one["delta_cf_per_image"].without_greys == pytest.approx(40 / 3)
    assert one["delta_cf_abs_per_image"].mean == 10
    assert two["delta_cf_of_means"].mean == 7.5
    assert scores.row_to_json(table, "one")["psnr"]["infinite"] == 1
    assert "| truth | ∞ |" in scores.markdown(table, ["psnr"])


def test_pictures_are_measured_as_8_bits_and_alike_in_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    scenes = list_scenes(6, seed=1, val_fraction=0.5)
    dataset = ProtocolDataset(scenes, scenes.val, PROTOCOLS["native"], scene_px=48)

    def half_way(shown: measuring.Shown) -> torch.Tensor:
        return shown.rgb * 0.7 + 0.13 / 255

    def measured() -> measuring.Measurements:
        rows = {"half": half_way, "truth": measuring.the_truth}
        return measuring.measure(rows, batches(dataset, batch_size=2), CPU)

    whole = measured()
    picture = np.round(scenes.scene(scenes.val[0], 48).rgb * 0.7 + 0.13).astype(np.uint8)
    truth = scenes.scene(scenes.val[0], 48).rgb
    expected = peak_signal_noise_ratio(truth, picture, data_range=255)
    assert whole.values["half"]["psnr"][0] == pytest.approx(expected, abs=1e-4)
    cf = colourfulness(torch.from_numpy(picture / 255).permute(2, 0, 1)[None]).item()
    assert whole.values["half"]["cf"][0] == pytest.approx(cf, rel=1e-5)
    monkeypatch.setattr(measuring, "_STRIP_PIXELS", 48 * 2 * 7)
    for metric, values in measured().values["half"].items():
        assert values == pytest.approx(whole.values["half"][metric], rel=1e-5), metric


def test_sea_taken_for_grass() -> None:
    regions = torch.full((1, 12, 12), REGIONS.index("sea"), dtype=torch.uint8)
    regions[:, :, 8:] = REGIONS.index("clothes")  # which may have any colour

    def lab(hue: float, chroma: float = 30.0) -> torch.Tensor:
        angle = np.radians(hue)
        plane = torch.tensor([60.0, chroma * np.cos(angle), chroma * np.sin(angle)])
        return lab_to_rgb(plane.view(1, 3, 1, 1).expand(1, 3, 12, 12)).clamp(0, 1)

    truth = lab(250)
    prediction = lab(120)  # grass
    prediction[..., :2, :] = lab(250)[..., :2, :]  # right
    prediction[..., 2:4, :] = lab(120, chroma=2)[..., 2:4, :]  # colourless
    prediction[..., 4, :] = lab(340)[..., 4, :]  # no region's hue
    [table] = taken_for(prediction, truth, regions)
    counts = dict(zip(TAKEN_FOR, table[list(COUNTED).index("sea")].tolist(), strict=True))
    # The last column of the sea lies at an edge: 7 columns count.
    assert {name: count for name, count in counts.items() if count} == {
        "sea": 14, "colourless": 14, "other": 7, "grass": 49,
    }  # fmt: skip
    assert table.sum() == 84
    truth[..., 6:, :] = lab(250, chroma=3)[..., 6:, :]  # deep shade: there is no hue to get right
    assert taken_for(prediction, truth, regions).sum() == 42
