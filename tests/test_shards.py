"""Shards: the same batches as from the folder, in an order that needs no list, and one line for what is not whole."""

import json
import os
import pickle
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import chain
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import torch
from PIL import Image

from colorize import evaluate, generate, pack, train
from colorize.cli.command import configured
from colorize.data import packing
from colorize.data.augment import Augmentation
from colorize.data.datasets import AugmentedDataset, collate
from colorize.data.generated import Generated, with_saved_images
from colorize.data.images import center_box, load_rgb, load_square
from colorize.data.loading import GlobalBatches, shuffled
from colorize.data.shards import BLOCK, BlockOrder, Chosen, Reader, list_shards
from colorize.data.sources import Photos, Split, list_folder, name_key
from colorize.photos.opening import UnreadableImage
from colorize.runtime.errors import UserError
from colorize.training import build
from tests.conftest import TINY, draw_photo
from tests.ranks import on_ranks
from tests.tiny_checkpoint import write_checkpoint

SPLIT = Split(0.25, seed=3)
ODD = "a/ü 'long' " + 120 * "x" + os.fsdecode(b"\xff") + ".png"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 photos, one with an odd name, and two files that are none; one photo is there twice."""
    root = tmp_path_factory.mktemp("source")
    for folder in ("a", "b"):
        (root / folder).mkdir()
    exif = Image.Exif()
    for index in range(38):
        exif[0x0112] = 6 if index % 5 == 1 else 1
        draw_photo(index, 80 + index).save(root / "ab"[index % 2] / f"{index:02}.jpg", quality=92, exif=exif)
    draw_photo(90).save(root / ODD)
    (root / "b" / "copy.jpg").write_bytes((root / "a" / "00.jpg").read_bytes())
    (root / "a" / "broken.jpg").write_bytes(b"no photo")
    (root / "b" / "half.jpg").write_bytes((root / "a" / "02.jpg").read_bytes()[:700])
    return root


def packed(root: Path, output: Path, *words: str) -> Path:
    words = (f"data.root='{root}'", f"output='{output}'", "data.num_workers=0", "shard_mb=0.02", *words)
    pack.run(configured("pack", words))
    return output


@pytest.fixture(scope="module")
def shards(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return packed(source, tmp_path_factory.mktemp("packed") / "shards")


def batches(photos: Photos, names: Any, generated: Generated | None = None) -> list[Any]:
    """Augmented batches of two epochs, as a worker process makes them."""
    found = []
    for epoch in range(2):
        sample = partial(Augmentation(noise=0.1).sample, 7, epoch)
        dataset = pickle.loads(pickle.dumps(AugmentedDataset(photos, names, 32, generated, sample=sample, max_tries=3)))
        order = partial(shuffled, len(names), 7, epoch)
        found += [collate(dataset.__getitems__(batch)) for batch in GlobalBatches(len(names), 5, order)]
    return found


def assert_equal(one: list[Any], two: list[Any]) -> None:
    assert len(one) == len(two) > 0
    for a, b in zip(one, two, strict=True):
        assert a.names == b.names and torch.equal(a.rgb, b.rgb) and (a.fake is None) == (a.grey_change is not None)
        assert torch.equal(*((c.grey_change if c.fake is None else c.fake) for c in (a, b)))


def test_batches_are_those_of_the_folder(source: Path, shards: Path, tmp_path: Path) -> None:
    photos, folder = list_shards(str(shards), SPLIT, tmp_path), list_folder(source, SPLIT)
    assert len(list(shards.glob("shard-*.tar"))) > 3
    names = [*photos.train, *photos.val]
    readable = set(folder.of_split("all")) - {"a/broken.jpg", "b/half.jpg"}
    assert sorted(names) == sorted(readable) and ODD in names
    of_folder = batches(folder, list(photos.train))
    assert_equal(batches(photos, photos.train), of_folder)
    assert_equal(batches(photos, list(photos.train)), of_folder)  # found by their names
    kept = [photos.train[3], photos.val[1]]
    assert set(photos.only(np.sort(np.array([*map(name_key, kept), 1], np.uint64))).of_split("all")) == set(kept)
    assert "b/half.jpg: " in (shards / "unreadable.txt").read_text()
    with pytest.raises(UnreadableImage, match="not in the shards"):
        photos.content("no")


def test_a_photo_that_is_missing_leaves_what_was_read_ahead(shards: Path, tmp_path: Path, monkeypatch: Any) -> None:
    photos = list_shards(str(shards), SPLIT, tmp_path)
    photos.read_ahead(photos.train, range(4))
    assert photos.train[9]  # read alone, as in place of an unreadable one
    with pytest.raises(UnreadableImage, match="not in the shards"):
        photos.content("no")
    monkeypatch.setattr(photos.reader, "_ranges", None)  # nothing more is read
    assert all(photos.content(photos.train[index]) for index in range(4))


def test_an_interrupted_pack_is_resumed(source: Path, shards: Path, tmp_path: Path, monkeypatch: Any) -> None:
    measured, real = [], packing.measure

    def measure(found: Any) -> Any:
        measured.append(1)
        if len(measured) == 15:
            raise OSError(28, "No space left on device")
        return real(found)

    monkeypatch.setattr(packing, "measure", measure)
    output = tmp_path / "shards"
    with pytest.raises(OSError, match="No space"):
        packed(source, output)
    done = {path.name: path.stat().st_mtime_ns for path in output.glob("*.tar")}
    assert done and not (output / "index.json").exists()
    packed(source, output)
    assert {name: (output / name).stat().st_mtime_ns for name in done} == done
    for path in [*shards.glob("shard-*"), shards / "index.json", shards / "index.npy"]:
        assert (output / path.name).read_bytes() == path.read_bytes(), path.name
    with pytest.raises(UserError, match="other photos or options"):
        packed(source, output, "short_px=32")


@pytest.fixture
def few_open_files() -> Iterator[None]:
    """30 files more than there are."""
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    spare = [os.open(os.devnull, os.O_RDONLY) for _ in range(30)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(spare) + 1, limits[1]))
    for number in spare:
        os.close(number)
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_small_copies_and_no_copy_twice(
    source: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, few_open_files: None
) -> None:
    caplog.set_level("INFO", "colorize")
    words = ("short_px=40", "quality=80", "deduplicate=true", "shard_mb=0.001")
    output = packed(source, tmp_path / "shards", *words)
    photos = list_shards(str(output), SPLIT, tmp_path)
    assert len(list(output.glob("*.tar"))) == 42, "more than files can be open"
    assert len(photos.train) + len(photos.val) == 39 and "1 copies left out" in caplog.text
    assert min(load_rgb(photos.content(photos.val[0])).size) == 40
    assert photos.content(photos.train[0]).startswith(b"\xff\xd8")  # a JPEG
    for name in photos.train:
        small, full = (
            np.asarray(load_square(file, 32, center_box), np.float32) for file in (photos.content(name), source / name)
        )
        assert np.abs(small - full).mean() < 8, name


def test_the_split_stays_when_photos_come_and_val_is_taken_over(source: Path, shards: Path, tmp_path: Path) -> None:
    photos = list_shards(str(shards), SPLIT, tmp_path)
    before = {name: part for part in ("train", "val") for name in photos.of_split(part)}
    more = tmp_path / "more"
    (more / "new").mkdir(parents=True)
    for folder in ("a", "b"):
        (more / folder).symlink_to(source / folder)
    draw_photo(200).save(more / "new" / "x.jpg")
    added = list_shards(str(packed(more, tmp_path / "added")), SPLIT, tmp_path)
    after = {name: part for part in ("train", "val") for name in added.of_split(part)}
    assert after.pop("new/x.jpg") and after == before
    assert list(list_shards(str(shards), Split(0.25, 3, 0.5, 2), tmp_path).val) == list(photos.val[:2])
    split = tmp_path / "split"
    split.mkdir()
    (split / "train").symlink_to(source / "a")
    (split / "val").symlink_to(source / "b")
    stated = list_shards(str(packed(split, tmp_path / "stated")), SPLIT, tmp_path)
    assert {name[:4] for name in stated.val} == {"val/"} and {name[:6] for name in stated.train} == {"train/"}
    assert len(stated.val) == 20 and stated.content(stated.val[3]) == (split / stated.val[3]).read_bytes()


@pytest.mark.parametrize("size", [7, BLOCK, 3 * BLOCK + 100])
def test_an_epoch_has_every_photo_once_on_any_number_of_ranks(size: int) -> None:
    order = BlockOrder(size, 1, 5)
    assert sorted(order[:].tolist()) == list(range(size)) and order[:].tolist() != BlockOrder(size, 1, 6)[:].tolist()
    alone = list(GlobalBatches(size, 48, lambda: BlockOrder(size, 1, 5)))
    assert alone[-1] == order[(len(alone) - 1) * 48 : len(alone) * 48].tolist()
    shares = [list(GlobalBatches(size, 48, lambda: BlockOrder(size, 1, 5), rank, 3)) for rank in range(3)]
    joined = [sorted(chain(*parts)) for parts in zip(*shares, strict=True)]
    assert joined == [sorted(batch) for batch in alone]
    resumed = GlobalBatches(size, 48, lambda: order)
    resumed.first = len(alone) // 2
    assert list(resumed) == alone[len(alone) // 2 :]
    later = GlobalBatches(size, 2, lambda: order)
    later.start, later.count = 3, 2
    assert list(later) == [order[3:5].tolist(), order[5:7].tolist()], "a part of the order, which is sliced once"


def test_chosen_rows_are_found_by_their_places() -> None:
    mask = np.random.default_rng(0).random(3 * BLOCK + 5) < 0.4
    mask[BLOCK : 2 * BLOCK] = False
    chosen = Chosen(mask)
    assert np.array_equal(chosen[np.arange(len(chosen))], np.flatnonzero(mask)) and np.array_equal(chosen.mask(), mask)


class Ranges(SimpleHTTPRequestHandler):
    """Serves parts of files, as clouds do; the first request for a shard fails."""

    failed: list[str] = []  # noqa: RUF012

    def do_GET(self) -> None:
        path, wanted = Path(self.translate_path(self.path)), self.headers.get("Range")
        content = path.read_bytes()
        if "shard" in path.name and not self.failed:
            self.failed.append(path.name)
            return self.send_error(503)
        if wanted:
            first, last = map(int, wanted.removeprefix("bytes=").split("-"))
            content = content[first : last + 1]
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
        return None

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def url(shards: Path) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Ranges, directory=str(shards))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_shards_below_a_url(url: str, shards: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("colorize.data.shards.time.sleep", lambda _: None)
    local, remote = (list_shards(root, SPLIT, tmp_path) for root in (str(shards), url))
    assert_equal(batches(remote, remote.train), batches(local, local.train))
    assert Ranges.failed and len(list((tmp_path / ".cache").glob("shards-*.npy"))) == 1
    memory = fsspec.filesystem("memory")
    memory.put(f"{shards}/", "/packed/", recursive=True)
    in_memory = list_shards("memory://packed", SPLIT, tmp_path)
    assert in_memory.content(remote.val[0]) == local.content(remote.val[0])


def test_what_is_not_whole_is_told_in_a_line(shards: Path, tmp_path: Path) -> None:
    def told(match: str) -> None:
        with pytest.raises(UserError, match=match) as raised:
            list_shards(str(copy), SPLIT, tmp_path)
        assert "\n" not in str(raised.value)

    copy = tmp_path / "copy"
    told("has no index.json: run colorize.pack .*, or take data=folder")
    copy.mkdir()
    for path in shards.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    photos = list_shards(str(copy), SPLIT, tmp_path)
    row = photos.reader.index[0]
    shard = copy / "shard-00000.tar"
    content = bytearray(shard.read_bytes())
    content[int(row["offset"]) : int(row["offset"]) + 99] = bytes(99)
    shard.write_bytes(content)  # a damaged header: the photo is named by its place, skipped and counted
    found = batches(photos, photos.train if 0 in photos.train.rows[np.arange(len(photos.train))] else photos.val)
    assert found[0].names and {name for batch in found for name, _ in batch.unreadable} == {
        f"shard-00000.tar@{row['offset']}"
    }
    shard.write_bytes(content[:-1])
    told("shard-00000.tar has .* bytes, not")
    shard.write_bytes(content)
    index, contents = (copy / "index.npy").read_bytes(), (copy / "index.json").read_text()
    (copy / "index.npy").write_bytes(index[:-100])
    told("shards whole and unchanged")
    (copy / "index.npy").write_bytes(index)
    (copy / "index.json").write_text(contents.replace('"format": 1', '"format": 2'))
    told("format 2; this program reads 1")
    (copy / "index.json").write_text(json.dumps(json.loads(contents) | {"photos": 0, "shard_bytes": []}))
    np.save(copy / "index.npy", photos.reader.index[:0])
    told("holds no photos")
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "a.jpg").write_bytes(b"no photo")
    (broken / "b.jpg").write_bytes(b"")
    with pytest.raises(UserError, match=r"no photo can be read: .*a\.jpg.*remove .*none"):
        packed(broken, tmp_path / "none")


def words_of(shards: Path, runs: Path) -> list[str]:
    words = ["data=shards", f"data.root='{shards}'", f"runs_dir='{runs}'", "data.val_fraction=0.25"]
    words += ["data.num_workers=0", "trainer.accelerator=cpu", "trainer.precision=32-true", "recipe=paper"]
    return [*words, "data.min_colourfulness=15", "data.train_fraction=1"]


@pytest.fixture
def words(shards: Path, tmp_path: Path) -> list[str]:
    """Options of any command on shards."""
    return words_of(shards, tmp_path)


def generating(words: list[str], checkpoint: Path) -> Any:
    words = [word for word in words if not word.startswith("data.min")] + ["data.min_colourfulness=null"]
    return configured("generate", [*words, f"checkpoint='{checkpoint}'", "size_px=32", "batch_size=8"])


def saved(config: Any, output: Path, **options: Any) -> Path:
    """Step 2's images, in 16 a shard."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "IMAGES", 16)
        generate.run(replace(config, output=str(output), **options))
    return output


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("weights") / "last.ckpt")


