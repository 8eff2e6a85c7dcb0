"""Layer groups, discriminative learning rates, freezing, schedules."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch

from colorize.config.sections import NetworkOptimConfig, ResolutionConfig
from colorize.networks.critic import Critic
from colorize.networks.unet import UNet
from colorize.training.optim import LearningRates, drop_frozen_gradients, make_optimizer, one_cycle


@pytest.mark.parametrize(
    "make",
    [
        lambda: UNet(encoder="resnet18", width_factor=0.25),
        lambda: UNet(encoder="resnet18", width_factor=0.25, norm="batch"),
        lambda: Critic("resnet18"),
    ],
)
def test_each_parameter_is_in_exactly_one_group_with_its_rate(make) -> None:
    network = make()
    groups = network.layer_groups()
    plan = LearningRates(NetworkOptimConfig(lr=1e-2, schedule="constant"), list(groups), ResolutionConfig())
    optimizer = make_optimizer(groups, plan.lr, NetworkOptimConfig())
    plan.apply(optimizer, epoch=0, progress=0.5)
    rates: dict[int, list[float]] = {}
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            rates.setdefault(id(parameter), []).append(group["lr"])
            spared = parameter.ndim == 1 or names[id(parameter)].endswith("weight.original0")  # the lengths
            assert (group["weight_decay"] == 0) == spared, "norms and biases do not decay, weights do"
    assert all(len(of_one) == 1 for of_one in rates.values())
    assert set(rates) == {id(p) for p in network.parameters() if p.requires_grad}
    for (name, modules), multiplier in zip(groups.items(), (0.01, 0.1, 1.0), strict=True):
        found = {rates[id(p)][0] for module in modules for p in module.parameters()}
        assert found == {1e-2 * multiplier}, name


def test_freezing_is_a_zero_rate_in_an_interval_of_epochs() -> None:
    network = Critic("resnet18")
    frozen = {"freeze_low": [0, -1], "freeze_high": [1, 3], "frozen_norms": "learn"}
    optim = NetworkOptimConfig(lr=1.0, lr_multipliers=[0.1, 0.5, 1.0], schedule="constant", **frozen)
    plan = LearningRates(optim, list(network.layer_groups()), ResolutionConfig())
    assert [sorted(plan.frozen_at(epoch)) for epoch in range(4)] == [
        ["body_low"],
        ["body_high", "body_low"],
        ["body_high", "body_low"],
        ["body_low"],
    ]
    optimizer = make_optimizer(network.layer_groups(), 1.0, NetworkOptimConfig(weight_decay=0.0))
    plan.apply(optimizer, epoch=1, progress=0.0)
    rates = {group["name"]: group["lr"] for group in optimizer.param_groups}
    assert rates == {
        "body_low": 0.0,
        "body_low_norms": 0.1,
        "body_high": 0.0,
        "body_high_norms": 0.5,
        "head": 1.0,
        "head_norms": 1.0,
    }
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    drop_frozen_gradients(optimizer)
    assert network.body.conv1.weight.grad is None
    assert network.body.bn1.weight.grad is not None


def test_one_cycle_rises_falls_and_is_a_function_of_progress() -> None:
    factor = partial(one_cycle, pct_start=0.25)
    assert factor(0.0) == pytest.approx(1 / 25)
    assert factor(0.25) == pytest.approx(1.0)
    assert factor(1.0) == pytest.approx(1e-5)
    rising = [factor(i / 100) for i in range(26)]
    falling = [factor(i / 100) for i in range(25, 101)]
    assert rising == sorted(rising)
    assert falling == sorted(falling, reverse=True)
    with pytest.raises(ValueError, match="pct_start"):
        LearningRates(NetworkOptimConfig(pct_start=0.0), ["low", "high", "last"], ResolutionConfig())


@pytest.mark.parametrize(
    ("scale", "factors"), [("none", [1, 1, 1, 1]), ("sqrt", [1, 1, 0.5, 0.5]), ("linear", [1, 1, 0.25, 0.25])]
)
def test_rates_follow_the_batch_of_the_first_stage_with_an_epoch(
    configure: Callable[..., Any], scale: str, factors: list[float]
) -> None:
    table = ("resolution.size_px=[32,48,64]", "resolution.batch_size=[256,64,16]", "resolution.epochs=[0,2,1]")
    config = configure("train", "phase=pretrain_critic", *table, f"resolution.rate_scale={scale}")
    network = Critic("resnet18")
    groups = network.layer_groups()
    plan = LearningRates(config.optim.critic, list(groups), config.resolution)
    optimizer = make_optimizer(groups, plan.lr, NetworkOptimConfig(weight_decay=0.0))
    found = []
    for epoch in range(4):  # one more than there are
        plan.apply(optimizer, epoch, progress=0.25)
        found.append(optimizer.param_groups[-1]["lr"] / config.optim.critic.lr)
    assert found == pytest.approx(factors)
