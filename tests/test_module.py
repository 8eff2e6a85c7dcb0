"""The training step of each phase, and whole small fits."""

import csv
import math
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata
from torch.utils.data import DataLoader

from colorize import train
from colorize.color import rgb_to_grey
from colorize.config import TrainConfig
from colorize.config.sections import ModelConfig
from colorize.data.datamodule import Batch
from colorize.data.luma_lookup import LumaLookup
from colorize.data.tensors import to_uint8
from colorize.metrics import MeanMetrics
from colorize.networks.heads import Prediction
from colorize.runs import PhaseFolder
from colorize.runtime.errors import UserError
from colorize.runtime.schema import leaves
from colorize.training import build
from colorize.training.hyper_parameters import NO_HYPER_PARAMETERS, hyper_parameters
from colorize.training.module import ColorizationModule
from colorize.training.objective import gradient_at
from colorize.training.phases import PHASES, VAL
from colorize.weights.checkpoints import AVERAGE, read_checkpoint
from colorize.weights.load import load_network
from tests.conftest import PERCEPTUAL, TWO_SIZES, draw_photo

Configure = Callable[..., Any]


def some_batch(photos: int = 4, size_px: int = 32, fake: bool = False) -> Batch:
    rgb = torch.stack([to_uint8(draw_photo(i).resize((size_px, size_px))) for i in range(photos)]).float() / 255
    grey = rgb_to_grey(rgb)
    names = [f"photo {i}" for i in range(photos)]
    return Batch(rgb, grey, grey, grey.expand(-1, 3, -1, -1).clone() if fake else None, names)


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
    configure: Configure,
    tmp_path: Path,
    batch: Batch,
    steps: int,
    *overrides: str,
    callbacks: Sequence[L.Callback] = (),
    **options: Any,
) -> tuple[ColorizationModule, list[dict[str, float]]]:
    """Fit a fresh module to `batch` alone; return it with the terms of every step. `options` are of the Trainer."""
    config = configure("train", *overrides)
    L.seed_everything(0, verbose=False)
    # As for a resumed fit: fresh networks, no predecessors asked for.
    module = build.make_module(config, resume_from=Path("nowhere"))
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
        callbacks=[*callbacks, Record()],
        default_root_dir=tmp_path,
        **options,
    )
    trainer.fit(module, OneBatch(batch, steps))
    return module, seen


FREE = ("schedule=constant", "freeze_low=null", "freeze_high=null")
CONSTANT = [f"optim.{name}.{key}" for name in ("generator", "critic") for key in FREE]


def test_one_batch_overfits_in_pretraining_of_the_generator(configure: Configure, tmp_path: Path) -> None:
    free = ("optim.generator.lr=3e-3", "optim.generator.lr_multipliers=[1,1,1]", *PERCEPTUAL)
    _, seen = fit_batch(configure, tmp_path, some_batch(2), 30, "phase=pretrain_gen", *CONSTANT, *free)
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
        some_batch(2),
        30,
        "phase=gan",
        *CONSTANT,
        "optim.generator.lr=3e-3",
        "model.critic=resnet18",  # the tiny one's answer, before it has learnt anything, hardly depends on the picture
        "optim.generator.lr_multipliers=[1,1,1]",
        "switch.mode=fixed",
        "switch.critic_steps=0",
        "loss.content=0.0",
    )
    losses = [terms["generator/adversarial"] for terms in seen]
    assert max(losses[-5:]) < min(losses[:5])  # by how much depends on the processor's rounding
    assert seen[0]["generator/adversarial_gradient_share"] == pytest.approx(1.0)


GENERATOR_ALONE = ("switch.mode=fixed", "switch.critic_steps=0")
UNBALANCED = "loss.adversarial_share=null"


@pytest.mark.parametrize("output", [pytest.param("rgb", marks=pytest.mark.slow), "bins"])
def test_a_held_share_learns_from_the_photo_whatever_the_weights_say(
    configure: Configure, tmp_path: Path, output: str
) -> None:
    """With a content loss of no weight to speak of, the critic alone would have its way."""
    pixels = ["model.keep_luma=true", f"model.output={output}", "optim.generator.lr=5e-3", "loss.content=1e-6"]
    pixels += ["optim.generator.lr_multipliers=[1,1,1]", *CONSTANT, *GENERATOR_ALONE]
    _, held = fit_batch(configure, tmp_path, some_batch(2), 16, "phase=gan", *pixels, "loss.adversarial_share=0.1")
    _, free = fit_batch(configure, tmp_path, some_batch(2), 16, "phase=gan", *pixels, UNBALANCED)
    for seen in (held, free):
        assert seen[0]["generator/adversarial_gradient_share"] > 0.99, "what is logged is the raw share"
    fall = {
        name: seen[-1]["generator/content"] / seen[0]["generator/content"]
        for name, seen in (("held", held), ("free", free))
    }
    assert fall["held"] < 0.95 < fall["free"]


