"""Surveys of a source: what is left out as too dull, what the cache spares."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock
from PIL import Image

from colorize.data import sources, survey
from colorize.data.from_config import make_center_squares, make_photos
from colorize.data.images import Thumbnail
from colorize.data.sources import Photos, Split, list_folder, list_scenes
from colorize.runtime.errors import UserError
from colorize.training import build
from tests.conftest import draw_photo

Configure = Callable[..., Any]

COLOURFUL = [f"c{index}.jpg" for index in range(9)]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """In train/ nine colourful photos, a grey, a dull and a broken one; in val/ a small grey one."""
    folder = tmp_path / "Fotos [1], and a name that is longer than a line of eighty letters would hold"
    (folder / "train").mkdir(parents=True)
    (folder / "val").mkdir()
    for index, name in enumerate(COLOURFUL):
        draw_photo(index, 130 + index, 100).save(folder / "train" / name)
    photo = draw_photo(0, 260, 300)
    photo.convert("L").save(folder / "train" / "grey.png")
    Image.blend(photo.convert("L").convert("RGB"), photo, 0.1).save(folder / "train" / "dull.webp", lossless=True)
    (folder / "train" / "broken, 1.jpg").write_bytes((folder / "train" / "c1.jpg").read_bytes()[:900])
    draw_photo(1, 40, 30).convert("L").save(folder / "val" / "grey.jpg")
    return folder


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Grows by the name of each photo that is measured in this process."""
    names: list[str] = []
    real = sources.read_thumbnail

    def read_thumbnail(path: Path, size_px: int) -> Thumbnail:
        names.append(path.name)
        return real(path, size_px)

    monkeypatch.setattr(sources, "read_thumbnail", read_thumbnail)
    return names


def test_dull_photos_are_left_out_of_training_alone_and_measured_once(
    root: Path, configure: Configure, decoded: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "colorize")
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    overrides = (f"data.root='{root}'", "data.min_colourfulness=15")
    train_config = configure("train", "phase=pretrain_gen", *overrides)
    photos = make_photos(train_config)
    broken = "train/broken, 1.jpg"
    assert photos.train == [broken, *(f"train/{name}" for name in COLOURFUL)], "an unreadable file is not a dull one"
    assert photos.val == ["val/grey.jpg"]
    assert "leaves out 2 of 12 training photos (1 unreadable ones stay in" in caplog.text
    assert sorted(decoded) == sorted(["broken, 1.jpg", "grey.png", "dull.webp", *COLOURFUL])
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before, "nothing is left in the folder"

    # Every step gets the same photos; only what failed is tried again.
    decoded.clear()
    squares = make_center_squares(configure("generate", *overrides, "data.train_fraction=1"), size_px=32, batch_size=2)
    assert squares.photos == photos == build.make_datamodule(train_config).photos
    assert decoded == ["broken, 1.jpg"] * 2

    decoded.clear()
    draw_photo(5, 90, 90).save(root / "train" / "grey.png")  # changed
    draw_photo(6, 90, 90).save(root / "train" / "new.png")
    assert {"train/grey.png", "train/new.png"} < set(make_photos(train_config).train)
    assert decoded == ["broken, 1.jpg", "grey.png", "new.png"]

    train_config.data.min_colourfulness = 200.0
    with pytest.raises(
        UserError, match=r"min_colourfulness=200 leaves no training photo in .*Fotos.*the most colourful"
    ):
        make_photos(train_config)


def test_an_interrupted_survey_goes_on_and_broken_lines_do_no_harm(
    root: Path, tmp_path: Path, decoded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(survey, "FEW", 2)
    photos = list_folder(root, Split(0.1, seed=0))
    expected = survey.survey(photos, photos.train, tmp_path / "other", num_workers=1)
    assert decoded == [] and set(expected.unreadable) == {"train/broken, 1.jpg"}, "measured by a worker"
    measure = survey.colourfulness

    def interrupted(rgb: Any) -> Any:
        if len(decoded) > 6:
            raise KeyboardInterrupt
        return measure(rgb)

    monkeypatch.setattr(survey, "colourfulness", interrupted)
    with pytest.raises(KeyboardInterrupt):
        survey.survey(photos, photos.train, tmp_path, num_workers=0)
    monkeypatch.setattr(survey, "colourfulness", measure)
    cache = survey.cache_file(tmp_path, root)
    with cache.open("ab") as file:
        file.write(b'[1]\n\xff\xfe\n["train/c8.jpg", "x"]\n["train/c7.j')
    decoded.clear()
    found = survey.survey(photos, photos.train, tmp_path, num_workers=0)
    assert len(decoded) == 12 - 6 + 1, "all but what six readings gave, and the broken one again"
    assert np.array_equal(found.rows, expected.rows) and found.unreadable == expected.unreadable
    decoded.clear()
    again = survey.survey(photos, photos.train, tmp_path, num_workers=0)
    assert np.array_equal(again.rows, expected.rows) and decoded == ["broken, 1.jpg"]
    name = photos.train.index("train/c3.jpg")
    assert again.rows[["width", "height"]][name].tolist() == (133, 100)


def test_a_second_process_waits_for_the_first(root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "colorize")
    photos = Photos(root, ["train/c1.jpg"], [])
    cache = survey.cache_file(tmp_path, root)
    cache.parent.mkdir()
    found: list[survey.Survey] = []
    other = threading.Thread(target=lambda: found.append(survey.survey(photos, photos.train, tmp_path, 0)))
    with FileLock(cache.with_suffix(".lock")):
        other.start()
        other.join(0.3)
        assert not found and "waiting for another process" in caplog.text
    other.join()
    assert (found[0].rows["width"] > 0).all()


def test_scenes_are_filtered_without_a_cache(tmp_path: Path) -> None:
    scenes = list_scenes(24, Split(val_fraction=0.25, seed=0))
    rows = survey.survey(scenes, scenes.train, tmp_path, 0).rows
    least = float(np.median(rows["colourfulness"]))
    kept = survey.leave_out_dull(scenes, least, tmp_path, 0)
    assert isinstance(kept, sources.Scenes) and kept.val == scenes.val
    bright = zip(scenes.train, rows["colourfulness"] >= np.float32(least), strict=True)
    assert kept.train == [name for name, is_bright in bright if is_bright] != scenes.train
    assert list(tmp_path.iterdir()) == []
