"""The ResNet is torchvision's, without its import."""

import subprocess
import sys

import pytest
import torch
import torchvision

from colorize.networks.resnet import ResNetBody


@torch.no_grad()
@pytest.mark.parametrize("name", ["resnet34", pytest.param("resnet101", marks=pytest.mark.slow)])
def test_features_are_those_of_torchvision(name: str) -> None:
    with torch.device("meta"):
        theirs = torchvision.models.get_model(name, weights=None)
        ours = ResNetBody(name)
    generator = torch.Generator().manual_seed(0)
    state = {}
    for key, value in theirs.state_dict().items():
        drawn = torch.rand(value.shape, generator=generator)  # a batch norm's variance is positive
        fan = value[0].numel() if value.ndim > 1 else 1
        state[key] = (drawn - 0.5) * (24 / fan) ** 0.5 if value.ndim > 1 else drawn + 0.5
        if key.endswith("num_batches_tracked"):
            state[key] = value.new_zeros((), device="cpu")
    theirs.load_state_dict(state, assign=True)
    ours.load_state_dict({key: value for key, value in state.items() if not key.startswith("fc.")}, assign=True)
    x = torch.rand(1, 3, 45, 64, generator=generator)
    *_, deepest = ours.eval()(x)
    theirs.eval()
    expected = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(x))))
    for number in range(1, 5):
        expected = getattr(theirs, f"layer{number}")(expected)
    assert expected.std() > 0
    torch.testing.assert_close(deepest / expected.std(), expected / expected.std(), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_colouring_photos_imports_neither_torchvision_nor_lightning() -> None:
    text = "import sys, colorize.inference.colorizer, colorize.inference.photo_batches; "
    text += "print([*{'torchvision', 'lightning'} & {*sys.modules}])"
    found = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