@pytest.mark.slow
def test_a_share_that_undoes_step_1_is_warned_of(
    configure: Configure, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    unbalanced = ("phase=gan", *CONSTANT, *GENERATOR_ALONE, "loss.content=1e-3", UNBALANCED)
    fit_batch(configure, tmp_path, some_batch(2), 49, *unbalanced)
    assert "adversarial_share" not in caplog.text
    fit_batch(configure, tmp_path, some_batch(2), 60, *unbalanced)
    assert caplog.text.count("set loss.adversarial_share=0.3") == 1


def test_the_critic_is_shown_photos_of_another_chroma(configure: Configure, tmp_path: Path) -> None:
    """Without any, photos are the same as what was generated here, grey, and no critic is better than chance."""
    steps = ("phase=pretrain_critic", *CONSTANT, "loss.real_chroma=0")
    _, seen = fit_batch(configure, tmp_path, some_batch(fake=True), 10, *steps)
    assert min(terms["critic/loss"] for terms in seen) > math.log(2) - 1e-4


@pytest.mark.slow
def test_a_patch_critic_with_hinge_overfits_too(configure: Configure, tmp_path: Path) -> None:
    patch = ("phase=pretrain_critic", *CONSTANT, "model.critic=patch", "loss.gan=hinge", "optim.critic.lr=3e-4")
    _, seen = fit_batch(configure, tmp_path, some_batch(fake=True), 40, *patch, "optim.critic.lr_multipliers=[1,1,1]")
    assert seen[-1]["critic/loss"] < 0.5 < seen[0]["critic/loss"]


def test_validation_judges_colours_on_the_photos_luma(configure: Configure) -> None:
    """Of a network whose own luma is off and whose chroma is right, no loss is left: nobody sees that luma."""
    batch = some_batch()._replace(rgb=0.25 + 0.5 * some_batch().rgb)
    batch = batch._replace(grey=rgb_to_grey(batch.rgb), luma=rgb_to_grey(batch.rgb))
    module = build.make_module(configure("train", "phase=pretrain_gen"), Path("nowhere"))
    module.validated, module.luma_lookup = MeanMetrics(), LumaLookup()
    module.luma_lookup.update(batch.rgb)
    module.validate_colours(VAL, module.generator, Prediction(batch.rgb + 0.2), batch)
    means = module.validated.means()
    assert means["val/pixel"] == pytest.approx(0, abs=1e-9) and means["val/content"] == pytest.approx(0, abs=1e-4)


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
    with pytest.raises(UserError, match=r"generator's loss is nan in epoch 1, batch 0, on photo 0, photo 1"):
        fit_batch(configure, tmp_path, batch, 1, "phase=pretrain_gen")


# --- whole fits -------------------------------------------------------------------------------------------------------


def steps_done(config: Any) -> list[tuple[int, int]]:
    """(epoch, size_px) of each row of metrics.csv."""
    path = PhaseFolder(config.runs_dir, config.run, config.phase).metrics
    with path.open() as file:
        return [(int(row["epoch"]) - 1, int(row["size_px"])) for row in csv.DictReader(file)]


def final_state(config: Any) -> dict[str, Any]:
    path = PhaseFolder(config.runs_dir, config.run, config.phase).last
    return torch.load(path, weights_only=True)


class Events:
    """What the event files of a phase hold."""

    def __init__(self, config: Any) -> None:
        folder = PhaseFolder(config.runs_dir, config.run, config.phase).path
        (settings,) = folder.glob("events.out.tfevents.*.settings")
        read = EventAccumulator(str(settings)).Reload()
        hparams = read.PluginTagToContent("hparams")
        start = metadata.parse_session_start_info_plugin_data(hparams[metadata.SESSION_START_INFO_TAG])
        self.hparams = {name: getattr(value, value.WhichOneof("kind")) for name, value in start.hparams.items()}
        end = hparams.get(metadata.SESSION_END_INFO_TAG)
        self.ended = end is not None and metadata.parse_session_end_info_plugin_data(end).status == 1  # STATUS_SUCCESS
        self.config = [event.tensor_proto.string_val[0].decode() for event in read.Tensors("config")]
        self.curves: dict[str, dict[int, float]] = {}
        self.pictures: dict[int, Any] = {}
        for path in sorted(set(folder.glob("*tfevents*")) - {settings}):
            read = EventAccumulator(str(path), {"images": 0}).Reload()
            for tag in read.Tags()["scalars"]:
                self.curves.setdefault(tag, {}).update({event.step: event.value for event in read.Scalars(tag)})
            for tag in read.Tags()["images"]:
                self.pictures |= {event.step: event for event in read.Images(tag)}

    def last(self, tag: str) -> float:
        """The figure that TensorBoard's HPARAMS tab shows."""
        return self.curves[tag][max(self.curves[tag])]


class Stop(Exception):
    """Ends a fit at a chosen moment, as a crash would."""


def test_a_fit_that_was_stopped_shows_everything_once(configure: Configure) -> None:
    """That it ends to the bit as one that was not: tests/test_resume.py."""
    overrides = ["phase=pretrain_gen", *TWO_SIZES, "model=tiny"]
    overrides += ["ema.half_life_images=20", "save.every_n_images=8", "save.keep=1"]
    halved = configure("train", *overrides)
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
    first = Events(halved)
    assert not first.ended
    assert first.hparams["optim.generator.lr"] == halved.optim.generator.lr
    assert first.hparams["resolution.size_px"] == "[32,48]"
    seen_epochs: list[int] = []

    def record(self: ColorizationModule) -> None:
        original(self)
        seen_epochs.append(self.trainer.current_epoch)

    halved.resume = "auto"
    halved.trainer.limit_val_batches = 99  # more than there are: other settings, same fit
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ColorizationModule, "on_train_epoch_start", record)
        train.run(halved)
    assert seen_epochs == [1], "resumed, not done again"
    assert steps_done(halved) == [(0, 32), (1, 48)]
    state = final_state(halved)
    average = state["callbacks"][AVERAGE]
    assert average["images"] == 32
    name = "encoder.conv1.weight"
    assert not torch.equal(average["generator"][name], state["state_dict"][f"generator.{name}"]), "one of its own"

    # Scored at the start, where checkpoints are kept and at the end of an epoch, whose last batch (16, 32) keeps none.
    curve = state["colorize"]["curve"]
    assert [point["images_seen"] for point in curve] == [0, 8, 16, 24, 32]
    kept = PhaseFolder(halved.runs_dir, halved.run, halved.phase).checkpoints
    names = ["best.ckpt", "images-24.ckpt", "last.ckpt", "last.ckpt.before"]
    assert sorted(path.name for path in kept.iterdir()) == names
    card, _ = read_checkpoint(kept / "images-24.ckpt")
    assert (card.images_seen, card.epochs_done, card.averaged) == (24, 1, True)
    assert card.score == curve[3]
    assert load_network(kept / "images-24.ckpt", "generator").architecture == card.generator

    # TensorBoard: one row of settings, those of the last start, and no point or picture doubled or lost.
    events, folder = Events(halved), PhaseFolder(halved.runs_dir, halved.run, halved.phase).path
    assert events.ended
    assert (first.hparams["trainer.limit_val_batches"], events.hparams["trainer.limit_val_batches"]) == ("null", 99)
    assert ["limit_val_batches: 99" in text for text in events.config] == [True]
    assert [*events.curves["score/distance"]] == [*events.curves["score/skill"]] == [0, 8, 16, 24, 32]
    assert events.last("val/content") != events.last("val_ema/content") >= events.last("Best/content")
    # All four validation photos are scored: the same pixels, by the averaged weights, in another order.
    assert events.curves["val_ema/skill"][32] == pytest.approx(curve[4]["skill"], abs=1e-4)
    assert events.last("val/skill") != events.last("val_ema/skill") == events.last("Best/skill")
    assert events.curves["data/size_px"] == {16: 32, 32: 48}
    assert list(events.curves["data/epoch"].values()) == [1, 2]
    # The first screen has curves rather than lines of two points; the best ones stay first in the HPARAMS tab.
    assert set(events.curves["_overview/ciede2000"]) >= {0, 8, 16, 24, 32} and "_overview/content" in events.curves
    assert min(events.curves) == "Best/ciede2000"
    assert set(events.pictures) == {0, *events.curves["val/psnr"]} == {0, 16, 32}
    assert {picture.width for picture in events.pictures.values()} == {6 * (128 + 8) - 8 + 2 * 28}
    assert sorted(path.name for path in folder.iterdir() if "tfevents" not in path.name) == [
        ".lock",
        "checkpoints",
        "config.yaml",
        "metrics.csv",
    ]


