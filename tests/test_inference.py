"""A network made ready to colour: the same function, in float32 to a level of 8 bits, on odd sizes too."""

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from colorize.networks.folding import prepare
from colorize.networks.unet import UNet
from colorize.weights.checkpoints import CheckpointMetadata, write_metadata
from colorize.weights.load import load_network

KINDS = {
    "paper": {},
    "artistic": {"norm": "spectral", "last_blur": True, "relu_before_sum": True},
    "batch": {"norm": "batch"},
}


@torch.no_grad()
def network(kind: str) -> UNet:
    """Of random weights, with norms that do something."""
    torch.manual_seed(0)
    net = UNet(encoder="resnet10_half", width_factor=0.25, **KINDS[kind])
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.uniform_(0.5, 1.5)
            module.bias.uniform_(-0.5, 0.5)
            module.momentum = None
    for name, parameter in net.named_parameters():
        if name.endswith("gamma"):
            parameter.fill_(0.3)
    net.train()(torch.rand(2, 1, 64, 64))
    return net.eval()


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(64, 64), (70, 33)])
def test_float32_is_the_same_to_a_level_of_8_bits(kind: str, size: tuple[int, int]) -> None:
    net, grey = network(kind), torch.rand(2, 1, *size)
    ready = prepare(copy.deepcopy(net)).to(memory_format=torch.channels_last)
    expected, found = (
        (n(grey.contiguous(memory_format=layout)).clamp(0, 1) * 255).round()
        for n, layout in ((net, torch.contiguous_format), (ready, torch.channels_last))
    )
    assert expected.std() > 5, "pictures with something in them"
    assert (found - expected).abs().max() <= 1


def test_training_networks_are_refused() -> None:
    with pytest.raises(ValueError, match="eval"):
        prepare(UNet(encoder="resnet10_half", width_factor=0.5))


def test_a_checkpoint_is_read_without_first_weights(tmp_path: Path) -> None:
    net, path = network("artistic"), tmp_path / "network.ckpt"
    net.to(memory_format=torch.channels_last)
    checkpoint = {"state_dict": {f"generator.{name}": value for name, value in net.state_dict().items()}}
    write_metadata(checkpoint, CheckpointMetadata("pretrain_gen", 1, 1, 1, 64, net.architecture, None, 0))
    torch.save(checkpoint, path)
    state = torch.get_rng_state()
    found = load_network(path, "generator")
    assert torch.equal(torch.get_rng_state(), state), "nothing random was drawn"
    path.write_bytes(b"")  # what was mapped from the file would be gone
    loaded = found.state_dict()
    assert list(loaded) == list(net.state_dict()) and not any(value.is_meta for value in loaded.values())
    for name, value in net.state_dict().items():
        assert torch.equal(loaded[name], value) and loaded[name].is_contiguous()
    assert all(parameter.requires_grad for parameter in found.parameters()) and not found.training
