"""The average of the generator's weights: what moves it, how far, and who takes it."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from colorize import generate
from colorize.config import GenerateConfig
from colorize.data.generated import Manifest
from colorize.runs import PhaseFolder
from colorize.runtime.errors import UserError
from colorize.runtime.schema import BadOption
from colorize.training import build
from colorize.training.callbacks.ema import GeneratorAverage
from colorize.training.phases import monitored
from colorize.weights.checkpoints import has_average
from colorize.weights.load import load_network, load_weights
from tests.test_module import CONSTANT, fit_batch, some_batch

Configure = Callable[..., Any]


def started(
    average: GeneratorAverage, trainer: Any = None, config: Any = None
) -> tuple[nn.Module, torch.optim.Optimizer, SimpleNamespace]:
    """A generator of one weight and a batch norm, its optimizer, and the module that has them."""
    torch.manual_seed(0)
    generator = nn.Sequential(nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1))
    optimizer = torch.optim.SGD(generator.parameters(), lr=0.1)
    module = SimpleNamespace(
        network=lambda _: generator,
        optimizer=lambda _: SimpleNamespace(optimizer=optimizer),
        config=config,
        images_seen=0,
        step_images=0,
        lend_average=lambda network: None,
    )
    average.on_fit_start(trainer, module)
    return generator, optimizer, module


@pytest.mark.parametrize("ramp_up", [0.0, 0.25])
def test_the_average_is_that_of_the_closed_form_and_skipped_steps_are_none(ramp_up: float) -> None:
    average = GeneratorAverage(12, ramp_up)
    generator, optimizer, module = started(average)
    scaler = torch.amp.GradScaler("cpu")  # what fp16 uses: it leaves out steps whose gradients are not finite
    expected, images = [generator[0].weight.item(), 0.0], 0
    for step_images, factor in ((8, 1.0), (8, float("inf")), (4, 1.0), (2, 1.0)):
        module.step_images = step_images
        optimizer.zero_grad()
        scaler.scale((generator(torch.randn(step_images, 1)).square() * factor).sum()).backward()
        scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
        if factor == 1.0:
            images += step_images
            kept = 0.5 ** (step_images / (min(12, ramp_up * images) if ramp_up else 12))
            last = (generator[0].weight.item(), generator[1].running_mean.item())
            expected = [kept * mean + (1 - kept) * value for mean, value in zip(expected, last, strict=True)]
        found = [average.network[0].weight.item(), average.network[1].running_mean.item()]
        assert found == pytest.approx(expected, rel=1e-5)
        counts = average.network[1].num_batches_tracked, generator[1].num_batches_tracked
        assert torch.equal(*counts) == (factor == 1.0)
    assert average.images == 14
    average.teardown(None, None, "fit")  # type: ignore[arg-type]
    kept_weight = average.network[0].weight.clone()
    optimizer.step()
    assert torch.equal(average.network[0].weight, kept_weight)


def test_it_moves_once_a_generator_step_whoever_has_the_turn(configure: Configure, tmp_path: Path) -> None:
    average = GeneratorAverage(8, 0.0)
    moves: list[tuple[str, int]] = []
    update = GeneratorAverage.update

    def counted(self: GeneratorAverage, generator: nn.Module, images: int) -> None:
        before = next(self.network.parameters()).clone()
        update(self, generator, images)
        assert not torch.equal(before, next(self.network.parameters()))
        moves.append(("moved", images))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GeneratorAverage, "update", counted)
        _, seen = fit_batch(
            configure,
            tmp_path,
            some_batch(),
            6,
            "phase=gan",
            "model=tiny",
            *CONSTANT,
            "switch.max_critic_steps=2",
            "loss.feature_weights=[0,0,0]",
            callbacks=[average],
        )
    turns = [next(iter(terms)).split("/")[0] for terms in seen]
    assert {"generator", "critic"} == set(turns)
    assert moves == [("moved", 4)] * turns.count("generator")


def test_consumers_take_the_average_and_say_so(
    configure: Configure, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = configure("train", "phase=pretrain_gen", "model=tiny", "loss.feature_weights=[0,0,0]")
    module = build.make_module(config, resume_from=Path("nowhere"))
    average = GeneratorAverage(8, 0.0)
    module.trainer = SimpleNamespace(is_last_batch=True, precision="32-true")  # type: ignore[assignment]
    module.optimizer = lambda _: SimpleNamespace(optimizer=module.configure_optimizers()[0])  # type: ignore[assignment]
    average.on_fit_start(module.trainer, module)
    with torch.no_grad():
        module.generator.to_colour.conv.bias += 1
    content = {"state_dict": module.state_dict(), "callbacks": {average.state_key: average.state_dict()}, "epoch": 0}
    module.on_save_checkpoint(content)
    path = tmp_path / "some.ckpt"
    torch.save(content, path)

    def bias(network: Any) -> torch.Tensor:
        return network.to_colour.conv.bias.detach()

    averaged, raw = bias(average.network), bias(module.generator)
    caplog.set_level("INFO", "colorize")
    assert has_average(path)
    assert torch.equal(bias(load_network(path, "generator")), averaged)
    assert f"{path}: the averaged weights (EMA) are taken" in caplog.text
    assert torch.equal(bias(load_network(path, "generator", use_ema=False)), raw)
    assert f"{path}: the weights of the last step are taken" in caplog.text
    assert load_weights(path).title.endswith("0 images seen, averaged weights")
    assert torch.equal(bias(load_weights(path, use_ema=False).network), raw)
    config.init_from.generator = str(path)
    for config.use_ema, expected in ((True, averaged), (False, raw)):
        assert build.init_from(config, "generator", module.generator)
        assert torch.equal(bias(module.generator), expected)


def test_saved_images_of_averaged_and_of_raw_weights_are_not_mixed(tmp_path: Path) -> None:
    Manifest("a.ckpt", "abc", 40, [], [], complete=False, averaged=True).write(tmp_path)
    config = GenerateConfig(recipe="demo", checkpoint="a.ckpt", size_px=40)
    generate.refuse_to_mix(config, tmp_path, "abc", averaged=True)
    with pytest.raises(UserError, match=r"made by the averaged weights of a.ckpt: give use_ema=true"):
        generate.refuse_to_mix(config, tmp_path, "abc", averaged=False)


def test_a_half_life_may_be_a_share_of_the_images_of_the_phase(configure: Configure, tmp_path: Path) -> None:
    table = ("resolution.size_px=[32,32]", "resolution.batch_size=[8,5]", "resolution.epochs=[1,2]")
    # 18 photos: two batches of 8, then twice three of 5; with a limit, one batch an epoch.
    for words, expected in ((), 0.5 * (16 + 2 * 15)), (("trainer.limit_train_batches=1",), 0.5 * (8 + 2 * 5)):
        config = configure("train", "phase=gan", "ema.half_life_share=0.5", *table, *words)
        assert monitored(dataclasses.replace(config, phase="pretrain_gen")) == "val_ema/content"
        schedule = build.make_schedule(config)
        callbacks = build.make_callbacks(config, PhaseFolder(str(tmp_path), "r", "gan"), schedule)
        (average,) = (callback for callback in callbacks if isinstance(callback, GeneratorAverage))
        data = SimpleNamespace(schedule=schedule, photos=SimpleNamespace(train=range(18)))
        started(average, SimpleNamespace(datamodule=data), config)
        assert average.half_life_images == expected
    config.ema.half_life_images = 20
    with pytest.raises(BadOption, match=r"half_life_images=20 and ema\.half_life_share=0\.5 .*set one of them to null"):
        build.make_callbacks(config, PhaseFolder(str(tmp_path), "r", "gan"), schedule)
