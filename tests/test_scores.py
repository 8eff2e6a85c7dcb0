"""Means, bootstrap intervals, differences and region tables, against figures that are computed in another way."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio

from colorize.color import lab_to_rgb, merge_luma, rgb_to_grey, rgb_to_lab
from colorize.config.sections import DataConfig
from colorize.data.datasets import Batch
from colorize.data.scenes import REGIONS
from colorize.data.sources import Photos, Split, list_scenes
from colorize.evaluation import measuring, scores, tables
from colorize.evaluation.candidates import choose_photos
from colorize.evaluation.protocols import PROTOCOLS, Protocol, ProtocolDataset, batches
from colorize.evaluation.regions import COUNTED, TAKEN_FOR, taken_for
from colorize.evaluation.scores import Score, resampled_ratios
from colorize.metrics import colourfulness
from colorize.runtime.errors import UserError

CPU = torch.device("cpu")


def test_photos_come_by_their_file_names_and_true_greys_are_not_the_best() -> None:
    photos = Photos(Path("x"), ["t/0.jpg"], ["b/1.jpg", "a/3.jpg", "c/2.jpg"])
    assert choose_photos(photos, "val", PROTOCOLS["native"]) == ["b/1.jpg", "c/2.jpg", "a/3.jpg"]
    assert choose_photos(photos, "all", Protocol(32, photos=2)) == ["t/0.jpg", "b/1.jpg"]
    with pytest.raises(UserError, match="no photos in the split train of x"):
        choose_photos(Photos(Path("x"), [], ["a.jpg"]), "train", PROTOCOLS["native"])
    measured = measurements(one=([20] * 4, [0] * 4))
    measured.values["one"]["ciede2000"] = np.array([0.0, 9.0, 3.0, 5.0])  # of a, which is grey, to d
    chosen = tables.choose(measured, "one", 1, seed=0)
    assert (chosen["Best"], chosen["Median"], chosen["Worst"]) == (["c"], ["d"], ["b"])


def test_a_bootstrap_interval_is_the_normal_one_for_normal_values() -> None:
    values = np.random.default_rng(0).normal(5, 2, size=(400, 1))
    samples = resampled_ratios(values, np.ones_like(values), seed=1)[:, 0]
    low, high = Score(5.0, samples).bounds
    half = 1.96 * values.std() / 20
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.03)
    assert np.array_equal(samples, resampled_ratios(values, np.ones_like(values), seed=1)[:, 0])
    # Columns are paired, and a photo that counts twice as much is drawn no more often.
    both = np.hstack([values, values + 1])
    apart = resampled_ratios(both, np.ones_like(both), seed=1)
    assert np.ptp(apart[:, 1] - apart[:, 0]) < 1e-9
    weights = np.array([[1.0], [3.0]])
    assert set(np.round(resampled_ratios(weights * [[0.0], [1.0]], weights, seed=0)[:, 0], 9)) == {0, 0.75, 1}
    assert all(map(np.isnan, Score(5.0, np.array([np.nan])).bounds))


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
    assert scores.rows_to_json(table)["one"]["psnr"]["infinite"] == 1
    assert "| truth | ∞ |" in tables.markdown(scores.rows_to_json(table), ["psnr"])


def test_better_and_worse_are_said_only_beyond_the_interval_and_grey_always() -> None:
    def verdict(farther: float) -> str:
        steady = {"grey": 12.0, "one": 10.0, "two": 10 + farther}
        cells = {row: {"ciede2000": scores.Score(mean, np.full(2000, mean))} for row, mean in steady.items()}
        cells["one"]["skill"] = scores.Score(0.0, np.zeros(2000))
        cells["two"]["skill"] = scores.Score(0.1, np.linspace(-0.1, 0.3, 2000))
        return scores.verdict(scores.Table(cells, {}, measurements(), 0), "two", "one", "b")

    assert "; better than its start: kept (skill +0.100 (-0.090 to +0.290), CIEDE2000 -1.00" in verdict(-1.0)
    assert "; no better than the generator it started from: use checkpoint=b (skill +0.100" in verdict(0.0)
    assert "; worse than the generator it started from: use checkpoint=b (skill +0.100" in verdict(1.0)
    assert "worse than no colour" in verdict(9.0) and "worse than no colour" not in verdict(1.0)
    assert "not shown to know more of colours than luma tells" in verdict(-1.0)


def test_skill_is_that_of_all_pixels_with_a_paired_interval() -> None:
    rng = np.random.default_rng(3)
    truth = rng.normal(size=(4, 50))
    predictions = {"one": 0.3 * truth + rng.normal(size=(4, 50)), "two": 0.1 * truth, "luma_lookup": 0 * truth}
    measured = measurements(**{row: ([20] * 4, [10] * 4) for row in (*predictions, "truth")})
    predictions["truth"] = truth
    for row, own in predictions.items():
        measured.sums[row] = {"skill": np.stack([own * truth, own**2, truth**2], axis=2).sum(axis=1)}
        measured.values[row]["skill"] = np.full(4, 9.0)  # the photos' own, of which the skill is not the mean
    table = scores.tabulate(measured, seed=5)
    found = {row: cells["skill"] for row, cells in table.rows.items()}

    def cosine(own: np.ndarray, photos: Sequence[int] = range(4)) -> float:
        a, b = own[list(photos)].ravel(), truth[list(photos)].ravel()
        return float(a @ b / np.sqrt((a @ a) * (b @ b)))

    assert (found["one"].mean, found["one"].without_greys) == pytest.approx(
        (cosine(predictions["one"]), cosine(predictions["one"], [1, 2, 3]))
    )
    assert (found["two"].mean, found["two"].bounds[1], found["truth"].mean) == pytest.approx((1, 1, 1))
    assert (found["luma_lookup"].mean, *found["luma_lookup"].bounds) == (0, 0, 0)
    drawn = np.random.default_rng(5).integers(4, size=(2000, 4))
    expected = np.percentile([cosine(predictions["one"], photos) for photos in drawn], [2.5, 97.5])
    assert found["one"].bounds == pytest.approx(tuple(expected))
    gap = table.difference("skill", "one", "two")
    assert (gap.mean, *gap.bounds) == pytest.approx((found["one"].mean - 1, *(expected - 1))) and gap.exceeds
    text = tables.markdown(scores.rows_to_json(table), ["psnr", "skill"])
    assert f"| one | 20.00 | {found['one'].mean:.3f} |" in text


def test_pictures_are_measured_as_8_bits_and_alike_in_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    scenes = list_scenes(6, Split(val_fraction=0.5, seed=1))
    dataset = ProtocolDataset(scenes, scenes.val, PROTOCOLS["native"], scene_px=48)

    def half_way(shown: Batch) -> torch.Tensor:
        return shown.rgb * 0.7 + 0.13 / 255

    def bluish(shown: Batch) -> torch.Tensor:
        return merge_luma(shown.grey + torch.tensor([-0.05, 0.0, 0.1]).view(3, 1, 1), shown.grey)

    def measured() -> measuring.Measurements:
        rows = measuring.with_baselines({"half": half_way, measuring.LOOKUP: bluish})
        return measuring.measure_rows(rows, batches(dataset, 2, DataConfig(num_workers=0)), CPU)

    whole = measured()
    picture = np.round(scenes.scene(scenes.val[0], 48).rgb * 0.7 + 0.13).astype(np.uint8)
    truth = scenes.scene(scenes.val[0], 48).rgb
    expected = peak_signal_noise_ratio(truth, picture, data_range=255)
    assert whole.values["half"]["psnr"][0] == pytest.approx(expected, abs=1e-4)
    cf = colourfulness(torch.from_numpy(picture / 255).permute(2, 0, 1)[None]).item()
    assert whole.values["half"]["cf"][0] == pytest.approx(cf, rel=1e-5)
    assert set(whole.values[measuring.LOOKUP]["skill"]) == {0} and 0 < whole.values["half"]["skill"].max() < 1
    assert list(whole.values) == ["grey", "half", measuring.LOOKUP, "truth"], "in the order given"
    own, true = (rgb_to_lab(torch.from_numpy(rgb / 255).permute(2, 0, 1)) for rgb in (picture, truth))
    shown = torch.from_numpy(truth / 255).permute(2, 0, 1)[None]
    reference = bluish(Batch(shown, rgb_to_grey(shown), rgb_to_grey(shown), None, []))[0]
    known = rgb_to_lab((reference * 255).round() / 255)
    cosine = torch.cosine_similarity((own - known)[1:].flatten(), (true - known)[1:].flatten(), dim=0).item()
    assert whole.values["half"]["skill"][0] == pytest.approx(cosine, abs=1e-4)
    monkeypatch.setattr(measuring, "_STRIP_PIXELS", 48 * 2 * 7)
    assert measured().sums["half"]["skill"] == pytest.approx(whole.sums["half"]["skill"], rel=1e-5)
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
