"""Hints: a colour that is known of a point spreads as far as the photo looks alike, and the luma stays."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from colorize import Colorizer, Hint
from colorize.color import rgb_to_grey, rgb_to_lab
from colorize.inference.spreading import spread
from colorize.inference.torch_backend import TorchBackend
from colorize.networks.light_unet import LightUNet
from colorize.networks.preprocessing import Preprocessing
from tests.conftest import draw_photo
from tests.predicting import Colour, grey, save
from tests.tiny_checkpoint import SIZE_PX, tiny_unet

RED, BLUE = (200, 40, 40), "#2840c8"


@pytest.fixture(scope="module")
def colorizer() -> Colorizer:
    return Colorizer(TorchBackend(tiny_unet(), "cpu", "32-true"), Preprocessing(SIZE_PX))


def corrected(luma: Tensor, *hints: Hint) -> Tensor:
    """Lab chroma `(2, H, W)` of a photo that the network left grey; the photo is twice the size of what it saw."""
    seen = luma.numpy()
    made = spread(np.repeat(seen, 3, axis=0), seen, hints, (2 * luma.shape[2], 2 * luma.shape[1]))
    return torch.from_numpy(rgb_to_lab(made)[1:])


def test_without_hints_the_networks_colours_stay_to_the_bit(colorizer: Colorizer) -> None:
    photo = draw_photo(3)
    made = colorizer.colorize(photo)
    assert colorizer.colorize(photo, hints=[]).tobytes() == made.tobytes()
    assert colorizer.colorize(photo, hints=[Hint(9, 9, None), Hint(60, 50, None)]).tobytes() == made.tobytes()


def test_a_hint_colours_what_looks_alike_and_nothing_beyond_an_edge() -> None:
    luma = torch.full((1, 48, 96), 0.3)
    luma[:, :, 40:44] = 0.9  # a bright bar, and the same dark behind it
    a, _ = corrected(luma, Hint(40, 48, RED))
    true = float(rgb_to_lab(torch.tensor(RED).view(3, 1, 1) / 255)[1])
    assert float(a[24, 20]) == pytest.approx(true, rel=0.1)
    assert a[:, :39].min() > 0.4 * true
    assert a[:, 41:43].max() < 0.1 * true
    plain = corrected(torch.full((1, 48, 96), 0.3), Hint(40, 48, RED))[0]
    assert a[24, 60] < 0.5 * plain[24, 60]


def test_a_correction_fades_far_from_its_point_and_where_a_colour_is_to_stay() -> None:
    luma = torch.full((1, 32, 256), 0.5)
    alone = corrected(luma, Hint(16, 32, RED))
    assert alone[:, :, 250].abs().max() < 0.1
    kept = corrected(luma, Hint(16, 32, RED), Hint(60, 32, None))
    assert kept[:, 16, 30].norm() < 0.1 * alone[:, 16, 30].norm()
    assert kept[:, 16, 8].norm() > 0.9 * alone[:, 16, 8].norm()


def test_two_hints_each_have_their_colour_and_those_of_one_point_are_averaged() -> None:
    luma = torch.full((1, 48, 96), 0.5)
    left, right = corrected(luma, Hint(20, 48, RED), Hint(170, 48, BLUE))[:, 24, [10, 85]].T
    assert left[0] > 30
    assert right[1] < -30
    both = corrected(luma, Hint(20, 48, (200, 40, 40)), Hint(20, 48, (40, 160, 40)))[0, 24, 10]
    assert abs(float(both)) < 15


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_luma_stays_and_a_photo_may_be_smaller_than_the_network_sees_it(colorizer: Colorizer, dtype: Any) -> None:
    luma = np.asarray(draw_photo(1, 31, 23).convert("L")).astype(dtype)
    made = colorizer.colorize(luma, hints=[Hint(30.9, 22, RED), Hint(0, 0, BLUE)])
    assert (made != colorizer.colorize(luma)).any()
    assert np.abs(rgb_to_grey(torch.from_numpy(made.astype(np.float32)).permute(2, 0, 1))[0].numpy() - luma).max() <= 1


def test_hints_of_a_batch_are_those_of_each_photo_and_outweigh_colours_of_its_own(colorizer: Colorizer) -> None:
    photo = draw_photo(3)
    hints = [Hint(9, 9, RED)]
    without, with_hints = colorizer.colorize_batch([photo, photo], keep_color=True, hints=[[], hints])
    assert without.tobytes() == photo.tobytes()
    assert with_hints.tobytes() == colorizer.colorize(photo, hints=hints).tobytes()
    with pytest.raises(ValueError, match=r"x=80, y=9 lies outside of the upright photo, 80 × 64 px"):
        colorizer.colorize(photo, hints=[Hint(80, 9, RED)])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "Expecting property name"),
        ('{"x": 1, "y": 2, "rgb": null}', "give a list"),
        ("7", "give a list"),
        ('[{"x": 1, "y": 2}]', "give a list"),
        ('[{"x": 1, "y": 2, "rgb": null, "why": 1}]', "give a list"),
        ('[{"x": 1, "y": "2", "rgb": null}]', "x and y are numbers"),
        ('[{"x": NaN, "y": 2, "rgb": null}]', "outside"),
        ('[{"x": 1, "y": 44, "rgb": null}]', "y=44 lies outside of the upright photo, 60 × 44 px"),
        ('[{"x": 1, "y": 2, "rgb": [1, 2]}]', "rgb is"),
        ('[{"x": 1, "y": 2, "rgb": [1, 2, 256]}]', "from 0 to 255"),
        ('[{"x": 1, "y": 2, "rgb": "red"}]', "#rrggbb"),
        ("[" * 100_000, "recursion"),
        ("\udcff", "decode"),
    ],
)
def test_a_file_of_hints_that_is_wrong_is_refused_in_a_line(
    colour: Colour, tmp_path: Path, content: str, said: str
) -> None:
    photo = save(tmp_path / "photo.png")
    (tmp_path / "photo.json").write_bytes(content.encode(errors="surrogateescape"))
    status, text = colour(photo, hints=str(tmp_path / "photo.json"))
    assert status == 1
    line = next(line for line in text.splitlines() if "photo.json" in line)
    assert said in line
    assert not (tmp_path / "out/photo.png").exists()


def test_predict_takes_a_photos_hints_upright_as_it_is_seen(colour: Colour, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6  # to be turned by a quarter
    photo = save(tmp_path / "photo.png", exif=exif)
    hints = [{"x": 40, "y": 59, "rgb": RED}, {"x": 2, "y": 2, "rgb": BLUE}]
    (tmp_path / "mine.json").write_text(json.dumps(hints))
    status, text = colour(photo, hints="mine.json")
    assert (status, "hints for 1 of 1 photos" in text) == (0, True)
    with Image.open("out/photo.png") as opened:
        made = np.asarray(opened).astype(int)
    assert made.shape == (60, 44, 3)
    upright = grey().transpose(Image.Transpose.ROTATE_270)
    assert np.abs(made @ (0.299, 0.587, 0.114) - np.asarray(upright)).max() <= 1
    assert made[57, 40, 0] - made[57, 40, 2] > 30 > -30 > made[2, 2, 0] - made[2, 2, 2]


def test_predict_finds_the_hints_of_a_folders_photos_by_name(colour: Colour, tmp_path: Path) -> None:
    for name in ("a.png", "b.png", "sub/a.png"):
        save(tmp_path / "photos" / name)
    (tmp_path / "hints/sub").mkdir(parents=True)
    (tmp_path / "hints/a.json").write_text('[{"x": 9, "y": 9, "rgb": "#c82828"}]')
    (tmp_path / "hints/sub/a.json").write_text('[{"x": 9, "y": 9, "rgb": [40, 64, 200]}]')
    status, text = colour(tmp_path / "photos", hints="hints")
    assert (status, "hints for 2 of 3 photos" in text) == (0, True)
    red, none, blue = (Image.open(tmp_path / "out" / name).tobytes() for name in ("a.png", "b.png", "sub/a.png"))
    assert len({red, none, blue}) == 3
    for wrong in ("hints/a.json", "nowhere"):
        status, text = colour(tmp_path / "photos", hints=wrong)
        assert status == 1
        assert f"hints={wrong}: give a single photo's file, or a folder" in text


def test_likely_colours_begin_with_the_networks_own_and_differ(colorizer: Colorizer) -> None:
    photo = draw_photo(2)
    own = colorizer.likely_colors(photo, 40, 30)
    assert len(own) == 1
    torch.manual_seed(0)
    bins = LightUNet(encoder="resnet10_half", widths=[8, 8, 8, 8], refine_width=0, output="bins").eval()
    found = Colorizer(TorchBackend(bins, "cpu", "32-true"), Preprocessing(SIZE_PX)).likely_colors(photo, 79, 63.5, 4)
    assert len(set(found)) == 4
    lumas = [float(np.dot(colour, (0.299, 0.587, 0.114))) for colour in found]
    assert np.ptp(lumas) <= 1