@pytest.fixture(scope="module")
def images(shards: Path, checkpoint: Path) -> Path:
    """Step 2's images of all 40 photos."""
    runs = checkpoint.parent
    return saved(generating(words_of(shards, runs), checkpoint), runs / "images")


def critic(words: list[str], images: Path) -> list[str]:
    sizes = ["resolution.size_px=[32]", "resolution.batch_size=[8]", "resolution.epochs=[1]", "data.val_size_px=32"]
    tiny = [word for word in TINY if word.startswith(("model", "ema", "trainer.enable"))]
    return [*words, *tiny, *sizes, "phase=pretrain_critic", f"generated='{images}'"]


def test_generated_images_of_shards_train_a_critic(words: list[str], images: Path) -> None:
    config = configured("train", critic(words, images))
    everything = build.make_datamodule(config).photos
    colours = everything.reader.index["colourfulness"]
    config.data.min_colourfulness = float(np.median(colours))
    data = build.make_datamodule(config)
    data.schedule = build.make_schedule(config)
    batch = next(iter(data.train_loader(0)))
    assert len(batch.names) == 8 and batch.fake.shape == batch.rgb.shape == (8, 3, 32, 32)
    assert len(everything.of_split("all")) == data.generated.reader.contents.photos == 40
    bright = everything.mask("train") & (colours >= np.median(colours))
    assert np.array_equal(data.photos.mask("train"), bright) and 8 < bright.sum() < len(everything.train)
    assert list(data.photos.val) == list(everything.val)
    config.data.min_colourfulness = 200.0
    with pytest.raises(UserError, match=r"min_colourfulness=200 leaves no training photo in .*shards: lower it"):
        build.make_datamodule(config)
    assert {path.suffix for path in images.iterdir()} == {".tar", ".npy", ".json", ".txt", ""}
    assert len(list(images.glob("*.tar"))) == 3


