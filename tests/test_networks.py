"""The networks: any size, every option, layer groups, freezing, pretrained weights. Parity is in test_foreign.py."""

import json
from urllib.error import URLError

import pytest
import safetensors.torch
import torch
import torchvision
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm
from torch.nn.utils.parametrize import register_parametrization

from colorize.cli.command import configured
from colorize.networks.critic import Critic
from colorize.networks.encoder import BodyNetwork
from colorize.networks.layers import (
    ConvLayer,
    PixelShuffleUp,
    SelfAttention,
    SpectralNorm,
    denormalize_imagenet,
    normalize_imagenet,
)
from colorize.networks.resnet import ResNetBody
from colorize.networks.unet import UNet
from colorize.networks.vgg import VGGFeatures
from colorize.runtime.errors import UserError
from colorize.training.first_weights import require_pretrained
from colorize.training.phases import PHASES
from colorize.weights.pretrained import load_pretrained

OTHER_WAY = {"blur": False, "self_attention": False, "last_cross": False, "output_range": (0, 1)}
OTHER_WAY |= {"block_width": 32, "block_convs": 1, "last_blur": True, "relu_before_sum": True}
"""Options of the U-Net, none as it is by default."""


def small_unet(**options) -> UNet:
    return UNet(**{"encoder": "resnet18", "width_factor": 0.25, **options})


def small_critic() -> Critic:
    return Critic("resnet18")


@pytest.fixture(scope="module")
def unet() -> UNet:
    """For tests that change nothing of it."""
    torch.manual_seed(0)
    return small_unet().eval()


@pytest.fixture(scope="module")
def body() -> ResNetBody:
    """For tests that change no parameter of it."""
    torch.manual_seed(0)
    return ResNetBody("resnet18")


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (220, 36)])
def test_unet_takes_any_size(unet, size):
    with torch.no_grad():
        rgb = unet(torch.rand(2, 1, *size))
    assert rgb.shape == (2, 3, *size)
    assert rgb.dtype == torch.float32
    assert normalize_imagenet(rgb).abs().max() < 3 + 1e-4


@torch.no_grad()
def test_first_colours_are_not_at_the_ends_of_the_range():
    torch.manual_seed(0)
    unet = small_unet()  # of weight norm, where the last convolution's length is free
    assert normalize_imagenet(unet(torch.rand(4, 1, 64, 64))).abs().mean() < 1


