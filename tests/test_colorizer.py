"""Colorizer: luma stays, colours come from the network at its own size, whatever the picture and the weights' file."""

import ast
import copy
import errno
import importlib.util
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from torch import Tensor, nn

import colorize
from colorize.color import merge_luma, rgb_to_grey, scale_chroma
from colorize.inference.colorizer import Colorizer
from colorize.inference.torch_backend import TorchBackend
from colorize.networks import preprocessing
from colorize.networks.folding import fold_norms
from colorize.networks.preprocessing import Preprocessing
from colorize.networks.unet import UNet
from colorize.photos import reading, rendering
from colorize.photos.reading import Photo
from colorize.photos.rendering import merged_bands
from colorize.runtime.errors import UserError, is_out_of_memory
from colorize.weights import foreign
from tests.conftest import draw_photo
from tests.tiny_checkpoint import SIZE_PX, tiny_unet, write_checkpoint

WEIGHTS = (0.299, 0.587, 0.114)


def make(preprocessing: Preprocessing | None = None, precision: str = "32-true") -> Colorizer:
    return Colorizer(TorchBackend(tiny_unet(), "cpu", precision), preprocessing or Preprocessing(SIZE_PX))


@pytest.fixture(scope="module")
def colorizer() -> Colorizer:
    return make()


def luma_error(coloured: np.ndarray[Any, Any], luma: np.ndarray[Any, Any]) -> float:
    return float(np.abs(coloured[..., :3] @ np.array(WEIGHTS) - luma).max())


def has_colour(coloured: np.ndarray[Any, Any]) -> bool:
    return bool(np.ptp(coloured[..., :3].astype(int), axis=2).max() > 5)


# ------------------------------------------------------------------------------------------------- pictures in and out


def test_a_picture_of_any_kind_keeps_its_luma_and_size(colorizer: Colorizer, tmp_path: Path) -> None:
    photo = draw_photo(0, 81, 63)
    grey = photo.convert("L")
    photo.save(tmp_path / "a.png")
    for given in (photo, grey, tmp_path / "a.png", str(tmp_path / "a.png"), photo.convert("CMYK"), photo.quantize(16)):
        made = colorizer.colorize(given)
        expected = given.convert("RGB").convert("L") if isinstance(given, Image.Image) else grey
        assert (made.mode, made.size) == ("RGB", (81, 63))
        assert luma_error(np.asarray(made), np.asarray(expected, float)) <= 1
        assert has_colour(np.asarray(made))
    transparent = photo.convert("RGBA")
    transparent.paste((0, 0, 0, 0), (0, 0, 20, 20))
    made = colorizer.colorize(transparent)
    assert made.mode == "RGBA"
    assert made.getchannel("A").tobytes() == transparent.getchannel("A").tobytes()
    for array in (np.asarray(photo), np.asarray(grey), np.asarray(grey)[:, ::-1], np.asarray(grey).astype("<u2") * 250):
        made_array = colorizer.colorize(array)
        assert (made_array.shape, made_array.dtype) == ((63, 81, 3), array.dtype)
        luma = np.asarray(grey) if array.ndim == 3 else array
        assert luma_error(made_array, luma) <= 1


@pytest.mark.parametrize(
    "wrong",
    [np.zeros((4, 4)), np.zeros((4, 4, 4), np.uint8), np.zeros((0, 4), np.uint8), np.zeros(9, np.uint8)],
    ids=["float", "four channels", "empty", "flat"],
)
def test_what_is_no_picture_is_refused(colorizer: Colorizer, wrong: np.ndarray[Any, Any]) -> None:
    with pytest.raises(ValueError, match=r"shape"):
        colorizer.colorize(wrong)
    with pytest.raises(ValueError, match="at least 32"):
        colorizer.colorize(np.zeros((9, 9), np.uint8), render_px=31)


def test_a_file_that_is_no_picture_is_named(colorizer: Colorizer, tmp_path: Path) -> None:
    (tmp_path / "page.jpg").write_text("<html>")
    with pytest.raises(UserError, match=r"page\.jpg: not an image"):
        colorizer.colorize(tmp_path / "page.jpg")