def test_a_checkpoint_is_plain_states_its_architecture_and_holds_no_vgg(configure: Configure) -> None:
    words = ["phase=pretrain_gen", *TWO_SIZES, "resolution.epochs=[1,0]", *PERCEPTUAL, "data=scenes", "data.scenes=24"]
    config = configure("train", *words)
    train.run(config)
    content = final_state(config)
    assert {name.split(".")[0] for name in content["state_dict"]} == {"generator"}
    card, _ = read_checkpoint(PhaseFolder(config.runs_dir, config.run, config.phase).best)
    assert (card.phase, card.epochs_done, card.epochs, card.images_seen) == ("pretrain_gen", 1, 1, 16)
    network = load_network(PhaseFolder(config.runs_dir, config.run, config.phase).best, "generator")
    assert network.architecture == card.generator
    with PhaseFolder(config.runs_dir, config.run, config.phase).metrics.open() as file:
        (row,) = csv.DictReader(file)
    assert 0 <= float(row["val/region/mean"]) <= 1, "scenes come with regions"
    assert Events(config).last("val_region/mean") == pytest.approx(float(row["val/region/mean"]))


def test_the_best_figure_survives_a_stop_and_a_move(configure: Configure, tmp_path: Path) -> None:
    """val/content is made to rise, so that the first epoch stays the best."""
    original = ColorizationModule.log_dict

    def rising(self: ColorizationModule, terms: dict[str, Any], **options: Any) -> None:
        made_up = torch.tensor(1.0 + self.trainer.current_epoch)
        original(self, {name: made_up if name == "val/content" else v for name, v in terms.items()}, **options)

    words = ["phase=pretrain_gen", *TWO_SIZES, "resolution.size_px=[32,32]"]
    words += ["trainer.limit_train_batches=1"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ColorizationModule, "log_dict", rising)
        assert train.run(configure("train", *words, "run=before", "resolution.epochs=[1,0]")) == 1.0
        (tmp_path / "runs" / "before").rename(tmp_path / "runs" / "after")
        config = configure("train", *words, "run=after", "resume=auto")
        assert train.run(config) == 1.0, "the best, not the last"
    folder = PhaseFolder(config.runs_dir, config.run, config.phase)
    card, _ = read_checkpoint(folder.best)
    assert card.epochs_done == 1
    events = Events(config)
    with folder.metrics.open() as file:
        first, last = csv.DictReader(file)
    assert (events.last("Best/content"), events.last("val/content")) == (1.0, 2.0)
    for name in ("ciede2000", "psnr"):
        assert events.last(f"Best/{name}") == pytest.approx(float(first[f"val/{name}"]))
        assert events.last(f"val/{name}") == pytest.approx(float(last[f"val/{name}"]))


