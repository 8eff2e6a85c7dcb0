"""The faster ways to the same numbers: convolutions as matrix products, weight norm, folded features, clipping."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_
from torch.nn.utils.parametrizations import weight_norm

from colorize.config.sections import NetworkOptimConfig
from colorize.losses import MeanAbsoluteDifference
from colorize.networks import cpu_kernels
from colorize.networks.cpu_kernels import use_cpu_kernels
from colorize.networks.critic import Critic
from colorize.networks.efficientnet import SameConv2d
from colorize.networks.folding import fold_norms, prepare
from colorize.networks.vgg import VGGFeatures
from colorize.runtime import devices
from colorize.runtime.errors import UserError
from colorize.training import build
from colorize.training.optim import clip_gradients, make_optimizer


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    ("shape", "out_channels", "kernel", "stride", "bias"),
    [
        ((3, 20, 2, 2), 40, 3, 1, True),
        ((2, 16, 5, 3), 32, 3, 2, False),  # odd: the last row has no neighbour
        ((2, 16, 4, 4), 32, 3, 2, True),
        ((2, 16, 5, 4), 32, 1, 2, True),
        ((2, 16, 3, 3), 64, 1, 1, False),
        ((1, 8, 8, 6), 16, 3, 1, True),  # forwards as torch has it, backwards as matrices
    ],
)
def test_a_convolution_as_a_matrix_product_is_the_convolution(shape, out_channels, kernel, stride, bias, layout):
    torch.manual_seed(0)
    plain = nn.Conv2d(shape[1], out_channels, kernel, stride, kernel // 2, bias=bias).double().to(memory_format=layout)
    ours = copy.deepcopy(use_cpu_kernels(copy.deepcopy(plain)))  # the average of the weights is a copy
    x = torch.randn(shape, dtype=torch.float64).to(memory_format=layout)
    wanted_at, found_at = x.clone().requires_grad_(), x.clone().requires_grad_()
    wanted, found = plain(wanted_at), ours(found_at)
    assert "MatrixConv" in found.grad_fn.name() and "MatrixConv" not in wanted.grad_fn.name()
    torch.testing.assert_close(found, wanted)
    towards = torch.randn_like(wanted)
    wanted.relu().backward(towards)
    found.relu_().backward(towards)  # in place: a view that a Function returns would refuse
    torch.testing.assert_close(found_at.grad, wanted_at.grad)
    for one, other in zip(ours.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


@pytest.mark.parametrize(
    ("kernel", "stride", "side"),
    [(3, 1, 8), (3, 1, 2), (3, 2, 9), (3, 2, 8), (5, 1, 7), (5, 1, 2), (5, 2, 8), (5, 2, 9), (7, 1, 9)],
)
def test_a_depthwise_convolution_learns_as_torchs(kernel, stride, side):
    torch.manual_seed(0)
    theirs = SameConv2d(8, 8, kernel, stride, groups=8).to(memory_format=torch.channels_last)
    ours = use_cpu_kernels(copy.deepcopy(theirs))
    x = torch.randn(3, 8, side, side + 1).to(memory_format=torch.channels_last)
    found, wanted = learned(ours, x), learned(theirs, x)
    assert torch.equal(found[0], wanted[0])
    assert all(far(one, other) < 1e-5 for one, other in zip(found, wanted, strict=True))
    assert all(one.is_contiguous(memory_format=torch.channels_last) for one in found[:2])
    with torch.autocast("cpu", torch.bfloat16):
        rounded, theirs_rounded = learned(ours, x), learned(theirs, x)
    for one, other, exact in zip(rounded[1:], theirs_rounded[1:], wanted[1:], strict=True):
        assert one.dtype == torch.float32 and far(one, exact) < 1.2 * far(other, exact) < 0.02


def learned(conv, x):
    """Return the convolution of x, and the gradients of the sum of its products with fixed numbers at x and weight."""
    x = x.clone().requires_grad_()
    y = conv(x)
    towards = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y)
    return y.detach(), *torch.autograd.grad(y, (x, conv.weight), towards.to(memory_format=torch.channels_last))


def far(one, other):
    return float((one.float() - other.float()).norm() / other.float().norm())


def test_depthwise_passes_of_our_own_are_for_learning_alone(monkeypatch):
    ours = use_cpu_kernels(SameConv2d(8, 8, 5, groups=8))
    x = torch.randn(1, 8, 9, 9)
    assert "DepthwiseConv" in ours(x).grad_fn.name()
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)  # as in a graph that is exported or compiled
    assert "DepthwiseConv" not in ours(x).grad_fn.name()
    monkeypatch.undo()
    monkeypatch.delattr(cpu_kernels, "_DepthwiseConv")
    with torch.no_grad():
        ours(x)
    ours.requires_grad_(False)(x)


def test_weight_norm_is_that_of_torch_in_either_layout_and_in_autocasts_precision():
    for layout in (torch.contiguous_format, torch.channels_last):
        torch.manual_seed(0)
        theirs = nn.Conv2d(5, 7, 3).to(memory_format=layout)
        ours = copy.deepcopy(theirs)
        weight_norm(theirs)
        use_cpu_kernels(weight_norm(ours))
        assert list(ours.state_dict()) == list(theirs.state_dict())
        with torch.no_grad():
            for parameter in (*theirs.parameters(), *ours.parameters()):
                parameter.mul_(1.3)  # so that a direction's length is not the length
        towards = torch.randn(7, 5, 3, 3)
        for conv in (theirs, ours):
            conv.weight.backward(towards)
        torch.testing.assert_close(ours.weight, theirs.weight)
        for one, other in zip(list(ours.parameters())[1:], list(theirs.parameters())[1:], strict=True):
            torch.testing.assert_close(one.grad, other.grad)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(ours.weight, theirs.weight.bfloat16())


def test_folded_features_are_the_features():
    torch.manual_seed(0)
    vgg = VGGFeatures("vgg16_bn", layers=(5, 7))  # 7: a convolution whose own output is compared
    for module in vgg.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.5, 0.5)
            module.running_var.uniform_(0.5, 2)
    rgb = torch.rand(2, 3, 32, 32)
    wanted = vgg(rgb)
    assert sum(isinstance(m, nn.BatchNorm2d) for m in fold_norms(vgg).modules()) == 0
    for one, other in zip(vgg(rgb), wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        autocast = vgg(rgb)
    vgg.round_to(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        assert all(torch.equal(one, other) for one, other in zip(vgg(rgb), autocast, strict=True))


def test_mean_absolute_difference_keeps_its_precision_in_half():
    torch.manual_seed(0)
    one, other = (torch.randn(8, 64, 16, 16).relu().bfloat16() for _ in range(2))
    one.requires_grad_()
    found = MeanAbsoluteDifference.apply(one, other)
    expected = (one.double() - other.double()).abs().mean().item()
    assert found.item() == pytest.approx(expected, rel=1e-3)  # the mean of 512 rounded sums
    (gradient,) = torch.autograd.grad(found * one.numel(), one)
    assert torch.equal(gradient, (one - other).sgn())  # zero where both are


@pytest.mark.parametrize("scale", [1.0, 1e3])
def test_clipping_is_that_of_torch(scale):
    torch.manual_seed(0)
    ours, theirs = nn.Linear(6, 5), nn.Linear(6, 5)
    optimizer = make_optimizer({"all": [ours]}, 1e-3, NetworkOptimConfig(weight_decay=0.0))
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        one.grad = scale * torch.rand_like(one) / 10
        other.grad = one.grad.clone()
    norm = clip_gradients(optimizer, clip_norm=1.0)
    assert norm == pytest.approx(clip_grad_norm_(theirs.parameters(), 1.0).item())
    assert (norm > 1) == (scale > 1)
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def test_compiling_leaves_names_and_copies_alone(monkeypatch):
    network = use_cpu_kernels(Critic("resnet10_half"))
    names = list(network.state_dict())
    monkeypatch.setattr(devices.shutil, "which", lambda name: f"/usr/bin/{name}")
    devices.compile_in_place(torch.device("cpu"), [network])
    assert network._compiled_call_impl is not None
    assert list(network.state_dict()) == names
    assert copy.deepcopy(network)._compiled_call_impl is None  # the average of the weights
    monkeypatch.setattr(devices.shutil, "which", lambda name: None)
    with pytest.raises(UserError, match="C\\+\\+"):
        devices.compile_in_place(torch.device("cpu"), [network])


def test_what_trains_and_what_colours_has_the_faster_passes(configure):
    config = configure("train", "phase=pretrain_gen", "recipe=demo", "model=tiny", "loss.feature_weights=[1]")
    generator, _, content_loss = build.make_networks(config, None)
    ready = prepare(copy.deepcopy(generator).eval())
    for network, conv in ((generator, "bottom.0.conv"), (content_loss.vgg, "features.0"), (ready, "bottom.0.conv")):
        assert network.get_submodule(conv)._conv_forward.__func__ is cpu_kernels._matrix_conv