def test_pictures_seen_at_one_size_go_together_and_come_back_in_order(
    colorizer: Colorizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = [(80, 60), (60, 80), (160, 120), (81, 60), (60, 80)]
    pictures = [draw_photo(index, *size) for index, size in enumerate(sizes)]
    alone = [np.asarray(colorizer.colorize(picture), int) for picture in pictures]
    seen: list[tuple[int, ...]] = []
    forward = colorizer.backend.network.forward

    def spy(grey: Tensor) -> Tensor:
        seen.append(tuple(grey.shape))
        return forward(grey)

    monkeypatch.setattr(colorizer.backend.network, "forward", spy)
    together = colorizer.colorize_batch(pictures)
    assert sorted(seen) == [(1, 1, 48, 65), (2, 1, 48, 64), (2, 1, 64, 48)]
    for one, other in zip(alone, together, strict=True):
        assert np.abs(one - np.asarray(other, int)).max() <= 1
    assert colorizer.colorize_batch([]) == []


def test_keep_color_leaves_a_photo_with_hues_of_its_own_and_colours_a_toned_one(colorizer: Colorizer) -> None:
    photo = draw_photo(3)
    assert colorizer.colorize(photo, keep_color=True).tobytes() == photo.tobytes()
    assert colorizer.colorize(photo).tobytes() != photo.tobytes()
    luma = np.asarray(photo.convert("L"), float)[..., None] / 255
    sepia = Image.fromarray((255 * (luma * (0.9, 0.7, 0.4) + (0.1, 0.06, 0.0))).astype(np.uint8))
    for toned in (photo.convert("L"), photo.convert("L").convert("RGB"), sepia):
        assert colorizer.colorize(toned, keep_color=True).tobytes() == colorizer.colorize(toned).tobytes()


# ------------------------------------------------------------------------------------- what is shown, and what is made


@pytest.mark.parametrize(
    ("size", "shown"),
    [
        ((4000, 3000), (85, 64)),
        ((30, 40), (64, 85)),
        ((1, 1), (64, 64)),
        ((6400, 640), (351, 35)),  # 3 × 64² pixels
        ((90000, 9), (384, 1)),  # and as many with what it is padded by
    ],
)
def test_the_network_is_shown_a_bounded_area_of_the_photos_shape(size: tuple[int, int], shown: tuple[int, int]) -> None:
    assert Preprocessing(64).shown_size(*size, 64) == shown
    assert Preprocessing(64, deoldify=True).shown_size(*size, 64) == (64, 64)
    width, height = (max(32, side) for side in shown)
    assert width * height <= preprocessing.AREA_PER_RENDER * 64**2


@pytest.mark.parametrize("size", [(1, 1), (3, 900), (900, 3)])
def test_strips_and_specks_are_coloured(colorizer: Colorizer, size: tuple[int, int]) -> None:
    assert colorizer.colorize(draw_photo(0).resize(size)).size == size


def test_colours_do_not_depend_on_the_bands_they_are_merged_in(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    luma = rng.integers(0, 256, (301, 203)).astype(np.uint8)
    rgb = torch.rand(3, 23, 17)
    whole = np.concatenate(list(merged_bands(luma, rgb.numpy())))
    monkeypatch.setattr(rendering, "_BAND_PIXELS", 203 * 7)
    bands = list(merged_bands(luma, rgb.numpy()))
    assert len(bands) == 43
    assert np.abs(np.concatenate(bands).astype(int) - whole).max() <= 1
    shown = np.stack([np.asarray(Image.fromarray(p).resize((203, 301), Image.Resampling.BICUBIC)) for p in rgb.numpy()])
    expected = merge_luma(torch.from_numpy(shown), torch.from_numpy(luma)[None] / 255).permute(1, 2, 0) * 255
    assert np.abs(whole - expected.numpy()).max() <= 1


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_colour_that_does_not_exist_gives_way_in_saturation_alone(dtype: type) -> None:
    full = np.iinfo(dtype).max
    luma = np.linspace(0, full, 65).round().astype(dtype)[None].repeat(8, axis=0)
    wanted = torch.tensor([1.4, 0.2, -0.3]).view(3, 1, 1).expand(3, 8, 65).contiguous()
    [made] = merged_bands(luma, wanted.numpy())
    assert luma_error(made, luma) <= 0.5
    chroma = made.astype(float) - luma[..., None].astype(float)
    direction = (wanted - rgb_to_grey(wanted))[:, 0, 0].numpy()
    strength = chroma @ direction / (direction @ direction)
    assert np.abs(chroma - strength[..., None] * direction).max() <= 1.5  # one hue, to rounding
    assert strength[0, 0] == strength[0, -1] == 0 and 0.4 * full < strength[0].max() < full


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_saturation_scales_chroma_as_far_as_colours_exist_and_never_luma(colorizer: Colorizer, dtype: type) -> None:
    full = np.iinfo(dtype).max
    grey = np.asarray(draw_photo(3, 96, 72).convert("L")).astype(dtype) * (full // 255)
    plain = colorizer.colorize(grey).astype(float)
    offset, luma = plain - grey[..., None], grey[..., None].astype(float)
    assert np.array_equal(colorizer.colorize(grey, saturation=1), plain)
    assert np.array_equal(colorizer.colorize(grey, saturation=0), np.repeat(grey[..., None], 3, axis=2))
    clipped = []
    for saturation in (0.5, 1.3, 8.0):
        made = colorizer.colorize(grey, saturation=saturation)
        assert luma_error(made, grey) <= 0.5  # of a rounded value: what is merged has it to the bit
        exists = ((luma + saturation * offset >= 2) & (luma + saturation * offset <= full - 2)).all(axis=2)
        clipped.append(1 - exists.mean())
        assert exists.mean() > 0.05
        # 0.5 is red's and blue's rounding, for both of which green makes up, so that luma is exact.
        rounding = 0.5 + 0.5 * (0.299 + 0.114) / 0.587
        assert (
            np.abs(made - luma - saturation * offset)[exists].max() <= rounding * (1 + saturation) + 1e-3 * full / 255
        )
    assert clipped[0] == clipped[1] == 0 < clipped[2]
    for wrong in (-0.1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="saturation="):
            colorizer.colorize(grey, saturation=wrong)


def test_saturation_and_the_gamut_leave_the_luma_to_the_bit() -> None:
    rgb, grey = torch.rand(3, 40, 40).double() * 1.4 - 0.2, torch.rand(1, 40, 40).double()
    for saturation in (0.0, 0.7, 1.3, 5.0):
        merged = merge_luma(scale_chroma(rgb, saturation), grey)
        torch.testing.assert_close(rgb_to_grey(merged), grey, rtol=0, atol=1e-15)


def test_deoldifys_networks_are_shown_what_deoldify_shows_them() -> None:
    assert foreign.SOURCES[0].preprocessing == Preprocessing(render_px=35 * 16, deoldify=True)
    photo = draw_photo(4, 90, 50)
    network = tiny_unet()
    square = np.array(photo.convert("LA").resize((64, 64), Image.Resampling.BILINEAR).convert("RGB"))
    with torch.no_grad():
        rgb = network(torch.from_numpy(square[None, None, ..., 0]) / 255)[0].clamp(0, 1)
    planes = [Image.fromarray(plane).resize(photo.size, Image.Resampling.BICUBIC) for plane in rgb.numpy()]
    yuv = np.stack([np.asarray(plane) for plane in planes], axis=-1) * 255
    luma = np.asarray(photo.convert("L"), float)[..., None]
    expected = luma + yuv - (yuv @ np.array(WEIGHTS))[..., None]
    made = np.asarray(make(Preprocessing(64, deoldify=True)).colorize(photo), float)
    exists = ((expected >= 0) & (expected <= 255)).all(axis=2)
    assert exists.mean() > 0.5
    assert np.abs(made - expected)[exists].max() <= 1


def test_test_time_augmentation_looks_at_two_sizes_and_forgets_which_side_was_left() -> None:
    grey, colorizer = np.asarray(draw_photo(5).convert("L")), make()
    seen = short_of_memory(colorizer, 1 << 30, MemoryError())
    plain, both = colorizer.colorize(grey), colorizer.colorize(grey, tta=True)
    assert seen[1:] == [(1, 1, 48, 60)] * 2 + [(1, 1, 36, 45)] * 2
    assert np.abs(plain.astype(int) - both).max() > 2
    mirrored = colorizer.colorize(grey[:, ::-1], tta=True)[:, ::-1]
    assert np.abs(mirrored.astype(int) - both).max() <= 1


# ------------------------------------------------------------------------------------------------ norms and precisions


@pytest.mark.parametrize(
    ("options", "left"),
    [({"norm": "weight"}, 5), ({"norm": "batch"}, 5), ({"norm": "spectral", "last_blur": True}, 15)],
)
def test_folded_norms_change_nothing(options: dict[str, Any], left: int) -> None:
    """What is left: the norms of the skips and the bottom, and those after a ReLU."""
    network = tiny_unet(**options)
    folded = fold_norms(fold_norms(copy.deepcopy(network)))
    grey = torch.rand(2, 1, 41, 70)
    with torch.no_grad():
        assert (folded(grey) - network(grey)).abs().max() < 1e-5
    assert sum(isinstance(module, nn.BatchNorm2d) for module in folded.modules()) == left
    assert not any("parametrizations" in name for name in folded.state_dict())
    with pytest.raises(ValueError, match="eval"):
        fold_norms(network.train())


def test_bf16_moves_a_value_by_less_than_one_and_32_true_is_exact() -> None:
    picture = draw_photo(6, 200, 150)
    exact = np.asarray(make().colorize(picture), float)
    fast = np.asarray(make(precision="bf16-mixed").colorize(picture), float)
    assert 0 < np.abs(exact - fast).mean() < 1
    network = tiny_unet()
    with torch.no_grad():
        rgb = network(torch.from_numpy(Preprocessing(SIZE_PX).show(picture.convert("L"), (64, 48)))[None])[0]
    [expected] = merged_bands(np.asarray(picture.convert("L")), rgb.numpy())
    assert np.abs(exact - expected).max() <= 1


def test_devices_and_precisions_that_are_not_there_are_named() -> None:
    for device, message in (("tpu", "device=tpu is not known"), ("cpu:3", "device=cpu:3: this machine has fewer")):
        with pytest.raises(UserError, match=message):
            Colorizer(TorchBackend(tiny_unet(), device), Preprocessing(32))
    with pytest.raises(UserError, match="precision=16-mixed needs a GPU"):
        make(precision="16-mixed")


# --------------------------------------------------------------------------------------------- when memory does not do


def short_of_memory(colorizer: Colorizer, most_pixels: int, error: Exception) -> list[tuple[int, ...]]:
    """Make the network refuse more than `most_pixels` at once; what it is shown gathers in the list."""
    seen: list[tuple[int, ...]] = []
    forward = colorizer.backend.network.forward

    def refuse(grey: Tensor) -> Tensor:
        seen.append(tuple(grey.shape))
        if grey.numel() > most_pixels:
            raise error
        return forward(grey)

    colorizer.backend.network.forward = refuse  # type: ignore[method-assign]
    return seen


OUT_OF_MEMORY = (
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes"),
    RuntimeError("MPS backend out of memory"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    MemoryError(),
    RuntimeError("could not create a primitive"),
    RuntimeError("can't start new thread"),
    OSError(errno.ENOMEM, "Cannot allocate memory"),
    ImportError("libtorch_cpu.so: failed to map segment from shared object"),
)
SOMETHING_ELSE = (
    ValueError("shapes do not fit"),
    ModuleNotFoundError("No module named 'cv2'"),
    FileNotFoundError(errno.ENOENT, "No such file or directory", "out of memory.jpg"),
    UserError("out of memory.jpg: truncated"),
)


def test_memory_that_runs_out_halves_the_batch_then_the_size(caplog: pytest.LogCaptureFixture) -> None:
    assert all(map(is_out_of_memory, OUT_OF_MEMORY)) and not any(map(is_out_of_memory, SOMETHING_ELSE))
    caplog.set_level("WARNING", "colorize")
    colorizer = make(Preprocessing(64))
    seen = short_of_memory(colorizer, 2 * 64 * 64, OUT_OF_MEMORY[1])
    pictures = [Photo(np.asarray(draw_photo(index, 50, 50).convert("L"))) for index in range(5)]
    assert [made.shape for made in colorizer.render(pictures)] == [(3, 64, 64)] * 5
    assert [shape[0] for shape in seen] == [5, 3, 2, 1, 2]
    assert "5 photos at once: going on with 3" in caplog.text
    seen.clear()
    colorizer.render(pictures)
    assert [shape[0] for shape in seen] == [2, 2, 1]  # it has learnt
    [made] = colorizer.render(pictures[:1], render_px=160)
    assert made.shape == (3, 80, 80)
    assert "is rendered at 80 px instead of 160" in caplog.text


def test_memory_that_never_suffices_and_values_that_are_no_numbers_are_errors() -> None:
    colorizer = make()
    short_of_memory(colorizer, 0, MemoryError())
    with pytest.raises(UserError, match="memory ran out even at render_px=48"):
        colorizer.colorize(draw_photo(0))
    short_of_memory(colorizer, 0, RuntimeError("shapes do not fit"))
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        colorizer.colorize(draw_photo(0))
    colorizer = make()
    nn.init.constant_(colorizer.backend.network.to_colour.conv.bias, float("nan"))
    with pytest.raises(UserError, match="not numbers"):
        colorizer.colorize(draw_photo(0))


# ----------------------------------------------------------------------------------------------------- files of weights


def write_export(path: Path, unet: UNet, **stated: Any) -> Path:
    content = {"format": 1, "generator": unet.architecture, "preprocessing": {"render_px": 40}, **stated}
    half = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in unet.state_dict().items()}
    safetensors.torch.save_file(half, path, metadata={"colorize": json.dumps(content)})
    return path


def test_checkpoints_and_exports_give_the_same_colours(tmp_path: Path) -> None:
    picture = draw_photo(7)
    expected = np.asarray(make().colorize(picture), int)
    from_training = Colorizer.from_checkpoint(write_checkpoint(tmp_path / "last.ckpt"), "cpu", "32-true")
    assert from_training.preprocessing == Preprocessing(SIZE_PX)
    assert np.array_equal(np.asarray(from_training.colorize(picture)), expected)
    export = write_export(tmp_path / "it's (1).bin", tiny_unet(), provenance={"data": "scenes"})
    from_export = colorize.Colorizer.from_checkpoint(export, "cpu", "32-true")
    assert from_export.preprocessing == Preprocessing(40)
    assert np.abs(np.asarray(from_export.colorize(picture, render_px=SIZE_PX)) - expected).max() <= 1


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        ({"format": 2}, "export format 2"),
        ({"generator": {"encoder": "resnet12"}}, "does not state its network"),
        ({"generator": {"encoder": "resnet10_half"}}, "does not fit the architecture it states"),
        ({"preprocessing": {}}, "does not state its network"),
        ({"preprocessing": {"render_px": 3}}, "does not state its network"),
    ],
)
def test_exports_that_contradict_themselves_are_refused(stated: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message) as caught:
        Colorizer.from_checkpoint(write_export(tmp_path / "a.safetensors", tiny_unet(), **stated))
    assert "\n" not in str(caught.value)


def test_files_that_hold_no_generator_are_refused(tmp_path: Path) -> None:
    (tmp_path / "page.pth").write_text("<!doctype html>")
    torch.save({"a": torch.zeros(1)}, tmp_path / "odd.pth")
    for name, message in (("page.pth", "web page"), ("odd.pth", "not known here"), ("gone.pth", "no file")):
        with pytest.raises(UserError, match=message):
            Colorizer.from_checkpoint(tmp_path / name)


def imported_with(module: str) -> set[str]:
    """Names of all modules that the files of this package import on being imported, one through the other."""
    names, waiting = set(), [module]
    while waiting:
        spec = importlib.util.find_spec(waiting.pop())
        if spec is None or spec.name in names or spec.origin is None:
            continue
        names.add(spec.name)
        if spec.name.split(".")[0] != "colorize":
            continue
        top = ast.parse(Path(spec.origin).read_text(encoding="utf-8")).body
        for node in (node for node in top if isinstance(node, (ast.Import, ast.ImportFrom))):
            prefix = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
            candidates = [prefix + name.name for name in node.names] + [prefix[:-1]] * bool(prefix)
            for name in candidates if prefix.startswith("colorize.") else [c.split(".")[0] for c in candidates]:
                with suppress(ModuleNotFoundError):
                    waiting.append(name) if importlib.util.find_spec(name) else None
    return names


def test_colouring_needs_no_lightning_and_the_package_no_torch() -> None:
    colouring = imported_with("colorize.inference.torch_backend") | imported_with("colorize.weights.load")
    assert {"torch", "colorize.networks.unet"} <= colouring
    without = imported_with("colorize.inference.colorizer") | imported_with("colorize.inference.photo_batches")
    assert not (colouring | imported_with("colorize.inference.colorizer")) & {"lightning", "hydra", "omegaconf"}
    assert "torch" not in without | imported_with("colorize") | imported_with("colorize.predict")


def test_a_grey_profile_is_applied_to_the_luma() -> None:
    luma = reading.from_image(grey_gamma(1.0)).luma
    assert luma[0, 0] == 0 and luma[0, 255] == 255
    assert abs(int(luma[0, 64]) - 137) <= 1  # a quarter of the light, as sRGB encodes it


def grey_gamma(gamma: float) -> Image.Image:
    """A ramp of all greys with an ICC profile (v2) of that exponent."""
    curve = b"curv" + bytes(4) + (1).to_bytes(4, "big") + round(gamma * 256).to_bytes(2, "big") + bytes(2)
    white = b"XYZ " + bytes(4) + b"".join(round(v * 65536).to_bytes(4, "big") for v in (0.9642, 1.0, 0.8249))
    tags = (2).to_bytes(4, "big")
    tags += b"wtpt" + (156).to_bytes(4, "big") + (20).to_bytes(4, "big")
    tags += b"kTRC" + (176).to_bytes(4, "big") + (14).to_bytes(4, "big")
    body = tags + white + curve
    header = (128 + len(body)).to_bytes(4, "big") + b"lcms" + bytes((2, 16, 0, 0)) + b"mntrGRAYXYZ " + bytes(12)
    header += b"acsp" + bytes(28) + white[8:] + bytes(48)
    image = Image.frombytes("L", (256, 1), bytes(range(256)))
    image.info["icc_profile"] = header + body
    return image
