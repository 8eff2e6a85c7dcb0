"""Small copies of training photos: exact about what they are of, made once, and for training alone."""

from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from colorize.data.caches import copies
from colorize.data.caches.copies import CopiedPhotos, copy_path, with_copies
from colorize.data.datamodule import ColorizationDataModule
from colorize.data.images import image_rng, random_box
from colorize.data.resolution import ResolutionSchedule
from colorize.data.sources import Photos, Split, list_folder


@pytest.fixture
def photos(tmp_path: Path) -> Photos:
    """Twelve photos of 160 × 120 px, one of them lying on its side, and a small one."""
    rng = np.random.default_rng(0)
    for number in range(12):
        coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
        exif = Image.Exif()
        exif[0x0112] = 6 if number == 3 else 1
        path = tmp_path / "photos" / f"{number:02}.jpg"
        path.parent.mkdir(exist_ok=True)
        coarse.resize((160, 120), Image.Resampling.BICUBIC).save(path, quality=95, exif=exif)
    coarse.resize((50, 40)).save(tmp_path / "photos" / "small.png")
    found = list_folder(tmp_path / "photos", Split(0.1, seed=0))
    assert {"03.jpg", "small.png"} <= set(found.train)
    return found


@pytest.fixture
def copied(photos: Photos, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CopiedPhotos:
    monkeypatch.setattr(copies, "LEFT_FREE", 0)
    found = with_copies(photos, tmp_path / "cache", 60)
    assert isinstance(found, CopiedPhotos) and found.folder.parent == tmp_path / "cache"
    return found


def squares(photos: Photos, name: str, size_px: int = 32) -> np.ndarray:
    box = random_box(image_rng(0, 0, name), (0.5, 1.0), (0.75, 1.33))
    return np.asarray(photos.square(name, size_px, box), np.float32)


def files(photos: CopiedPhotos) -> list[Path]:
    return sorted(photos.folder.rglob("*.jpg"))


def test_a_copy_shows_the_same_part_and_gives_way_where_it_is_too_small(photos: Photos, copied: CopiedPhotos) -> None:
    for name in photos.train:
        first = squares(copied, name)
        difference = np.abs(first - squares(photos, name))
        assert difference.mean() < 3 and (name == "small.png") == (difference.max() == 0), name
        assert np.array_equal(first, squares(copied, name)), "the reading that makes a copy gives what the next ones do"
        assert np.array_equal(squares(copied, name, 96), squares(photos, name, 96)), "more pixels than a copy has"
    assert len(files(copied)) == len(photos.train) - 1, "none of the small photo"
    turned = [source.square("03.jpg", 32, lambda *_: (20, 20, 100, 100), 30.0) for source in (photos, copied)]
    assert np.abs(np.subtract(*(np.asarray(square, np.float32) for square in turned))).mean() < 3


def test_training_reads_copies_and_validation_never(photos: Photos, copied: CopiedPhotos) -> None:
    for name in photos.train:
        squares(copied, name)
    for path in files(copied):
        with Image.open(path) as image:
            comment, size = image.info["comment"], image.size
        Image.new("RGB", size, (255, 0, 0)).save(path, comment=comment)

    data = ColorizationDataModule(photos, seed=0, val_size_px=32, val_batch_size=4, copies=copied)
    data.schedule = ResolutionSchedule([32], [4], [1])
    red = [float(batch.rgb.float().mean((0, 2, 3))[1]) for batch in data.train_loader(0)]
    assert min(red) < 60, "most of them red"
    assert float(data.fixed_val(1).rgb.mean((0, 2, 3))[1]) > 0.1
    trained = photos.train[0]
    assert float(next(iter(data.center_squares([trained]))).rgb.mean((0, 2, 3))[1]) > 0.1, "a training photo, evaluated"
    assert not any(copy_path(copied.folder, name).exists() for name in photos.val)


def test_a_changed_photo_is_copied_again_and_no_other(photos: Photos, copied: CopiedPhotos) -> None:
    for name in photos.train:
        squares(copied, name)
    before, name = {path: path.stat().st_mtime_ns for path in files(copied)}, photos.train[0]
    Image.new("RGB", (160, 120), (0, 0, 255)).save(photos.path(name))
    for each in photos.train:
        assert squares(copied, each)[..., 0].max() < 3 or each != name, "not the copy of the old file"
    changed = [path for path, written in before.items() if path.stat().st_mtime_ns != written]
    assert changed == [copy_path(copied.folder, name)]
    changed[0].write_bytes(changed[0].read_bytes()[:-300])
    assert squares(copied, name)[..., 0].max() < 3 and changed[0].stat().st_size > 300, "a spoilt copy is made anew"
    photos.path(name).unlink()
    with pytest.raises(copies.UnreadableImage):
        squares(copied, name)


def test_a_disk_that_is_nearly_full_is_left_alone(
    photos: Photos,
    copied: CopiedPhotos,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(copies, "LEFT_FREE", 5e9)
    monkeypatch.setattr(copies.shutil, "disk_usage", lambda folder: namedtuple("usage", "free")(4e9))
    with_copies(photos, tmp_path / "cache", 60)
    assert "less than 5 GB are free" in caplog.text
    for name in photos.train:
        assert np.array_equal(squares(copied, name), squares(photos, name))
    assert not files(copied)