def test_hyper_parameters_are_those_that_matter_to_the_phase() -> None:
    model = ModelConfig(name="paper", critic_weights="a/b.pth")
    found = {phase: hyper_parameters(TrainConfig(recipe="paper", phase=phase, model=model)) for phase in PHASES}
    assert set(NO_HYPER_PARAMETERS) <= {key.name for key in leaves(TrainConfig)}
    for name, phases in {
        "seed": {"pretrain_gen", "pretrain_critic", "gan"},
        "optim.generator.lr": {"pretrain_gen", "gan"},
        "optim.critic.lr": {"pretrain_critic", "gan"},
        "loss.pixel": {"pretrain_gen", "gan"},
        "switch.mode": {"gan"},
        "loss.adversarial": {"gan"},
        "model.critic_weights": {"pretrain_critic", "gan"},
        "data.root": set(),
        "run": set(),
        "init_from.generator": set(),
    }.items():
        assert {phase for phase in found if name in found[phase]} == phases, name
    assert found["gan"]["model.critic_weights"] == "b.pth"
    assert found["gan"]["data.flip"] is True


def test_the_command_of_a_job_can_be_typed() -> None:
    config = TrainConfig(recipe="paper", phase="gan", sweep="seeds", job=3)
    assert build.shell_command(config, []) is None
    command = build.shell_command(config, ["data.root=my photos", "seed=1", "sweep=seeds"]) or ""
    words = shlex.split(command.replace("\\\n", " "))
    assert words == ["python", "-m", "colorize.train", "data.root=my photos", "seed=1", "sweep=seeds", "job=3"]
