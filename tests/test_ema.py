"""The average of the generator's weights: what moves it, how far, and who takes it."""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.plugins import MixedPrecision
from torch import nn

from colorize.config.sections import SaveConfig
from colorize.data.generated import Manifest
from colorize.runs import PhaseFolder
from colorize.runtime.errors import UserError
from colorize.runtime.schema import BadOption
from colorize.training import build, first_weights, module
from colorize.training.callbacks.ema import GeneratorEMA
from colorize.training.phases import monitored
from colorize.weights.checkpoints import has_average
from colorize.weights.load import load_network, load_weights
from tests.test_module import CONSTANT, fit_batch, some_batch

Configure = Callable[..., Any]


def started(average: GeneratorEMA, phase_images: int = 0) -> nn.Sequential:
    """A generator of one weight and a batch norm, of which `average` has taken its first copy."""
    torch.manual_seed(0)
    generator = nn.Sequential(nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1))
    module = SimpleNamespace(network=lambda _: generator, images_seen=0, phase_images=phase_images)
    average.on_fit_start(None, module)
    return generator


@pytest.mark.parametrize("ramp_up", [0.0, 0.25])
def test_the_average_is_that_of_the_closed_form(ramp_up: float) -> None:
    average = GeneratorEMA(12, ramp_up)
    generator = started(average)
    optimizer = torch.optim.SGD(generator.parameters(), lr=0.1)
    expected, images = [generator[0].weight.item(), 0.0], 0
    for step_images in (8, 4, 2):
        optimizer.zero_grad()
        generator(torch.randn(step_images, 1)).square().sum().backward()
        optimizer.step()
        average.update(generator, step_images)
        images += step_images
        kept = 0.5 ** (step_images / (min(12, ramp_up * images) if ramp_up else 12))
        last = (generator[0].weight.item(), generator[1].running_mean.item())
        expected = [kept * mean + (1 - kept) * value for mean, value in zip(expected, last, strict=True)]
        found = [average.network[0].weight.item(), average.network[1].running_mean.item()]
        assert found == pytest.approx(expected, rel=1e-5)
        assert torch.equal(average.network[1].num_batches_tracked, generator[1].num_batches_tracked)
    assert average.images == 14


def count_updates(patch: pytest.MonkeyPatch) -> list[int]:
    """The images of each update from here on, every one of which has to move the average."""
    moves: list[int] = []
    update = GeneratorEMA.update

    def counted(self: GeneratorEMA, generator: nn.Module, images: int) -> None:
        before = next(self.network.parameters()).clone()
        update(self, generator, images)
        assert not torch.equal(before, next(self.network.parameters()))
        moves.append(images)

    patch.setattr(GeneratorEMA, "update", counted)
    return moves


TINY_GAN = ("phase=gan", "model=tiny", *CONSTANT)


