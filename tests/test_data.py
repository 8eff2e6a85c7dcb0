"""The data room: files of every kind become the same RGB, splits stay put, batches depend on seed, epoch and image."""

import io
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from colorize.config.sections import DataConfig
from colorize.data import images
from colorize.data.from_config import list_photos
from colorize.data.images import Box, center_box, cut_square, load_rgb, load_square, random_box, save_png
from colorize.data.sources import Photos, Split, list_folder
from colorize.data.tensors import to_pil, to_uint8
from colorize.photos.opening import UnreadableImage
from colorize.runtime.errors import UserError


def picture(width: int = 48, height: int = 32, seed: int = 0) -> Image.Image:
    """A smooth colour gradient, different for each seed, without symmetry."""
    y, x = np.mgrid[0:height, 0:width] / max(width, height)
    phase = random.Random(seed).uniform(0, 6)
    channels = [0.5 + 0.4 * np.sin(phase + 3 * x), 0.2 + 0.6 * y, 0.8 - 0.5 * x * y]
    return Image.fromarray((np.stack(channels, -1) * 255).round().astype(np.uint8))


def grey_picture() -> Image.Image:
    return picture().convert("L").convert("RGB")


def difference(image: Image.Image, expected: Image.Image) -> float:
    assert image.mode == expected.mode == "RGB" and image.size == expected.size
    return float(np.abs(np.asarray(image, dtype=float) - np.asarray(expected, dtype=float)).max())


# ------------------------------------------------------------------------------------------------ files to pictures


def write_sixteen_bit(path: Path, suffix: str) -> None:
    values = np.asarray(grey_picture())[..., 0].astype(np.uint16) * 257
    if suffix == "pgm":
        path.write_bytes(b"P5 48 32 65535\n" + values.astype(">u2").tobytes())
    else:
        Image.fromarray(values).save(path, format=suffix)


def write_animation(path: Path, **options: Any) -> None:
    picture().save(path, save_all=True, append_images=[picture(seed=5)], **options)


def write_with_alpha(path: Path) -> None:
    """Left half opaque, right half invisible over a colour that must not show."""
    rgba = picture().convert("RGBA")
    rgba.paste((0, 0, 0, 0), (24, 0, 48, 32))
    rgba.save(path)


def half_white() -> Image.Image:
    expected = picture()
    expected.paste("white", (24, 0, 48, 32))
    return expected


def write_transparent_palette(path: Path) -> None:
    palette = Image.new("P", (48, 32), 0)
    palette.putpalette([0, 0, 0, 200, 40, 90])
    palette.paste(1, (0, 0, 24, 32))
    palette.save(path, transparency=0)


def half_pink() -> Image.Image:
    expected = Image.new("RGB", (48, 32), "white")
    expected.paste((200, 40, 90), (0, 0, 24, 32))
    return expected


def write_turned(path: Path, orientation: int, image: Image.Image | None = None) -> None:
    """Stores the pixels turned so that the EXIF tag turns them back (each of these undoes itself or its partner)."""
    undo = {6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270, 5: Image.Transpose.TRANSPOSE}
    undo |= {7: Image.Transpose.TRANSVERSE, 2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180}
    undo |= {4: Image.Transpose.FLIP_TOP_BOTTOM}
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = image or picture()
    stored = image if orientation == 1 else image.transpose(undo[orientation])
    stored.save(path, exif=exif, quality=98)


