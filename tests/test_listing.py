"""Listings that are kept: what changed is noticed, and nothing else differs from reading all folders."""

import os
import pickle
from pathlib import Path

import pytest

from colorize.data.caches import listing
from colorize.data.caches.listing import listing_file
from colorize.data.datasets import Names
from colorize.data.sources import Photos, Split, list_folder, list_imagenet
from colorize.runtime.errors import UserError


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(listing, "WORTH_KEEPING", 1)
    for folder in ("train/a", "train/b", "train/b/deep ü", "val"):
        for number in range(20):
            path = tmp_path / "photos" / folder / f"{number}.JPEG"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    return tmp_path / "photos"


def settle(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if some time had gone by since the last change of a folder."""
    now = listing.time.time_ns
    monkeypatch.setattr(listing.time, "time_ns", lambda: now() + 10 * listing._GRANULE_NS)


def scanned(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the folders that are read from now on."""
    found: list[str] = []
    real = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: (found.append(Path(path).name), real(path))[1])
    return found


def kept(root: Path, seed: int = 0) -> Photos:
    return list_folder(root, Split(0.2, seed), runs_dir=root.parent / "runs")


def test_a_second_listing_reads_no_folder_and_a_changed_one_alone(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settle(monkeypatch)
    assert kept(root) == list_folder(root, Split(0.2, seed=0))
    read = scanned(monkeypatch)
    assert kept(root) == list_imagenet(root, Split(0.2, seed=0), runs_dir=root.parent / "runs") and read == []
    (root / "train/b/deep ü/new.png").touch()
    (root / "train/b/3.JPEG").rename(root / "train/a/renamed.JPEG")
    times = (root / "train/a").stat()
    (root / "train/a/4.JPEG").unlink()
    os.utime(root / "train/a", ns=(times.st_atime_ns, times.st_mtime_ns))  # as rsync does
    found = kept(root)
    assert sorted(read) == ["a", "b", "deep ü"]
    assert found == list_folder(root, Split(0.2, seed=0))
    assert "train/b/deep ü/new.png" in found.train and "train/a/4.JPEG" not in found.train
    read.clear()
    assert kept(root) == found and read == []


def test_the_split_is_the_same_with_and_without(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settle(monkeypatch)
    for _ in range(2):
        for seed in (0, 1):
            assert kept(root / "train", seed) == list_folder(root / "train", Split(0.2, seed))


def test_folders_that_may_change_unseen_are_not_kept(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = scanned(monkeypatch)
    kept(root)
    read.clear()
    kept(root)
    assert len(read) == 5, "changed a moment ago: another change would leave the same time"
    settle(monkeypatch)
    (root.parent / "elsewhere.jpg").touch()
    (root / "train/a/link.jpg").symlink_to(root.parent / "elsewhere.jpg")
    kept(root)
    (root.parent / "elsewhere.jpg").unlink()
    assert "train/a/link.jpg" not in kept(root).train


def test_a_damaged_or_unwritable_memory_costs_a_listing_not_the_start(
    root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    settle(monkeypatch)
    whole = kept(root)
    file = listing_file(root.parent / "runs", root)
    data = file.read_bytes()
    for damaged in (data[: len(data) // 2], b"", b"PK nonsense", data[:200] + b"\xff" * 50 + data[250:]):
        file.write_bytes(damaged)
        assert kept(root) == whole
    (root.parent / "a file").touch()
    assert list_folder(root, Split(0.2, seed=0), runs_dir=root.parent / "a file") == whole
    assert "will be listed again" in caplog.text
    with pytest.raises(UserError, match="no images"):
        list_folder(root.parent / "runs", Split(0.2, seed=0), runs_dir=root.parent / "runs")


def test_few_photos_leave_no_file(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settle(monkeypatch)
    monkeypatch.setattr(listing, "WORTH_KEEPING", 81)
    kept(root)
    assert not listing_file(root.parent / "runs", root).exists()


def test_names_are_a_sequence_of_any_names() -> None:
    words = ["", "a/b.jpg", "Фото/ü.png", "\udcff.jpg", "\ud800.jpg", "a/b.jpg"]
    for names in (Names(words), pickle.loads(pickle.dumps(Names(words)))):
        assert list(names) == words and names[2] == words[2] and names[-1] == words[-1]
        assert len(names) == 6 and "a/b.jpg" in names and "c" not in names
    with pytest.raises(IndexError):
        names[6]
    assert list(Names([])) == []