def test_it_moves_once_a_generator_step(configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moves, words = count_updates(monkeypatch), (*TINY_GAN, "switch.max_critic_steps=2")
    _, seen = fit_batch(configure, tmp_path, some_batch(), 6, *words, callbacks=[GeneratorEMA(8, 0.0)])
    trained = [next(iter(terms)).split("/")[0] for terms in seen]
    assert {"generator", "critic"} == set(trained)
    assert moves == [4] * trained.count("generator")


def test_a_step_whose_gradients_overflow_in_half_precision_is_skipped_and_moves_nothing(
    configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moves, norms = count_updates(monkeypatch), []
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**120, backoff_factor=2.0**-112)
    clip = module.clip_gradients
    monkeypatch.setattr(module, "clip_gradients", lambda *given: norms.append(clip(*given)) or norms[-1])
    weights: list[torch.Tensor] = []

    class Record(L.Callback):
        def on_train_batch_end(self, trainer: Any, module: Any, *_: Any) -> None:
            weights.append(module.generator.to_colour.conv.bias.detach().clone())

    words = ("phase=pretrain_gen", "model=tiny", *CONSTANT)
    words += ("optim.generator.lr_multipliers=[1,1,1]",)
    fp16 = MixedPrecision("16-mixed", "cpu", scaler)
    fit_batch(configure, tmp_path, some_batch(), 3, *words, callbacks=[GeneratorEMA(8, 0.0), Record()], plugins=fp16)
    assert not math.isfinite(norms[0]) and all(math.isfinite(norm) for norm in norms[1:]), "unscaled before clipping"
    assert torch.equal(weights[0], torch.zeros_like(weights[0])) and not torch.equal(weights[1], weights[0])
    assert moves == [4, 4] and scaler.get_scale() == 2.0**8


def test_consumers_take_the_average_and_say_so(
    configure: Configure, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = configure("train", "phase=pretrain_gen", "model=tiny")
    made = build.make_module(config, resume_from=Path("nowhere"))
    average = GeneratorEMA(8, 0.0)
    made.trainer = SimpleNamespace(is_last_batch=True)  # type: ignore[assignment]
    average.on_fit_start(made.trainer, made)
    with torch.no_grad():
        made.generator.to_colour.conv.bias += 1
    content = {"state_dict": made.state_dict(), "callbacks": {average.state_key: average.state_dict()}, "epoch": 0}
    made.on_save_checkpoint(content)
    path = tmp_path / "some.ckpt"
    torch.save(content, path)

    def bias(network: Any) -> torch.Tensor:
        return network.to_colour.conv.bias.detach()

    averaged, raw = bias(average.network), bias(made.generator)
    caplog.set_level("INFO", "colorize")
    assert has_average(path)
    assert torch.equal(bias(load_network(path, "generator")), averaged)
    assert f"{path}: the averaged weights (EMA) are taken" in caplog.text
    assert torch.equal(bias(load_network(path, "generator", use_ema=False)), raw)
    assert f"{path}: the weights of the last step are taken" in caplog.text
    assert "0 images seen, averaged weights, trained on" in load_weights(path).title
    assert torch.equal(bias(load_weights(path, use_ema=False).network), raw)
    config.init_from.generator = str(path)
    for config.use_ema, expected in ((True, averaged), (False, raw)):
        assert first_weights.init_from(config, "generator", made.generator)
        assert torch.equal(bias(made.generator), expected)


def test_saved_images_of_averaged_and_of_raw_weights_are_not_mixed(tmp_path: Path) -> None:
    made = Manifest("a.ckpt", "abc", 40, [], [], complete=False, averaged=True)
    made.write(tmp_path)
    made.refuse_to_mix(tmp_path)
    with pytest.raises(UserError, match=r"use_ema=true\) of photos in files, not .*use_ema=false\)"):
        dataclasses.replace(made, averaged=False).refuse_to_mix(tmp_path)


def test_a_half_life_may_be_a_share_of_the_images_of_the_phase(configure: Configure, tmp_path: Path) -> None:
    table = ("resolution.size_px=[32,32]", "resolution.batch_size=[8,5]", "resolution.epochs=[1,2]")
    # 18 photos: two batches of 8, then twice three of 5; with a limit, one batch an epoch.
    for words, expected in ((), 0.5 * (16 + 2 * 15)), (("trainer.limit_train_batches=1",), 0.5 * (8 + 2 * 5)):
        config = configure("train", "phase=gan", "ema.half_life_share=0.5", *table, *words)
        config.save.every_share = 0.25
        alone = dataclasses.replace(config, phase="pretrain_gen", save=SaveConfig())
        assert monitored(alone) == "val_ema/content"
        schedule = build.make_schedule(config)
        callbacks = build.make_callbacks(config, PhaseFolder(str(tmp_path), "r", "gan"), schedule)
        (average,) = (callback for callback in callbacks if isinstance(callback, GeneratorEMA))
        data = SimpleNamespace(photos=SimpleNamespace(train=range(18)), has_news=None, share_unreadable=None)
        module = SimpleNamespace(exchanges=[])
        callbacks[0].setup(SimpleNamespace(datamodule=data), module, "fit")
        started(average, module.phase_images)
        assert config.save.every(module.phase_images) == round(0.25 * module.phase_images)
        assert average.half_life_images == expected
    config.ema.half_life_images = 20
    with pytest.raises(BadOption, match=r"half_life_images=20 and ema\.half_life_share=0\.5 .*set one of them to null"):
        build.make_callbacks(config, PhaseFolder(str(tmp_path), "r", "gan"), schedule)
