"""The faster ways to the same numbers: depthwise convolutions, folded features, clipping."""

import copy
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_

from colorize.config.sections import NetworkOptimConfig
from colorize.networks import efficientnet
from colorize.networks.critic import Critic
from colorize.networks.efficientnet import SameConv2d
from colorize.networks.folding import fold_norms
from colorize.networks.vgg import VGGFeatures
from colorize.runtime import devices
from colorize.runtime.errors import UserError
from colorize.training.optim import clip_gradients, make_optimizer


@pytest.mark.parametrize(
    ("kernel", "stride", "side"),
    [(3, 1, 8), (3, 1, 2), (3, 2, 9), (3, 2, 8), (5, 1, 7), (5, 1, 2), (5, 2, 8), (5, 2, 9), (7, 1, 9)],
)
def test_a_depthwise_convolution_learns_as_torchs(kernel, stride, side):
    torch.manual_seed(0)
    ours = SameConv2d(8, 8, kernel, stride, groups=8).to(memory_format=torch.channels_last)
    theirs = copy.deepcopy(ours)
    theirs._conv_forward = partial(nn.Conv2d._conv_forward, theirs)
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
    ours = SameConv2d(8, 8, 5, groups=8)
    x = torch.randn(1, 8, 9, 9)
    assert "DepthwiseConv" in ours(x).grad_fn.name()
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)  # as in a graph that is exported or compiled
    assert "DepthwiseConv" not in ours(x).grad_fn.name()
    monkeypatch.undo()
    monkeypatch.delattr(efficientnet, "DepthwiseConv")
    with torch.no_grad():
        ours(x)
    ours.requires_grad_(False)(x)


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
    network = Critic("resnet10_half")
    names = list(network.state_dict())
    monkeypatch.setattr(devices.shutil, "which", lambda name: f"/usr/bin/{name}")
    devices.compile_in_place(torch.device("cpu"), [network])
    assert network._compiled_call_impl is not None
    assert list(network.state_dict()) == names
    assert copy.deepcopy(network)._compiled_call_impl is None  # the average of the weights
    monkeypatch.setattr(devices.shutil, "which", lambda name: None)
    with pytest.raises(UserError, match="C\\+\\+"):
        devices.compile_in_place(torch.device("cpu"), [network])