KINDS: dict[str, tuple[str, Callable[[Path], None], Callable[[], Image.Image], float]] = {
    "png": ("png", lambda p: picture().save(p), picture, 0),
    "bmp": ("bmp", lambda p: picture().save(p), picture, 0),
    "ppm": ("ppm", lambda p: picture().save(p), picture, 0),
    "tiff": ("tif", lambda p: write_animation(p, compression="tiff_lzw"), picture, 0),
    "webp": ("webp", lambda p: write_animation(p, lossless=True), picture, 0),
    "gif": ("gif", lambda p: write_animation(p), picture, 40),
    "grey": ("png", lambda p: grey_picture().convert("L").save(p), grey_picture, 0),
    "grey-alpha": ("png", lambda p: grey_picture().convert("LA").save(p), grey_picture, 0),
    "16-bit png": ("png", lambda p: write_sixteen_bit(p, "png"), grey_picture, 0),
    "16-bit tiff": ("tif", lambda p: write_sixteen_bit(p, "tiff"), grey_picture, 0),
    "16-bit pgm": ("ppm", lambda p: write_sixteen_bit(p, "pgm"), grey_picture, 0),
    "cmyk": ("jpg", lambda p: picture().convert("CMYK").save(p, quality=98), picture, 12),
    "ycbcr": ("tif", lambda p: picture().convert("YCbCr").save(p), picture, 3),
    "mislabelled": ("jpg", lambda p: picture().save(p, format="PNG"), picture, 0),
    "alpha": ("png", write_with_alpha, half_white, 0),
    "palette with transparency": ("png", write_transparent_palette, half_pink, 0),
    **{f"exif {o}": ("jpg", partial(write_turned, orientation=o), picture, 8) for o in range(2, 9)},
    "exif in png": ("png", lambda p: write_turned(p, 6), picture, 0),
    "exif in webp": ("webp", lambda p: picture().transpose(Image.Transpose.ROTATE_90).save(
        p, lossless=True, exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"), picture, 0),
    "exif in tiff": ("tif", lambda p: write_turned(p, 8), picture, 0),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_file_becomes_the_same_rgb(kind: str, tmp_path: Path) -> None:
    suffix, write, expect, tolerance = KINDS[kind]
    path = tmp_path / f"it's Фото (1), a=b.{suffix}"
    write(path)
    expected = expect()
    rgb = load_rgb(path)
    assert difference(rgb, expected) <= tolerance and not rgb.info
    # An off-centre part, so that a box turned the wrong way would show.
    box = (4, 2, 28, 26)
    square = load_square(path, 24, lambda width, height: box if (width, height) == (48, 32) else pytest.fail("size"))
    assert difference(square, expected.crop(box)) <= tolerance


def bad_files(folder: Path) -> Iterator[Path]:
    stream = io.BytesIO()
    picture(200, 200).save(stream, "JPEG")
    contents = {
        "truncated.jpg": stream.getvalue()[:-1500],
        "empty.png": b"",
        "text.jpg": b"<html>404 not found</html>",
        "header only.png": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
        "bad.gif": b"GIF89a\xff\xff\xff\xff",
        "bad.webp": b"RIFF\x24\0\0\0WEBPVP8 " + bytes(20),
        "bad.tif": b"II*\0\x08\0\0\0\xff\xff" + bytes(40),
        # Headers alone, of 400, 202 and 121 million pixels: Pillow's own limits would raise, raise and warn.
        "bomb.ppm": b"P6 20000 20000 255\n",
        "small bomb.ppm": b"P6 15000 13500 255\n",
        "no bomb.ppm": b"P6 11000 11000 255\n",
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
        yield folder / name
    Image.new("F", (8, 8)).save(folder / "float.tif")
    yield folder / "float.tif"
    (folder / "folder.jpg").mkdir()
    yield folder / "folder.jpg"
    yield folder / "missing.jpg"


def test_bad_files_raise_one_error_with_a_short_reason(tmp_path: Path) -> None:
    for path in bad_files(tmp_path):
        for load in (load_rgb, partial(load_square, size_px=8, choose_box=center_box)):
            with pytest.raises(UnreadableImage) as caught:
                load(path)
            assert 0 < len(str(caught.value)) <= 200 and "\n" not in str(caught.value), path
            assert ("200 million" in str(caught.value)) == (path.name in ("bomb.ppm", "small bomb.ppm"))


def test_a_wrong_box_is_a_programming_error(tmp_path: Path) -> None:
    picture().save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="leaves the photo"):
        load_square(tmp_path / "a.png", 8, lambda width, height: (0, 0, width + 1, height))
    with pytest.raises(ZeroDivisionError):
        load_square(tmp_path / "a.png", 8, lambda width, height: (0, 0, 1 / 0, height))


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_jpegs_are_decoded_reduced_as_far_as_the_size_allows(
    orientation: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.jpg"
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture(1003, 701).save(path, quality=95, exif=exif)  # 701 / 8 is not whole, and Pillow rounds up
    full = load_rgb(path)
    decoded: list[tuple[int, int]] = []

    def spy(image: Image.Image, size_px: int, box: Box) -> Image.Image:
        decoded.append(image.size)
        return cut_square(image, size_px, box)

    monkeypatch.setattr(images, "cut_square", spy)
    for size_px, reduced in ((64, (126, 88)), (87, (126, 88)), (88, (251, 176)), (300, (502, 351)), (400, (1003, 701))):
        square = load_square(path, size_px, center_box)
        assert decoded[-1] == reduced
        assert difference(square, cut_square(full, size_px, center_box(*full.size))) <= 4
    # The part counts, not the picture; and its corner, where rounded sizes would shift it most.
    right, bottom = full.size
    corner = (right - 160.5, bottom - 160.5, float(right), float(bottom))
    square = load_square(path, 80, lambda width, height: corner)
    assert decoded[-1] == (502, 351)
    assert difference(square, cut_square(full, 80, corner)) <= 4


def test_random_boxes_keep_area_and_ratio_and_fall_back_to_the_centre() -> None:
    rng = random.Random(0)
    for _ in range(200):
        left, top, right, bottom = random_box(rng, (0.5, 1.0), (0.75, 4 / 3))(300, 200)
        assert 0 <= left < right <= 300 and 0 <= top < bottom <= 200
        assert 0.5 - 1e-9 <= (right - left) * (bottom - top) / 60000 <= 1
        assert 0.75 - 1e-9 <= (right - left) / (bottom - top) <= 4 / 3 + 1e-9
    assert random_box(rng, (0.9, 1.0), (0.75, 4 / 3))(1000, 101) == center_box(1000, 101) == (449, 0, 550, 101)


def test_saving_is_lossless_and_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "new" / ("x" * 251 + ".png")  # the longest name there is
    tensor = to_uint8(picture()) / 255
    save_png(to_pil(tensor), path)
    assert difference(load_rgb(path), picture()) == 0
    assert to_pil(torch.tensor([-1.0, 0.5, 2.0]).view(3, 1, 1)).getpixel((0, 0)) == (0, 128, 255)
    monkeypatch.setattr(os, "replace", lambda *paths: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        save_png(picture(seed=1), path)
    assert difference(load_rgb(path), picture()) == 0 and len(list(path.parent.iterdir())) == 1


# ---------------------------------------------------------------------------------------- which pictures there are


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


NAMES = [f"{folder}/{index}.jpg" for folder in ("a", "b c", "Фото", "写真 'x' =,#") for index in range(25)]


def test_a_folder_is_listed_whole_without_hidden_and_other_files(tmp_path: Path) -> None:
    root = touch(
        tmp_path / "root", *NAMES, "top.JPEG", "c/d.TIFF", "notes.txt", ".hidden.jpg", ".git/x.png", "e/._f.jpg"
    )
    (root / "a" / "loop").symlink_to(root, target_is_directory=True)
    (root / "self").symlink_to("self")
    (root / "gone.jpg").symlink_to("nowhere.jpg")
    touch(tmp_path / "elsewhere", "linked.png")
    (root / "link").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    photos = list_folder(root, Split(0.2, seed=1))
    assert sorted(photos.train + photos.val) == sorted([*NAMES, "top.JPEG", "c/d.TIFF", "link/linked.png"])
    assert photos.train == sorted(photos.train) and photos.path("a/1.jpg") == root / "a" / "1.jpg"
    assert 10 <= len(photos.val) <= 32 and len({name.split("/")[0] for name in photos.val[:8]}) > 1


def test_the_split_of_an_image_depends_on_nothing_but_itself(tmp_path: Path) -> None:
    before = list_folder(touch(tmp_path, *NAMES), Split(0.2, seed=1))
    assert before == list_folder(tmp_path, Split(0.2, seed=1)) != list_folder(tmp_path, Split(0.2, seed=2))
    touch(tmp_path, *(f"new/{index}.png" for index in range(50)))
    after = list_folder(tmp_path, Split(0.2, seed=1))
    assert set(before.val) <= set(after.val) and set(before.train) <= set(after.train)
    assert set(before.val) <= set(list_folder(tmp_path, Split(0.3, seed=1)).val)


def test_fractions_are_nested_and_never_empty(tmp_path: Path) -> None:
    touch(tmp_path, *NAMES)
    parts = [list_folder(tmp_path, Split(0.2, seed=1, train_fraction=share)) for share in (1e-9, 0.1, 0.2, 1.0)]
    for smaller, larger in pairwise(parts):
        assert set(smaller.train) < set(larger.train) and smaller.val == larger.val
    assert len(parts[0].train) == 1 and 8 <= len(parts[2].train) <= 26
    assert list_folder(tmp_path, Split(0.2, seed=1, max_val=3)).val == parts[0].val[:3]
    assert (
        len(list_folder(tmp_path, Split(0.0, seed=1)).val) == 1
        and len(list_folder(tmp_path, Split(1.0, seed=1)).train) == 1
    )


def test_train_and_val_folders_are_the_splits(tmp_path: Path) -> None:
    root = touch(tmp_path, "train/a/1.jpg", "train/2.jpg", "val/3.jpg")
    assert list_folder(root, Split(0.5, seed=0)) == Photos(root, ["train/2.jpg", "train/a/1.jpg"], ["val/3.jpg"])
    (root / "val" / "3.jpg").unlink()
    with pytest.raises(UserError, match=r"no images in .*val"):
        list_folder(root, Split(0.5, seed=0))
    (root / "val").rmdir()
    assert len(list_folder(root, Split(0.5, seed=0)).val) == 1
    touch(root, "test/4.jpg")
    with pytest.raises(UserError, match="beside it test"):
        list_folder(root, Split(0.5, seed=0))


def test_wrong_folders_are_named(tmp_path: Path) -> None:
    def message(root: Path) -> str:
        with pytest.raises(UserError) as caught:
            list_folder(root, Split(0.5, seed=0))
        return str(caught.value)

    file = touch(tmp_path, "empty/notes.txt") / "empty" / "notes.txt"
    assert "no such folder" in message(tmp_path / "nowhere") and "nowhere" in message(tmp_path / "nowhere")
    assert "not a folder" in message(file)
    assert "no images in" in message(file.parent) and "webp" in message(file.parent)
    assert "at least 2" in message(touch(tmp_path / "one", "a.jpg"))
    assert "no folder train" in message(touch(tmp_path / "two", "val/a.jpg", "val/b.jpg"))


def test_imagenet_trees(tmp_path: Path) -> None:
    tree = touch(tmp_path / "ILSVRC/Data/CLS-LOC", "train/n01/a.JPEG", "train/n02/b.JPEG", "val/c.JPEG")
    data = DataConfig(kind="imagenet", root=str(tmp_path), val_fraction=0.1)
    assert list_photos(data, 0, "runs") == Photos(tree, ["train/n01/a.JPEG", "train/n02/b.JPEG"], ["val/c.JPEG"])
    with pytest.raises(UserError, match="train/<class>"):
        list_photos(replace(data, root=str(tree / "train")), 0, "runs")
