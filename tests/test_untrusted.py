"""Files of strangers: weights run nothing, pixels are bounded before they are decoded, lists stay in their folder."""

import json
import pickle
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from colorize import config as schemas
from colorize import evaluate, export, generate, pipeline, predict, train
from colorize.data.generated import Manifest, read_manifest
from colorize.data.images import center_box, load_rgb, load_square, read_thumbnail
from colorize.data.sources import Split, list_folder
from colorize.evaluation.candidates import match_coloured
from colorize.photos import reading
from colorize.photos.opening import UnreadableImage
from colorize.runs import PhaseFolder
from colorize.runtime import schema
from colorize.runtime.errors import UserError
from colorize.weights.load import load_weights
from tests.conftest import draw_photo
from tests.test_evaluation import PLAIN, configured, save_checkpoint

Configure = Callable[..., Any]


class Code:
    """Makes a file where it is unpickled by something that executes what it reads."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.trace,)


KINDS: dict[str, Callable[[Any, Path], None]] = {
    "zip": lambda code, path: torch.save({"state_dict": {}, "colorize": code}, path),
    "old": lambda code, path: torch.save({"model": code}, path, _use_new_zipfile_serialization=False),
    "pickle": lambda code, path: path.write_bytes(pickle.dumps(code)) and None,
}


@pytest.mark.parametrize("kind", ["zip", *(pytest.param(k, marks=pytest.mark.slow) for k in ("old", "pickle"))])
def test_no_command_executes_what_is_in_a_file(configure: Configure, tmp_path: Path, kind: str) -> None:
    trace, bad = tmp_path / "executed", tmp_path / "bad.pth"
    KINDS[kind](Code(trace), bad)
    good = save_checkpoint(tmp_path / "good.ckpt")

    def training(*words: str) -> Callable[[], object]:
        return lambda: train.run(configure("train", "phase=pretrain_gen", "resume=auto", *words))

    def critics(*words: str) -> Callable[[], object]:
        folder = tmp_path / "generated"
        folder.mkdir(exist_ok=True)
        names = [path.relative_to(root).as_posix() for path in root.rglob("*.jpg")]
        Manifest("", "", 32, names, [], True).write(folder)
        return lambda: train.run(configure("train", "phase=pretrain_critic", f"generated='{folder}'", *words))

    def started() -> object:
        config = configure("train", "phase=pretrain_gen", "resume=auto", "run=started")
        folder = PhaseFolder(config.runs_dir, config.run, config.phase)
        folder.checkpoints.mkdir(parents=True, exist_ok=True)
        folder.last.write_bytes(bad.read_bytes())
        return train.run(config)

    def summed_up() -> object:
        config = configure("pipeline", "run=started")
        for phase in ("pretrain_gen", "gan"):
            best = PhaseFolder(config.runs_dir, config.run, phase).best
            best.parent.mkdir(parents=True, exist_ok=True)
            best.write_bytes(bad.read_bytes())
        return pipeline.summarize(config)

    def measured(*words: str) -> Callable[[], object]:
        return lambda: evaluate.run(configured(tmp_path, "data=folder", f"data.root={root}", *PLAIN, *words))

    def with_words(kind: type, run: Callable[[Any], object], **words: Any) -> Callable[[], object]:
        return lambda: run(kind(**words))

    root = Path(configure("train", "phase=gan").data.root)
    commands = {
        "init_from.generator": training(f"init_from.generator='{bad}'"),
        "model.encoder_weights": training(f"model.encoder_weights='{bad}'"),
        "model.vgg_weights": training("loss.feature_weights=[1,1,1]", f"model.vgg_weights='{bad}'"),
        "init_from.critic": critics(f"init_from.critic='{bad}'"),
        "model.critic_weights": critics(f"model.critic_weights='{bad}'"),
        "resume": started,
        "pipeline": summed_up,
        "generate": lambda: generate.run(configure("generate", f"checkpoint='{bad}'")),
        "evaluate": measured(f"checkpoint=[{bad}]"),
        "lpips": measured(f"checkpoint=[{good}]", f"weights.lpips_alex={bad}"),
        "fid": measured(f"checkpoint=[{good}]", f"weights.fid={bad}"),
        "predict": with_words(
            schemas.PredictConfig, predict.run, checkpoint=str(bad), input=[str(root)], output=str(tmp_path / "out")
        ),
        "export": with_words(
            schemas.ExportConfig, export.run, checkpoint=str(bad), output=str(tmp_path / "a.safetensors")
        ),
    }
    for name, run in commands.items():
        with pytest.raises((UserError, schema.BadOption)) as caught:
            run()
        assert "bad.pth" in str(caught.value) or "/started/" in str(caught.value), (name, str(caught.value))
        assert not trace.exists(), name


@pytest.mark.parametrize(
    ("stated", "said"),
    [
        ({"generator": {"width_factor": 3.0}}, "does not fit the architecture it states"),
        ({"generator": {"width_factor": 1e300}}, "does not state its network in a way"),
        ({"generator": {"encoder": "resnet12"}}, "does not state its network in a way"),
        ({"generator": None, "critic": 5}, "is not a checkpoint of this program"),
        ({"size_px": 10**9}, "is not a checkpoint of this program"),
        ({"curve": [{"images_seen": 5}]}, "is not a checkpoint of this program"),
        ({"averaged": True}, "lacks the averaged weights that it states"),
        ({"stretched": True}, "a tensor of .* has 4 bytes"),
    ],
)
def test_what_a_checkpoint_states_takes_neither_memory_nor_a_trace(
    tmp_path: Path, stated: dict[str, Any], said: str
) -> None:
    content = torch.load(save_checkpoint(tmp_path / "a.ckpt"), weights_only=True)
    card = content["colorize"]
    if "stretched" in stated:
        stated, name = {}, "generator.bottom_norm.weight"
        content["state_dict"][name] = torch.zeros(1).expand(content["state_dict"][name].shape)
    if stated.get("generator"):
        stated["generator"] = card["generator"] | stated["generator"]
    content["colorize"] = card | stated
    torch.save(content, tmp_path / "a.ckpt")
    with pytest.raises(UserError, match=said) as caught:
        load_weights(tmp_path / "a.ckpt")
    assert "\n" not in str(caught.value)


# --- pixels -----------------------------------------------------------------------------------------------------------


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png_bomb(side: int) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    zeros = zlib.compress(bytes(side * 3 + 1) * 64, 9)
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zeros) + chunk(b"IEND", b"")


def resized(kind: str, marker: bytes, place: int, size: bytes, path: Path) -> bytes:
    """A small picture whose header says another size."""
    draw_photo(0).save(path, format=kind)
    data = bytearray(path.read_bytes())
    start = data.index(marker) + place
    data[start : start + len(size)] = size
    return bytes(data)


BOMBS: dict[str, Callable[[Path], bytes]] = {
    "png": lambda path: png_bomb(30_000),
    "jpeg": lambda path: resized("JPEG", b"\xff\xc0", 5, struct.pack(">HH", 60_000, 60_000), path),
    "gif": lambda path: resized("GIF", b"GIF8", 6, struct.pack("<HH", 60_000, 60_000), path),
    "bmp": lambda path: resized("BMP", b"BM", 18, struct.pack("<II", 60_000, 60_000), path),
    "ppm": lambda path: b"P6 60000 60000 255\n",
    "webp": lambda path: resized("WEBP", b"VP8 ", 14, struct.pack("<HH", 0x3FFF, 0x3FFF), path),
}


@pytest.mark.parametrize("kind", BOMBS)
def test_pixels_are_bounded_before_they_are_decoded_wherever_photos_are_read(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "bomb.jpg"
    path.write_bytes(BOMBS[kind](tmp_path / "small"))
    readers: dict[str, Callable[[], object]] = {
        "training, validation, generate": lambda: load_square(path, 32, center_box),
        "evaluate, coloured folders, saved images": lambda: load_rgb(path),
        "the survey": lambda: read_thumbnail(path, 32),
        "predict": lambda: reading.read(path),
    }
    for name, read in readers.items():
        tracemalloc.start()
        with pytest.raises(UnreadableImage, match="more than 200 million pixels"):
            read()
        assert tracemalloc.get_traced_memory()[1] < 2_000_000, name
        tracemalloc.stop()


# --- paths ------------------------------------------------------------------------------------------------------------


def test_a_manifest_names_nothing_outside_its_folder_and_has_its_types(tmp_path: Path) -> None:
    good = asdict(Manifest("a.ckpt", "0" * 64, 32, ["a/b.jpg", "..jpg/c.jpg"], ["d.jpg"], True))
    wrong: dict[str, list[Any]] = {
        "images": [["../x.jpg"], ["a/../../x.jpg"], ["/etc/x.jpg"], [3], "abc", None, {"a": 1}],
        "unreadable": [["../x.jpg"], 5],
        "size_px": ["32", -1, True, 1e9],
        "complete": ["yes", 1],
        "format": [2, None],
        "other": [1],
    }
    for key, values in wrong.items():
        for value in values:
            (tmp_path / "manifest.json").write_text(json.dumps(good | {key: value}))
            with pytest.raises(UserError, match=r"manifest\.json"):
                read_manifest(tmp_path)
    (tmp_path / "manifest.json").write_text(json.dumps(good))
    assert read_manifest(tmp_path).images == good["images"]


def test_links_of_the_users_own_are_followed_and_never_written_through(configure: Configure, tmp_path: Path) -> None:
    """Who may put a link into a data folder may as well put the photos there; what is written replaces a link."""
    root, elsewhere, out = tmp_path / "photos", tmp_path / "elsewhere", tmp_path / "out"
    elsewhere.mkdir()
    root.mkdir()
    for index in range(3):
        draw_photo(index).save(elsewhere / f"{index}.jpg")
    (root / "album").symlink_to(elsewhere)
    (root / "0.jpg").symlink_to(elsewhere / "0.jpg")
    found = list_folder(root, Split(0.3, seed=0))
    assert sorted(found.train + found.val) == ["0.jpg", "album/0.jpg", "album/1.jpg", "album/2.jpg"]
    out.mkdir()
    (out / "0.jpg.png").symlink_to(elsewhere / "new.png")  # to nothing: not there, and so is made
    checkpoint = save_checkpoint(tmp_path / "a.ckpt")
    words = (f"data.root='{root}'", "data.train_fraction=1", "size_px=32", f"checkpoint='{checkpoint}'")
    generate.run(configure("generate", *words, f"output='{out}'"))
    assert not (out / "0.jpg.png").is_symlink() and sorted(path.name for path in elsewhere.iterdir()) == [
        f"{index}.jpg" for index in range(3)
    ]
    assert match_coloured(found, found.val, out).keys() >= set(found.val)
    with Image.open(out / "album" / "1.jpg.png") as saved:
        assert saved.size == (32, 32)
