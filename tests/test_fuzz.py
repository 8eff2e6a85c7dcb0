"""Mutated pictures, weights and manifests: each is read, or refused by the one error that says so."""

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from colorize.data.generated import Manifest, read_manifest
from colorize.data.images import center_box, load_rgb, load_square, read_thumbnail
from colorize.exporting import weight_files
from colorize.networks.preprocessing import Preprocessing
from colorize.photos import reading
from colorize.photos.opening import MAX_PIXELS, UnreadableImage
from colorize.runtime.errors import UserError
from colorize.weights import foreign
from colorize.weights.checkpoints import CheckpointMetadata, has_average, read_checkpoint
from colorize.weights.load import Weights, load_network, load_weights
from colorize.weights.safe_reading import read_file
from tests.conftest import draw_photo
from tests.test_evaluation import save_checkpoint
from tests.tiny_checkpoint import tiny_unet

pytestmark = pytest.mark.slow

fuzzed = settings(deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))


PLACES = st.floats(0, 1, allow_nan=False) | st.integers(0, 3000) | st.integers(-300, -1)
EDITS = st.lists(
    st.tuples(st.just("byte"), PLACES, st.binary(min_size=1, max_size=1))
    | st.tuples(
        st.just("word"), PLACES, st.sampled_from((b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff", b"\0\0\xff\xff"))
    )
    | st.tuples(st.just("insert"), PLACES, st.binary(min_size=1, max_size=16))
    | st.tuples(st.sampled_from(("cut", "double")), PLACES, st.integers(1, 64))
    | st.tuples(st.just("end"), PLACES, st.none()),
    min_size=1,
    max_size=8,
)


def mutated(original: bytes, edits: list[tuple[str, float, Any]], head: int) -> bytes:
    """`original` with bytes changed, cut out, doubled, put in or cut off: anywhere, in the first `head`, near the end.

    The edits are drawn, not what comes of them: hypothesis keeps what it draws, which would be gigabytes.
    """
    data = bytearray(original)
    for kind, where, what in edits:
        place = (
            int(where * len(data)) if isinstance(where, float) else where % head if where >= 0 else len(data) + where
        )
        place = min(max(place, 0), len(data))
        if kind in ("byte", "word"):
            data[place : place + len(what)] = what
        elif kind == "insert":
            data[place:place] = what
        elif kind == "cut":
            del data[place : place + what]
        elif kind == "double":
            data[place:place] = data[place : place + what]
        else:
            del data[place:]
    return bytes(data)


def pictures() -> list[bytes]:
    photo, made = draw_photo(0, 40, 30), []
    exif = Image.Exif()
    exif[274] = 6
    for kind, mode, more in (
        ("JPEG", "RGB", {"exif": exif}),
        ("JPEG", "L", {"progressive": True}),
        ("JPEG", "CMYK", {}),
        ("PNG", "RGB", {"exif": exif}),
        ("PNG", "P", {}),
        ("PNG", "LA", {}),
        ("TIFF", "RGB", {"compression": "tiff_lzw"}),
        ("TIFF", "L", {}),
        ("TIFF", "RGB", {"compression": "jpeg"}),
        ("WEBP", "RGB", {}),
        ("WEBP", "RGBA", {"lossless": True}),
        ("GIF", "P", {}),
        ("BMP", "RGB", {}),
    ):
        file = io.BytesIO()
        photo.convert(mode).save(file, format=kind, **more)
        made.append(file.getvalue())
    return made


PICTURES = pictures()


@contextmanager
def refused(*errors: type[Exception]) -> Iterator[None]:
    """The errors that say so, in a line that can be printed."""
    try:
        yield
    except errors as error:
        assert str(error) and "\n" not in str(error), repr(error)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


@settings(fuzzed, max_examples=3000)
@given(original=st.sampled_from(range(len(PICTURES))), edits=EDITS)
def test_pictures(folder: Path, original: int, edits: list[tuple[str, float, Any]]) -> None:
    path = folder / "a.jpg"
    path.write_bytes(mutated(PICTURES[original], edits, head=200))
    with refused(UnreadableImage):
        assert load_rgb(path).mode == "RGB"
    with refused(UnreadableImage):
        assert load_square(path, 16, center_box).size == (16, 16)
    with refused(UnreadableImage):
        assert read_thumbnail(path, 8).square.size == (8, 8)
    with refused(UnreadableImage):
        photo = reading.read(path, keep_color=True)
        assert photo.luma.size <= MAX_PIXELS


CARD = [field.name for field in fields(CheckpointMetadata)] + ["other"]


def files_of_weights(folder: Path) -> list[bytes]:
    ours = save_checkpoint(folder / "ours.ckpt", average=True).read_bytes()
    export = weight_files.to_safetensors(Weights(tiny_unet(), Preprocessing(32), "t"))
    tensors = {"a.weight": torch.arange(12.0).view(3, 4), "b": torch.ones(2, dtype=torch.int64)}
    made = [ours, export, safetensors.torch.save(tensors, {"colorize": "{}"})]
    for zipped in (True, False):
        file = io.BytesIO()
        torch.save({"model": tensors}, file, _use_new_zipfile_serialization=zipped)
        made.append(file.getvalue())
    return made


@pytest.fixture(scope="module")
def originals(folder: Path) -> list[bytes]:
    return files_of_weights(folder)


def read_in_every_way(path: Path) -> None:
    for read in (read_file, foreign.load, load_weights, read_checkpoint, has_average):
        with refused(UserError):
            read(path)
    for name in ("generator", "critic"):
        with refused(UserError):
            load_network(path, name)


@settings(fuzzed, max_examples=1000)
@given(original=st.integers(0, 4), edits=EDITS)
def test_weights(folder: Path, originals: list[bytes], original: int, edits: list[tuple[str, float, Any]]) -> None:
    path = folder / "mutated.pth"
    path.write_bytes(mutated(originals[original], edits, head=3000))
    read_in_every_way(path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


ARCHITECTURE = st.dictionaries(
    st.sampled_from([*tiny_unet().architecture, "other"]), JSON | st.floats(0, 1e9), max_size=2
)


@settings(fuzzed, max_examples=200)
@given(
    card=st.dictionaries(st.sampled_from(CARD), JSON, max_size=3), architecture=ARCHITECTURE, stretched=st.booleans()
)
def test_what_checkpoints_and_exports_state(
    folder: Path, card: dict[str, Any], architecture: dict[str, Any], stretched: bool
) -> None:
    """Whatever they say of their network, none is made that their tensors do not fill."""
    stated = tiny_unet().architecture | architecture
    state = {"generator.bottom_norm.weight": torch.zeros(1).expand(10**12)} if stretched else {}
    whole = asdict(CheckpointMetadata("gan", 1, 1, 100, 32, stated, None, 0)) | card
    torch.save({"state_dict": state, "colorize": whole, "callbacks": {}}, folder / "stated.ckpt")
    read_in_every_way(folder / "stated.ckpt")
    preprocessing = {"render_px": next(iter(card.values()), 64)}
    content = {"format": 1, "generator": stated, "preprocessing": preprocessing, "provenance": card.get("curve", {})}
    export = safetensors.torch.save({"a": torch.zeros(1)}, {"colorize": json.dumps(content)})
    (folder / "stated.safetensors").write_bytes(export)
    read_in_every_way(folder / "stated.safetensors")


@settings(fuzzed, max_examples=1500)
@given(data=st.data(), edits=st.just([]) | EDITS)
def test_manifests(folder: Path, data: st.DataObject, edits: list[tuple[str, float, Any]]) -> None:
    good: dict[str, Any] = asdict(Manifest("a.ckpt", "0" * 64, 32, ["a/b.jpg"], ["c.jpg"], True))
    names = st.lists(st.text("./\\~\0aé", max_size=8), max_size=4)
    changed = data.draw(st.dictionaries(st.sampled_from([*good, "other"]), JSON | names, max_size=3))
    text = json.dumps(good | changed).encode()
    (folder / "manifest.json").write_bytes(mutated(text, edits, head=400))
    with refused(UserError):
        manifest = read_manifest(folder)
        for name in manifest.images:
            assert (folder / name).absolute().is_relative_to(folder) and ".." not in Path(name).parts
        assert isinstance(manifest.size_px, int) and isinstance(manifest.complete, bool)
