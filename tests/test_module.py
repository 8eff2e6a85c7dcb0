"""The training step of each phase, and whole small fits."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader

from colorize import build, checkpoints, train
from colorize.color import rgb_to_grey
from colorize.data.datamodule import Batch
from colorize.data.images import to_uint8
from colorize.module import ColorizationModule, NonFiniteLoss, gradient_at
from colorize.runs import PhaseFolder
from tests.conftest import TWO_SIZES, draw_photo

Configure = Callable[..., Any]


def some_batch(photos: int = 4, size_px: int = 32, fake: bool = False) -> Batch:
    rgb = torch.stack([to_uint8(draw_photo(i).resize((size_px, size_px))) for i in range(photos)]).float() / 255
    grey = rgb_to_grey(rgb)
    names = [f"photo {i}" for i in range(photos)]
    return Batch(rgb, grey, grey.expand(-1, 3, -1, -1).clone() if fake else None, names)


class OneBatch(L.LightningDataModule):
    """The same batch again and again."""

    def __init__(self, batch: Batch, steps: int) -> None:
        super().__init__()
        self.batch, self.steps = batch, steps

    def train_dataloader(self) -> DataLoader[Batch]:
        return DataLoader([self.batch] * self.steps, batch_size=None, collate_fn=lambda batch: batch)

    def val_dataloader(self) -> DataLoader[Batch]:
        return self.train_dataloader()


def fit_batch(
    configure: Configure, tmp_path: Path, batch: Batch, steps: int, *overrides: str
) -> tuple[ColorizationModule, list[dict[str, float]]]:
    """Fit a fresh module to `batch` alone; returns it with the terms of every step."""
    config = configure("train", *overrides)
    L.seed_everything(0, verbose=False)
    # As for a resumed fit: fresh networks, no predecessors asked for.
    module = ColorizationModule(config, *build.make_networks(config, resume_from=Path("nowhere")))
    seen: list[dict[str, float]] = []

    class Record(L.Callback):
        def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, index: int) -> None:
            seen.append({name: float(value) for name, value in outputs.items()})

    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=1,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[Record()],
        default_root_dir=tmp_path,
    )
    trainer.fit(module, OneBatch(batch, steps))
    return module, seen


FREE = ("schedule=constant", "freeze_low=null", "freeze_high=null")
CONSTANT = [f"optim.{name}.{key}" for name in ("generator", "critic") for key in FREE]


def test_one_batch_overfits_in_pretraining_of_the_generator(configure: Configure, tmp_path: Path) -> None:
    _, seen = fit_batch(
        configure, tmp_path, some_batch(), 30, "phase=pretrain_gen", *CONSTANT, "optim.generator.lr_multipliers=[1,1,1]"
    )
    assert seen[-1]["generator/pixel"] < 0.25 * seen[0]["generator/pixel"]
    assert seen[-1]["generator/content"] < 0.7 * seen[0]["generator/content"]
    assert set(seen[0]) == {
        *(f"generator/{n}" for n in ("pixel", "feature_0", "feature_1", "feature_2", "content", "total"))
    }


def test_one_batch_overfits_in_pretraining_of_the_critic(configure: Configure, tmp_path: Path) -> None:
    _, seen = fit_batch(configure, tmp_path, some_batch(fake=True), 25, "phase=pretrain_critic", *CONSTANT)
    assert seen[-1]["critic/loss"] < 0.1 < 0.5 < seen[0]["critic/loss"]
    assert seen[-1]["critic/accuracy_real"] == seen[-1]["critic/accuracy_fake"] == 1.0


def test_a_generator_against_a_standing_critic_learns_to_fool_it(configure: Configure, tmp_path: Path) -> None:
    _, seen = fit_batch(
        configure,
        tmp_path,
        some_batch(),
        40,
        "phase=gan",
        *CONSTANT,
        "optim.generator.lr=1e-3",
        "loss.feature_weights=[0,0,0]",
        "optim.generator.lr_multipliers=[1,1,1]",
        "switch.mode=fixed",
        "switch.critic_steps=0",
        "loss.content=0.0",
    )
    assert seen[-1]["generator/adversarial"] < 0.7 * seen[0]["generator/adversarial"]
    assert seen[0]["generator/adversarial_gradient_share"] == pytest.approx(1.0)


def snapshot(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


def changed(network: torch.nn.Module, before: dict[str, torch.Tensor]) -> list[str]:
    return [name for name, value in network.state_dict().items() if not torch.equal(value, before[name])]


@pytest.mark.parametrize("turn", ["critic", "generator"])
def test_a_step_of_one_network_leaves_the_other_untouched(configure: Configure, tmp_path: Path, turn: str) -> None:
    before: dict[str, dict[str, torch.Tensor]] = {}
    original = ColorizationModule.on_train_start

    def on_train_start(self: ColorizationModule) -> None:
        original(self)
        before.update(generator=snapshot(self.generator), critic=snapshot(self.critic))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ColorizationModule, "on_train_start", on_train_start)
        steps = [f"switch.{name}_steps={int(name == turn)}" for name in ("critic", "generator")]
        module, _ = fit_batch(configure, tmp_path, some_batch(), 1, "phase=gan", *CONSTANT, "switch.mode=fixed", *steps)
    other = "generator" if turn == "critic" else "critic"
    assert changed(module.network(turn), before[turn])
    assert changed(module.network(other), before[other]) == [], "weights and batch norm statistics alike"
    assert all(p.grad is None for p in module.network(other).parameters())


def test_gradients_at_the_picture_add_up_to_those_of_the_sum() -> None:
    torch.manual_seed(0)
    weight = torch.randn(5, requires_grad=True)
    picture = weight.expand(2, 3, 4, 5).clone()
    picture.retain_grad()
    leaf = picture.detach().requires_grad_()
    apart = gradient_at(leaf, leaf.square().mean()) + gradient_at(leaf, 3 * leaf.sin().sum())
    (picture.square().mean() + 3 * picture.sin().sum()).backward()
    torch.testing.assert_close(apart, picture.grad)


@pytest.mark.parametrize(("norms", "moving"), [("fixed", []), ("statistics", ["stat"]), ("learn", ["stat", "affine"])])
def test_a_frozen_encoder_stands_still_as_the_configuration_says(
    configure: Configure, tmp_path: Path, norms: str, moving: list[str]
) -> None:
    before: dict[str, torch.Tensor] = {}

    config_overrides = (
        "phase=pretrain_gen",
        "optim.generator.schedule=constant",
        "optim.generator.freeze_low=[0,1]",
        "optim.generator.freeze_high=[0,1]",
        f"optim.generator.frozen_norms={norms}",
    )
    original = ColorizationModule.on_train_epoch_start

    def on_train_epoch_start(self: ColorizationModule) -> None:
        original(self)
        before.update(snapshot(self.generator.encoder))
        assert all(p.requires_grad for p in self.generator.parameters())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ColorizationModule, "on_train_epoch_start", on_train_epoch_start)
        module, _ = fit_batch(configure, tmp_path, some_batch(), 3, *config_overrides)
    encoder = module.generator.encoder
    names = set(changed(encoder, before))
    convolutions = {name for name, p in encoder.named_parameters() if p.ndim > 1}
    affine = {name for name, p in encoder.named_parameters() if p.ndim == 1}
    statistics = {name for name, _ in encoder.named_buffers()}
    assert not names & convolutions
    assert bool(names & affine) == ("affine" in moving)
    assert bool(names & statistics) == ("stat" in moving)


def test_a_loss_that_is_not_finite_names_batch_and_files(configure: Configure, tmp_path: Path) -> None:
    batch = some_batch()
    batch.rgb[1, 0, 0, 0] = float("nan")
    with pytest.raises(NonFiniteLoss, match=r"generator's loss is nan in epoch 0, batch 0, on photo 0, photo 1"):
        fit_batch(configure, tmp_path, batch, 1, "phase=pretrain_gen")


# --- whole fits -------------------------------------------------------------------------------------------------------


def steps_done(config: Any) -> list[tuple[int, int]]:
    """(epoch, size_px) of each row of metrics.csv."""
    path = PhaseFolder(config.runs_dir, config.run, config.phase).metrics
    with path.open() as file:
        return [(int(row["epoch"]), int(row["size_px"])) for row in csv.DictReader(file)]


def final_state(config: Any) -> dict[str, Any]:
    path = PhaseFolder(config.runs_dir, config.run, config.phase).last
    return torch.load(path, weights_only=True)


class Stop(Exception):
    """Ends a fit at a chosen moment, as a crash would."""


def test_resumed_equals_uninterrupted(configure: Configure) -> None:
    overrides = ["phase=pretrain_gen", *TWO_SIZES, "loss.feature_weights=[0,0,0]"]
    whole, halved = (configure("train", *overrides, f"run={name}") for name in ("whole", "halved"))
    train.run(whole)

    original = ColorizationModule.on_train_epoch_start

    def stop_in_second(self: ColorizationModule) -> None:
        original(self)
        if self.trainer.current_epoch == 1:
            raise Stop

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ColorizationModule, "on_train_epoch_start", stop_in_second)
        with pytest.raises(Stop):
            train.run(halved)
    assert steps_done(halved) == [(0, 32)]
    seen_epochs: list[int] = []

    def record(self: ColorizationModule) -> None:
        original(self)
        seen_epochs.append(self.trainer.current_epoch)

    halved.resume = "auto"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ColorizationModule, "on_train_epoch_start", record)
        train.run(halved)
    assert seen_epochs == [1], "resumed, not done again"
    assert steps_done(halved) == steps_done(whole) == [(0, 32), (1, 48)]
    one, other = final_state(whole), final_state(halved)
    assert one["state_dict"].keys() == other["state_dict"].keys()
    assert [n for n, v in one["state_dict"].items() if not torch.equal(v, other["state_dict"][n])] == []
    moments = [state["optimizer_states"][0]["state"] for state in (one, other)]
    for index, values in moments[0].items():
        assert all(torch.equal(value, moments[1][index][name]) for name, value in values.items())


def test_a_checkpoint_is_plain_states_its_architecture_and_holds_no_vgg(configure: Configure) -> None:
    config = configure("train", "phase=pretrain_gen", *TWO_SIZES, "resolution.epochs=[1,0]")
    train.run(config)
    content = final_state(config)
    assert {name.split(".")[0] for name in content["state_dict"]} == {"generator"}
    card, _ = checkpoints.read(PhaseFolder(config.runs_dir, config.run, config.phase).best)
    assert (card.phase, card.epochs_done, card.complete, card.images_seen) == ("pretrain_gen", 1, True, 16)
    network = checkpoints.load_network(PhaseFolder(config.runs_dir, config.run, config.phase).best, "generator")
    assert network.architecture == card.generator


def test_the_best_figure_survives_a_stop_and_a_move(configure: Configure, tmp_path: Path) -> None:
    """val/content is made to rise, so that the first epoch stays the best."""
    original = ColorizationModule.log_dict

    def rising(self: ColorizationModule, terms: dict[str, Any], **options: Any) -> None:
        made_up = torch.tensor(1.0 + self.trainer.current_epoch)
        original(self, {name: made_up if name == "val/content" else v for name, v in terms.items()}, **options)

    words = ["phase=pretrain_gen", *TWO_SIZES, "resolution.size_px=[32,32]", "loss.feature_weights=[0,0,0]"]
    words += ["trainer.limit_train_batches=1"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ColorizationModule, "log_dict", rising)
        assert train.run(configure("train", *words, "run=before", "resolution.epochs=[1,0]")) == 1.0
        (tmp_path / "runs" / "before").rename(tmp_path / "runs" / "after")
        config = configure("train", *words, "run=after", "resume=auto")
        assert train.run(config) == 1.0, "the best, not the last"
    card, _ = checkpoints.read(PhaseFolder(config.runs_dir, config.run, config.phase).best)
    assert card.epochs_done == 1