def test_images_and_batches_of_the_critic_are_those_of_the_folder(
    words: list[str], source: Path, shards: Path, images: Path, checkpoint: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    photos, folder = list_shards(str(shards), SPLIT, tmp_path), list_folder(source, SPLIT)
    names = list(photos.of_split("all"))
    assert len(names) == 40 and ODD in names
    for name in names:  # without what is none, so that all batches have one size
        (tmp_path / "good" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "good" / name).symlink_to(source / name)
    config = generating(words, checkpoint)
    config.data = replace(config.data, kind="folder", root=str(tmp_path / "good"))
    (_, packed_images), (_, files) = (
        with_saved_images(*given) for given in ((photos, images), (folder, saved(config, tmp_path / "files")))
    )
    for name in names:
        assert packed_images.content(name) == files.content(name).read_bytes()
    alone, fetch = [], Reader.fetch
    monkeypatch.setattr(Reader, "fetch", lambda *given, **options: (alone.append(options), fetch(*given, **options)))
    one, two = (
        batches(source_, source_names, generated)
        for source_, source_names, generated in (
            (photos, photos.train, packed_images),
            (folder, list(photos.train), files),
        )
    )
    assert_equal(one, two)
    assert alone and not any(alone), "all is read ahead"
    mixed, _ = with_saved_images(folder, images)  # photos in files, their images in shards
    assert set(mixed.of_split("all")) == set(names)


def test_a_stopped_generate_makes_the_shards_that_are_not_whole_and_mixes_nothing(
    words: list[str], images: Path, shards: Path, checkpoint: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    config, output, write = generating(words, checkpoint), tmp_path / "stopped", packing.write_shard

    def full(folder: Path, number: int, photos: Any) -> None:
        if number == 1:
            raise OSError(28, "No space left on device")
        write(folder, number, photos)

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
        patch.setattr(packing, "write_shard", full)
        saved(config, output)
    with pytest.raises(UserError, match="is unfinished"):
        with_saved_images(list_shards(str(shards), SPLIT, tmp_path), output)
    first = (output / "shard-00000.tar").stat().st_mtime_ns
    assert not (output / "shard-00001.tar").exists()
    saved(config, output)
    assert (output / "shard-00000.tar").stat().st_mtime_ns == first
    assert content_of(output) == content_of(images)

    def refused(match: str, **options: Any) -> None:
        with pytest.raises(UserError, match=match) as raised:
            saved(config, output, **options)
        assert "\n" not in str(raised.value)

    refused("images of 32 px .* not images of 48 px", size_px=48)
    refused("of photos [0-9a-f]{8}, not .* of photos [0-9a-f]{8}:", split="val")
    manifest = output / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"checkpoint_sha256": "', '"checkpoint_sha256": "0'))
    refused(r"holds .*last.ckpt \(0")
    manifest.unlink()
    refused("holds other shards")


def content_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}


def test_an_unreadable_photo_has_no_image_and_is_named(
    words: list[str], shards: Path, checkpoint: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in shards.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    photos = list_shards(str(copy), SPLIT, tmp_path)
    name, row = photos.train[2], photos.reader.index[photos.train.rows[np.array([2])][0]]
    with (copy / f"shard-{row['shard']:05}.tar").open("r+b") as file:
        file.seek(int(row["offset"]) + int(row["length"]) // 2)
        file.write(bytes(int(row["length"]) // 2))
    config = generating(words, checkpoint)
    config.data.root = str(copy)
    output = saved(config, tmp_path / "images")
    assert (output / "unreadable.txt").read_text().startswith(f"{name}: ")
    kept, images = with_saved_images(photos, output)
    assert name not in kept.of_split("all") and len(kept.train) > 20
    with pytest.raises(UnreadableImage, match="not in the shards"):
        images.content(name)


@pytest.mark.slow
def test_two_ranks_write_the_same_shards_of_images(
    words: list[str], images: Path, checkpoint: Path, tmp_path: Path
) -> None:
    config, two = generating(words, checkpoint), tmp_path / "two"
    config.trainer.devices = 2
    for failed in on_ranks(lambda rank: saved(config, two)):
        if isinstance(failed, BaseException):
            raise failed
    assert content_of(images) == content_of(two) and len(list(two.glob("*.tar"))) == 3


@pytest.mark.slow
def test_evaluate_and_a_training_take_shards(words: list[str], images: Path, checkpoint: Path, tmp_path: Path) -> None:
    train.run(configured("train", critic(words, images)))
    assert (tmp_path / "default" / "pretrain_critic" / "checkpoints" / "best.ckpt").exists()
    none = [f"weights.{name}=none" for name in ("lpips_alex", "lpips_vgg", "fid")]
    evaluate.run(configured("evaluate", [*words, f"checkpoint='{checkpoint}'", *none, f"output='{tmp_path}/scores'"]))
    assert (tmp_path / "scores" / "metrics.md").exists()
