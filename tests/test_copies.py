"""Small copies of training photos: exact about what they are of, resumable, bounded, and for training alone."""

import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from colorize.data.caches import copies
from colorize.data.caches.copies import CopiedPhotos, copies_folder, copy_path, key_of, make_copies
from colorize.data.datamodule import ColorizationDataModule
from colorize.data.images import image_rng, random_box
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


def made(photos: Photos, tmp_path: Path, limit_gb: float = 1.0) -> CopiedPhotos:
    copied = make_copies(photos, tmp_path / "cache", 60, limit_gb, num_workers=0)
    assert isinstance(copied, CopiedPhotos) and copied.folder == copies_folder(tmp_path / "cache", photos.root, 60)
    return copied


def squares(photos: Photos, name: str, size_px: int = 32) -> np.ndarray:
    box = random_box(image_rng(0, 0, name), (0.5, 1.0), (0.75, 1.33))
    return np.asarray(photos.square(name, size_px, box), np.float32)


def files(photos: CopiedPhotos) -> list[Path]:
    return sorted(photos.folder.rglob("*.jpg"))


def test_a_copy_shows_the_same_part_and_gives_way_where_it_is_too_small(photos: Photos, tmp_path: Path) -> None:
    copied = made(photos, tmp_path)
    assert len(files(copied)) == len(photos.train) - 1, "none of the small photo, none for validation"
    for name in photos.train:
        difference = np.abs(squares(copied, name) - squares(photos, name))
        assert difference.mean() < 3 and (name == "small.png") == (difference.max() == 0), name
        assert np.array_equal(squares(copied, name, 96), squares(photos, name, 96)), "more pixels than a copy has"
    turned = [source.square("03.jpg", 32, lambda *_: (20, 20, 100, 100), 30.0) for source in (photos, copied)]
    assert np.abs(np.subtract(*(np.asarray(square, np.float32) for square in turned))).mean() < 3


def test_training_reads_copies_and_validation_never(photos: Photos, tmp_path: Path) -> None:
    copied = made(photos, tmp_path)
    for path in files(copied):
        with Image.open(path) as image:
            comment, size = image.info["comment"], image.size
        Image.new("RGB", size, (255, 0, 0)).save(path, comment=comment)

    class Stage:
        size_px, batch_size = 32, 4

    data = ColorizationDataModule(photos, seed=0, val_size_px=32, val_batch_size=4, copies=copied)
    data.schedule = type("Schedule", (), {"at": lambda self, epoch: Stage})()
    red = [float(batch.rgb.float().mean((0, 2, 3))[1]) for batch in data.train_loader(0)]
    assert min(red) < 60, "most of them red"
    assert float(data.fixed_val(1).rgb.mean((0, 2, 3))[1]) > 0.1
    trained = photos.train[0]
    assert float(next(iter(data.center_squares([trained]))).rgb.mean((0, 2, 3))[1]) > 0.1, "a training photo, evaluated"


def test_a_changed_photo_is_read_itself_and_copied_again(photos: Photos, tmp_path: Path) -> None:
    copied, name = made(photos, tmp_path), photos.train[0]
    before = {path: path.stat().st_mtime_ns for path in files(copied)}
    Image.new("RGB", (160, 120), (0, 0, 255)).save(photos.path(name))
    assert squares(copied, name)[..., 0].max() < 3, "the copy is of the old file"
    made(photos, tmp_path)
    changed = [path for path, written in before.items() if path.stat().st_mtime_ns != written]
    assert changed == [copy_path(copied.folder, key_of(name))], "and no other is made again"
    with Image.open(changed[0]) as image:
        assert np.asarray(image)[..., 0].max() < 3
    changed[0].write_bytes(changed[0].read_bytes()[:-300])
    assert np.array_equal(squares(copied, name), squares(photos, name)), "a spoilt copy gives way"
    photos.path(name).unlink()
    with pytest.raises(copies.UnreadableImage):
        squares(copied, name)


def test_a_killed_start_goes_on_where_it_was(photos: Photos, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, written = copies.written_whole, []

    def killed(path: Path, **options: bool) -> Any:
        if len(written) == 5:
            raise KeyboardInterrupt
        written.append(path)
        return real(path, **options)

    monkeypatch.setattr(copies, "written_whole", killed)
    with pytest.raises(KeyboardInterrupt):
        made(photos, tmp_path)
    index = copies_folder(tmp_path / "cache", photos.root, 60) / "index"
    with index.open("ab") as file:
        file.write(b"half a li")
    first = list(written)
    monkeypatch.setattr(copies, "written_whole", lambda path, **how: (written.append(path), real(path, **how))[1])
    copied = made(photos, tmp_path)
    assert sorted(written) == files(copied) and len(set(written)) == len(written), "each was made once"
    assert len(first) == 5 and len(files(copied)) == len(photos.train) - 1
    made(photos, tmp_path)
    assert len(written) == len(files(copied)), "a third start has nothing to do"


def test_the_limit_holds_and_says_how_much_all_would_take(
    photos: Photos, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "colorize")
    whole = sum(path.stat().st_size for path in files(made(photos, tmp_path / "other")))
    assert f"lack a copy of 60 px: about {whole / 1e9:.2g} GB more" in caplog.text
    copied = made(photos, tmp_path, limit_gb=whole / 2 / 1e9)
    kept = files(copied)
    assert 0.3 * whole < sum(path.stat().st_size for path in kept) <= whole / 2
    assert "stay without a copy" in caplog.text
    os.utime(photos.path(photos.train[0]), (1, 1))
    made(photos, tmp_path, limit_gb=whole / 2 / 1e9)
    assert sum(path.stat().st_size for path in files(copied)) <= whole / 2
    for name in photos.train:
        squares(copied, name)