def test_unet_with_every_option_the_other_way():
    unet = small_unet(norm="batch", **OTHER_WAY)
    assert [block.up.layer.conv.out_channels // 4 for block in unet.up_blocks] == [8, 8, 8, 4]
    assert [block.conv1.conv.out_channels for block in unet.up_blocks] == [8, 8, 8, 4]
    normalized = normalize_imagenet(unet(torch.rand(2, 1, 33, 47)))
    assert normalized.shape == (2, 3, 33, 47)
    assert normalized.min() > 0
    assert normalized.max() < 1
    assert not any("attention" in name or "last_block" in name or "original" in name for name in unet.state_dict())


def test_unet_refuses_small_images_and_colour(unet):
    with pytest.raises(ValueError, match="31x64"):
        unet(torch.rand(1, 1, 31, 64))
    with pytest.raises(ValueError, match="grey"):
        unet(torch.rand(1, 3, 64, 64))


def test_widths():
    with torch.device("meta"):
        paper, artistic = UNet(), UNet(width_factor=1.5)
    assert [block.conv2.conv.out_channels for block in paper.up_blocks] == [512, 384, 256, 96]
    assert [block.conv2.conv.out_channels for block in artistic.up_blocks] == [768, 768, 672, 300]
    assert round(sum(parameter.numel() for parameter in paper.parameters()) / 1e6, 1) == 41.4


def test_normalization_matches_its_definition():
    rgb, mean, std = torch.rand(2, 3, 4, 5), torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    expected = (rgb - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    torch.testing.assert_close(normalize_imagenet(rgb), expected)
    torch.testing.assert_close(denormalize_imagenet(expected), rgb)
    grey = rgb[:, :1]
    torch.testing.assert_close(normalize_imagenet(grey), normalize_imagenet(grey.expand(-1, 3, -1, -1)))


@pytest.mark.parametrize("norm", ["weight", "batch", "spectral_batch"])
def test_pixel_shuffle_starts_without_checkerboard(norm):
    up = PixelShuffleUp(8, 4, norm, blur=False)(torch.randn(2, 8, 5, 6), torch.Size((10, 12)))
    torch.testing.assert_close(up, up[..., ::2, ::2].repeat_interleave(2, -2).repeat_interleave(2, -1))


@pytest.mark.parametrize("size", [(10, 12), (9, 11)])
def test_blur_is_replicate_pad_and_mean_then_nearest(size):
    up = PixelShuffleUp(8, 4, "weight", blur=True)
    nn.init.normal_(up.layer.conv.parametrizations.weight.original1)
    x = torch.randn(2, 8, 5, 6)
    blurred = nn.AvgPool2d(2, stride=1)(nn.ReplicationPad2d((1, 0, 1, 0))(nn.PixelShuffle(2)(up.layer(x))))
    torch.testing.assert_close(up(x, torch.Size(size)), nn.functional.interpolate(blurred, size, mode="nearest"))


def test_self_attention_is_the_plain_formula_and_starts_as_identity():
    attention = SelfAttention(16).eval()
    x = torch.randn(2, 16, 3, 5)
    torch.testing.assert_close(attention(x), x)
    nn.init.constant_(attention.gamma, 0.5)
    flat = x.flatten(2)
    query, key, value = attention.query(flat), attention.key(flat), attention.value(flat)
    weights = torch.einsum("bcn,bcm->bnm", query, key).softmax(dim=1)
    torch.testing.assert_close(attention(x), x + 0.5 * (value @ weights).view_as(x))


def test_batch_norm_stands_between_convolution_and_relu():
    layer = ConvLayer(3, 4, 3, "batch")
    assert [type(module).__name__ for module in layer.children()] == ["Conv2d", "BatchNorm2d", "ReLU"]
    assert layer.conv.bias is None


@pytest.mark.parametrize(
    "network",
    [lambda: small_unet(norm="spectral", **OTHER_WAY), small_critic],
)
def test_architecture_rebuilds_the_network(network):
    with torch.device("meta"):
        first = network()
        second = type(first)(**json.loads(json.dumps(first.architecture)))
    assert second.architecture == first.architecture
    assert str(second) == str(first)


@pytest.mark.parametrize(
    ("network", "names"),
    [(small_unet, ["encoder_low", "encoder_high", "decoder"]), (small_critic, ["body_low", "body_high", "head"])],
)
def test_every_parameter_is_in_one_group(network, names):
    net = network()
    groups = net.layer_groups()
    assert list(groups) == names
    grouped = [id(p) for modules in groups.values() for module in modules for p in module.parameters()]
    assert sorted(grouped) == sorted(id(p) for p in net.parameters())


@pytest.mark.parametrize("network", [small_unet, lambda: small_unet(norm="spectral"), small_critic])
def test_bfloat16_channels_last_step(network):
    torch.manual_seed(0)
    net = network().to(memory_format=torch.channels_last)
    image = torch.rand(2, 1 if isinstance(net, UNet) else 3, 40, 35)
    expected = net.eval()(image)
    with torch.autocast("cpu", torch.bfloat16):
        output = net(image)
    assert output.dtype == torch.float32
    torch.testing.assert_close(output, expected, atol=0.1, rtol=0.1)
    net.train()
    with torch.autocast("cpu", torch.bfloat16):
        loss = net(image).square().mean()
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


def test_spectral_norm_is_torchs():
    convs = []
    for norm in (lambda conv: register_parametrization(conv, "weight", SpectralNorm(conv.weight)), spectral_norm):
        torch.manual_seed(0)
        conv = nn.Conv2d(6, 8, 3)
        norm(conv)
        for image in torch.randn(2, 1, 6, 5, 5):
            conv(image).square().sum().backward()
        convs.append(conv)
    ours, torchs = convs
    assert list(ours.state_dict()) == list(torchs.state_dict())
    torch.testing.assert_close(ours.state_dict(), torchs.state_dict())
    torch.testing.assert_close(ours.parametrizations.weight.original.grad, torchs.parametrizations.weight.original.grad)
    ours.eval(), torchs.eval()
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(ours.weight, torchs.weight)
    torch.testing.assert_close(ours.state_dict(), torchs.state_dict())


def test_critic_gives_one_logit_an_image():
    torch.manual_seed(0)
    critic = small_critic().eval()
    logits = critic(torch.rand(3, 3, 33, 47))
    assert logits.shape == (3,)
    assert len(logits.unique()) == 3


def step(net: BodyNetwork) -> None:
    """Run a backward pass through the whole network, in training mode."""
    net.train()
    net.zero_grad()
    channels = 1 if isinstance(net, UNet) else 3
    net(torch.rand(2, channels, 34, 34)).square().sum().backward()


def with_grad(modules: list[nn.Module]) -> list[Tensor]:
    return [p for module in modules for p in module.parameters() if p.grad is not None]


def norms_of(modules: list[nn.Module]) -> list[nn.BatchNorm2d]:
    return [m for module in modules for m in module.modules() if isinstance(m, nn.BatchNorm2d)]


@pytest.mark.parametrize(
    ("network", "name", "norms"),
    [(small_unet, "encoder", "statistics")]
    + [(small_critic, "body", norms) for norms in ("fixed", "statistics", "learn")],
)
def test_freezing(network, name, norms):
    net = network()
    names = list(net.state_dict())
    net.freeze([f"{name}_low"], norms)
    low, high, own = net.layer_groups().values()
    before = [norm.running_mean.clone() for norm in norms_of(low)]
    step(net)

    assert all(p.requires_grad for p in net.parameters())
    assert list(net.state_dict()) == names
    affine = [p for norm in norms_of(low) for p in norm.parameters()]
    assert {id(p) for p in with_grad(low)} == ({id(p) for p in affine} if norms == "learn" else set())
    for free in (high, own):
        assert len(with_grad(free)) == sum(len(list(module.parameters())) for module in free)
    moved = [not torch.equal(norm.running_mean, mean) for norm, mean in zip(norms_of(low), before, strict=True)]
    assert moved == [norms != "fixed"] * len(moved)
    assert all(norm.training for norm in norms_of(high))

    net.freeze([f"{name}_low", f"{name}_high"], norms)
    step(net)
    assert not with_grad(high) or norms == "learn"
    net.freeze([])
    step(net)
    assert all(p.grad is not None for p in net.parameters())
    assert all(norm.training for norm in norms_of(low))


def test_freezing_changes_no_answer(body):
    image = torch.randn(2, 3, 40, 40)
    body.eval()
    free = body(image)
    body.freeze(True, True, "learn")
    learning = body(image)
    body.freeze(True, True, "fixed")
    frozen = body(image)
    body.freeze(False, False, "fixed")
    for features in zip(free, learning, frozen, strict=True):
        torch.testing.assert_close(features[0], features[1])
        torch.testing.assert_close(features[0], features[2])
    assert not any(feature.requires_grad for feature in frozen)


def test_generator_learns_from_a_frozen_critic():
    critic = small_critic().eval()
    critic.freeze(["body_low", "body_high"])
    fake = torch.rand(1, 3, 32, 32, requires_grad=True)
    critic(fake).sum().backward()
    assert fake.grad is not None
    assert fake.grad.abs().sum() > 0
    assert not with_grad([critic.body])


def test_what_cannot_be_frozen(unet, body):
    for groups in (["decoder"], ["encoder_middle"], ["encoder_high"]):
        with pytest.raises(ValueError, match="frozen"):
            unet.freeze(groups)


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    """State dict of a torchvision ResNet-18, classifier included, in half precision."""
    torch.manual_seed(1)
    state = torchvision.models.resnet18(weights=None, num_classes=10).state_dict()
    return {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in state.items()}


def without_classifier(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in weights.items() if not name.startswith("fc.")}


def assert_loaded(body: ResNetBody, weights: dict[str, Tensor]) -> None:
    for name, tensor in body.state_dict().items():
        assert tensor.dtype in (torch.float32, torch.int64)
        assert torch.equal(tensor, weights[name].to(tensor.dtype))


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("classifier", [True, False])
def test_local_weights(weights, tmp_path, suffix, classifier):
    state = weights if classifier else without_classifier(weights)
    path = tmp_path / f"weights{suffix}"
    (torch.save if suffix == ".pth" else safetensors.torch.save_file)(state, path)
    body = ResNetBody("resnet18")
    load_pretrained(body, "resnet18", str(path), "model.encoder_weights")
    assert_loaded(body, weights)


def test_weights_none_leaves_the_initialisation(body):
    before = body.conv1.weight.clone()
    load_pretrained(body, "resnet18", "none", "model.encoder_weights")
    assert torch.equal(body.conv1.weight, before)


def test_weights_that_do_not_fit(weights, body, tmp_path):
    state = {**without_classifier(weights), "layer5.weight": torch.zeros(1), "bn1.bias": torch.zeros(3)}
    del state["layer1.0.conv1.weight"], state["layer2.0.conv1.weight"]
    path = tmp_path / "odd.pth"
    torch.save(state, path)
    with pytest.raises(UserError) as caught:
        load_pretrained(body, "resnet18", str(path), "model.encoder_weights")
    message = str(caught.value)
    assert "model.encoder_weights" in message
    assert str(path) in message
    assert "2 missing (first: layer1.0.conv1.weight)" in message
    assert "1 surplus (first: 'layer5.weight')" in message
    assert "1 of another shape (first: bn1.bias, (3,) instead of (64,))" in message


@pytest.mark.parametrize("content", ["html", "code", "list", "empty", "absent", "safetensors"])
def test_files_that_are_no_weights(body, tmp_path, content):
    path = tmp_path / ("page.safetensors" if content == "safetensors" else "page.pth")
    if content in ("code", "list"):
        torch.save(nn.Linear(1, 1) if content == "code" else [torch.zeros(1)], path)
    elif content != "absent":
        path.write_text("" if content == "empty" else "<!DOCTYPE html><html><body>404</body></html>")
    with pytest.raises(UserError, match=r"critic_weights.*page\.") as caught:
        load_pretrained(body, "resnet18", str(path), "model.critic_weights")
    assert "\n" not in str(caught.value)


def test_failed_download_names_file_and_place(weights, body, tmp_path, monkeypatch):
    def no_network(*args, **kwargs):
        raise URLError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(UserError) as caught:
        load_pretrained(body, "resnet18", "imagenet", "model.encoder_weights")
    message = str(caught.value)
    assert "could not be downloaded" in message
    assert f"put resnet18-f37072fd.pth into {tmp_path / 'checkpoints'}" in message
    assert "model.encoder_weights=PATH" in message

    config = configured("train", ["data=scenes", "model.vgg=vgg16", "model.critic=resnet18"])
    with pytest.raises(UserError) as caught:
        require_pretrained(config, list(PHASES))
    message = str(caught.value)
    for key in ("encoder", "critic", "vgg"):
        assert f"model.{key}_weights=imagenet: " in message and f"give model.{key}_weights=PATH or none" in message
    for size in ("resnet34-b627a593.pth (83 MB)", "resnet18-f37072fd.pth (45 MB)", "vgg16-397923af.pth (528 MB)"):
        assert size in message
    assert f"put vgg16-397923af.pth into {tmp_path / 'checkpoints'}" in message
    config.model.vgg_weights, config.model.encoder_weights, config.model.critic_weights = "none", "no.pth", "none"
    with pytest.raises(UserError, match=r"^model.encoder_weights: there is no file no.pth$"):
        require_pretrained(config, list(PHASES))
    require_pretrained(config, ["gan"])

    # The advice works, for files without batch counters too, as torchvision's are.
    old = {name: tensor for name, tensor in weights.items() if not name.endswith("num_batches_tracked")}
    torch.save(old, tmp_path / "checkpoints" / "resnet18-f37072fd.pth")
    loaded = ResNetBody("resnet18")
    load_pretrained(loaded, "resnet18", "imagenet", "model.encoder_weights")
    assert_loaded(loaded, weights)


@pytest.mark.parametrize("name", ["vgg16", "vgg16_bn"])
def test_vgg_weights(name, tmp_path):
    """A whole VGG's features load into the truncated ones, which then compute the same."""
    torch.manual_seed(0)
    with torch.device("meta"):
        reference = torchvision.models.get_model(name, weights=None).features
    reference = reference.to_empty(device="cpu").eval()
    for module in reference:
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
            nn.init.normal_(module.bias, std=0.1)
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
    path = tmp_path / "vgg.pth"
    torch.save({f"features.{key}": tensor for key, tensor in reference.state_dict().items()}, path)
    vgg = VGGFeatures(name, layers=(1, 4, 7))
    load_pretrained(vgg, name, str(path), "loss.vgg_weights")
    image = torch.rand(1, 3, 32, 32)
    wanted, x = [], normalize_imagenet(image)
    for layer in reference[:8]:
        x = layer(x.clone())  # torchvision's ReLUs overwrite their input
        wanted.append(x.clone())
    for index, features in zip(vgg.layers, vgg(image), strict=True):
        torch.testing.assert_close(features, wanted[index])
