"""The commands as a user types them: the four steps, what they leave, and what they say when something is wrong."""

import csv
import math
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from colorize import config as schemas
from colorize import generate, pipeline, train
from colorize.cli.command import configured, run_command
from colorize.data.from_config import list_photos
from colorize.data.generated import Manifest, image_path, read_manifest
from colorize.data.images import center_box, load_square, save_png
from colorize.evaluation import candidates
from colorize.runs import PhaseFolder
from colorize.runtime import schema
from colorize.runtime.errors import UserError
from colorize.runtime.files import locked, sha256
from colorize.training import build
from colorize.training.hyper_parameters import differences, settings
from colorize.training.phases import PHASES
from colorize.weights.checkpoints import read_checkpoint
from colorize.weights.checksum import fingerprint
from colorize.weights.load import load_network
from tests.conftest import TINY, TWO_SIZES
from tests.typed import typed, typed_in_a_shell

Configure = Callable[..., Any]


def in_this_process(arguments: list[str]) -> int:
    """Do what `python -m colorize.COMMAND WORDS` does."""
    _, _, module, *words = arguments
    name = module.removeprefix("colorize.")
    run_command(name, {"train": train, "generate": generate}[name].run, words)
    return 0


@pytest.mark.parametrize("start", [typed, pytest.param(typed_in_a_shell, marks=pytest.mark.slow)])
def test_pipeline_runs_the_four_steps_and_then_has_nothing_left_to_do(
    start: Callable[..., subprocess.CompletedProcess[str]],
    tmp_path: Path,
    photos: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    root = tmp_path / "it's a = [photo], Фото"
    shutil.copytree(photos, root)
    words = (
        *TINY,
        "run=trial",
        f"data.root={root}",
        "data.val_fraction=0.25",
        "data.max_val=4",
        "save.score_photos=2",
        *TWO_SIZES,
        "only.generate=data.train_fraction=1 size_px=48 batch_size=8",
        "only.pretrain_critic=data.train_fraction=1",
        "only.gan=data.train_fraction=1 optim.generator.lr=1e-4 switch.mode=fixed",
    )
    done = start("pipeline", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "runs" / "trial"
    for row in ("grey", "luma look-up", "after step 1 (pretrained)", "after step 4 (GAN)"):
        assert f"| {row} |" in done.stdout
    with Image.open(folder / "gallery.png") as gallery:
        assert gallery.width > 4 * 160 < gallery.height
    for phase in ("pretrain_gen", "pretrain_critic", "gan"):
        parts = {str(path.relative_to(folder / phase)).split(".1")[0] for path in (folder / phase).rglob("*")}
        assert {"checkpoints/last.ckpt", "checkpoints/best.ckpt", "config.yaml", "metrics.csv"} <= parts
        assert "events.out.tfevents" in parts
        with (folder / phase / "metrics.csv").open() as file:
            assert [row["size_px"] for row in csv.DictReader(file)] == ["32", "48"]

    # Step 4 is a GAN: both networks moved, and the critic's push on the generator is on record.
    for name, phase in (("generator", "pretrain_gen"), ("critic", "pretrain_critic")):
        before = load_network(folder / phase / "checkpoints" / "best.ckpt", name).state_dict()
        after = load_network(folder / "gan" / "checkpoints" / "last.ckpt", name).state_dict()
        assert any(not torch.equal(before[key], after[key]) for key in before), name
    with (folder / "gan" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert all(0 < float(row["generator/adversarial_gradient_share"]) < 1 for row in rows)
    assert {"lr/encoder_low", "lr/decoder", "lr/body_low", "lr/head", "critic/accuracy_real", "images_per_s"} <= set(
        rows[0]
    )

    written = {path: path.stat().st_mtime_ns for path in folder.rglob("*.ckpt")}
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pipeline.signals, "run", in_this_process)  # ten more processes would add nothing but time
    monkeypatch.setattr(pipeline, "given_overrides", lambda: list(words))
    caplog.set_level("INFO", "colorize")
    pipeline.run(configured("pipeline", words))
    assert caplog.text.count("is complete") == 4
    assert written == {path: path.stat().st_mtime_ns for path in folder.rglob("*.ckpt")}


@pytest.mark.slow
def test_cycles_are_added_to_a_run_and_go_on_where_they_stopped(
    tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*TINY, "run=trial", f"data.root={photos}", "data.train_fraction=1"]
    words += ["resolution.size_px=[32]", "resolution.batch_size=[8]", "resolution.epochs=[1]", "switch.mode=fixed"]
    words += ["only.generate=size_px=32"]
    begun: list[str] = []
    stops_at = ""

    def step(arguments: list[str]) -> int:
        begun.append(" ".join(word for word in arguments if word.startswith(("phase=", "run="))))
        return 143 if begun[-1] == stops_at else in_this_process(arguments)

    def start(cycles: int) -> float | None:
        given = [*words, f"cycles={cycles}"]
        monkeypatch.setattr(pipeline, "given_overrides", lambda: list(given))
        return pipeline.run(configured("pipeline", given))

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pipeline.signals, "run", step)
    first, second = tmp_path / "runs/trial", tmp_path / "runs/trial/cycle_2"
    start(1)
    assert "after step 4 (GAN)" in capsys.readouterr().out
    kept = {path: path.stat().st_mtime_ns for path in first.rglob("*.ckpt")}
    with Image.open(first / "gallery.png") as gallery:
        width = gallery.width
    stops_at = "phase=pretrain_critic run=trial/cycle_2"
    with pytest.raises(UserError, match="step pretrain_critic failed"):
        start(2)
    kept |= {path: path.stat().st_mtime_ns for path in (second / "generated").rglob("*.png")}
    assert len(begun) == 4 + 6
    stops_at = ""
    figure = start(2)
    assert all(path.stat().st_mtime_ns == when for path, when in kept.items())

    best = first / "gan/checkpoints/best.ckpt"
    own = second / "pretrain_critic/checkpoints/best.ckpt"
    assert read_manifest(second / "generated").checkpoint_sha256 == sha256(best)
    sources = {
        phase: read_checkpoint(PhaseFolder(second, "", phase).best)[0].sources for phase in ("gan", own.parts[-3])
    }
    assert sources["pretrain_critic"]["init_from.critic"] == fingerprint(best)
    assert sources["gan"] == {"init_from.generator": fingerprint(best), "init_from.critic": fingerprint(own)}
    rows = {row[1].strip(): row for line in capsys.readouterr().out.splitlines() if len(row := line.split("|")) > 2}
    assert "after step 4 (GAN)" in rows
    assert float(rows["after step 4, cycle 2 (GAN)"][3].split()[0]) == pytest.approx(figure, abs=0.01)
    with Image.open(first / "gallery.png") as gallery:
        assert gallery.width > width + 160
    measured = candidates.find_checkpoints(configured("evaluate", ["run=trial", "data=folder", f"data.root={photos}"]))
    assert list(candidates.named(measured)) == ["trial/pretrain_gen/best", "trial/gan/best", "cycle_2/gan/best"]


def paper_through_all_steps(configure: Configure, *model: str) -> None:
    weights = [f"model.{name}_weights=none" for name in ("encoder", "critic", "vgg")]
    limits = ["trainer.limit_train_batches=1", "trainer.limit_val_batches=1", "data.val_batch_size=2"]
    scale = ["resolution.batch_scale=0.01", "grid_photos=1", "data.max_val=2", "data.val_size_px=64"]
    few = ["data.train_fraction=0.4", "save.score_photos=2"]
    for phase in ("pretrain_gen", "pretrain_critic", "gan"):
        config = configure("train", f"phase={phase}", *model, *weights, *limits, *scale, *few)
        train.run(config)
        with PhaseFolder(config.runs_dir, config.run, phase).metrics.open() as file:
            sizes = [int(row["size_px"]) for row in csv.DictReader(file)]
        assert sizes[0] in (64, 128)
        assert sizes[-1] == 220
        assert sizes == sorted(sizes)
        if phase == "pretrain_gen":
            generate.run(configure("generate", few[0], "data.max_val=2", "batch_size=4"))


def test_paper_recipe_goes_from_64_to_220_px_through_all_steps(configure: Configure) -> None:
    paper_through_all_steps(configure, "model=tiny", "model.width_factor=0.25")


@pytest.mark.slow
def test_paper_recipe_with_its_own_networks(configure: Configure) -> None:
    paper_through_all_steps(
        configure, "model=paper", "model.width_factor=1.0", "model.vgg=vgg16_bn", "loss.feature_weights=[20,70,10]"
    )


@pytest.mark.slow
def test_a_critic_of_real_against_resaved_real_stays_at_chance(configure: Configure, tmp_path: Path) -> None:
    """Nothing but content may tell real from saved: no codec, no crop, no resize."""
    train.run(configure("train", "phase=pretrain_gen", *TWO_SIZES, "resolution.epochs=[1,0]"))
    config = configure("generate", "data.train_fraction=1", "size_px=48")
    generate.run(config)
    folder = generate.output_folder(config)
    for identity in read_manifest(folder).images:
        save_png(load_square(Path(config.data.root) / identity, 48, center_box), image_path(folder, identity))
    config = configure("train", "phase=pretrain_critic", "data.train_fraction=1", *TWO_SIZES, "resolution.epochs=[2,3]")
    train.run(config)
    with PhaseFolder(config.runs_dir, config.run, "pretrain_critic").metrics.open() as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        assert float(row["val/accuracy"]) == pytest.approx(0.5)
        accuracy = (float(row["critic/accuracy_real"]) + float(row["critic/accuracy_fake"])) / 2
        assert accuracy == pytest.approx(0.5, abs=0.01)


def test_a_critic_with_a_handful_of_images_is_warned_of(
    configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    config = configure("train", "phase=pretrain_critic", "data.train_fraction=1", f"generated={tmp_path}/saved")
    photos = list_photos(config.data, config.seed, config.runs_dir)
    (tmp_path / "saved").mkdir()
    Manifest("a.ckpt", "abc", 40, photos.train[:8] + photos.val, [], complete=True).write(tmp_path / "saved")
    build.make_datamodule(config)
    (said,) = caplog.messages
    assert "saved has only 8 training images" in said and "data.train_fraction=1" in said and "\n" not in said
    caplog.clear()
    monkeypatch.setattr(build, "FEW_IMAGES", 8)
    build.make_datamodule(config)
    assert not caplog.messages


def test_generate_goes_on_where_it_stopped_and_refuses_to_mix(configure: Configure, tmp_path: Path) -> None:
    train.run(configure("train", "phase=pretrain_gen", *TWO_SIZES, "resolution.epochs=[1,0]"))
    config = configure("generate", "data.train_fraction=1", "size_px=40", "batch_size=5")
    generate.run(config)
    folder = generate.output_folder(config)
    manifest = read_manifest(folder)
    assert manifest.complete
    assert len(manifest.images) == 24
    paths = [image_path(folder, identity) for identity in manifest.images]
    first = paths[0].read_bytes()
    with Image.open(paths[0]) as picture:
        assert (picture.size, picture.mode, picture.format) == ((40, 40), "RGB", "PNG")
    times = [path.stat().st_mtime_ns for path in paths[1:]]
    paths[0].unlink()
    generate.run(config)
    assert paths[0].read_bytes() == first
    assert [path.stat().st_mtime_ns for path in paths[1:]] == times, "only what was missing is made"
    config.size_px = 64
    with pytest.raises(UserError, match=r"holds images of 40 px .* not images of 64 px"):
        generate.run(config)


@pytest.mark.slow
def test_two_processes_train_as_one_command(tmp_path: Path, photos: Path) -> None:
    words = [*TINY, f"data.root={photos}", "data.val_fraction=0.25", *TWO_SIZES]
    words += ["trainer.devices=2", "trainer.limit_train_batches=2", "phase=pretrain_gen"]
    done = typed_in_a_shell("train", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("is complete") == 1, "said once, not by each process"
    card, state = read_checkpoint(tmp_path / "runs/default/pretrain_gen/checkpoints/last.ckpt")
    assert (card.epochs_done, card.images_seen) == (2, 2 * 8 + 2 * 4)
    assert all(value.isfinite().all() for value in state.values() if value.is_floating_point())


def test_the_pipeline_hands_each_step_what_is_for_it() -> None:
    typed_words = ["data.root=x", "model=small", "init_from.generator=a.ckpt", "init_from.critic=b.ckpt", "seed=3"]
    steps = {step: pipeline.step_command(step, typed_words, []) for step in pipeline.STEPS}
    assert steps["generate"] == ["-m", "colorize.generate", "data.root=x", "seed=3"]
    for step in ("pretrain_gen", "pretrain_critic", "gan"):
        assert {"data.root=x", "model=small", "seed=3", f"phase={step}", "resume=auto"} <= set(steps[step])
        assert ("init_from.generator=a.ckpt" in steps[step]) == (step == "pretrain_gen")
        assert ("init_from.critic=b.ckpt" in steps[step]) == (step == "pretrain_critic")


def test_each_step_of_a_cycle_goes_on_from_the_cycle_before(monkeypatch: pytest.MonkeyPatch) -> None:
    typed_words = ["run=mine", "data.root=${run}/photos", "init_from.critic=a.ckpt"]
    typed_words += ["only.gan=optim.critic.lr=1e-5 init_from.generator=b.ckpt", "only.generate=output=elsewhere"]
    typed_words += ["only.pretrain_critic=generated=elsewhere"]
    commands: list[list[str]] = []

    def start(words: list[str]) -> None:
        commands.clear()
        monkeypatch.setattr(pipeline, "given_overrides", lambda: list(words))
        pipeline.run(configured("pipeline", words))

    monkeypatch.setattr(pipeline, "check_root", lambda *_: None)
    monkeypatch.setattr("colorize.training.first_weights.require_pretrained", lambda *_: None)
    monkeypatch.setattr(pipeline.signals, "run", lambda arguments: commands.append(arguments[2:]))
    monkeypatch.setattr(pipeline, "summarize", lambda config: 1.0)
    start(typed_words)
    alone = list(commands)
    start([*typed_words, "cycles=3"])
    assert commands[:4] == alone, "the first cycle is what there is without others"
    steps = [configured(module.removeprefix("colorize."), words) for module, *words in commands]
    assert {step.data.root for step in steps} == {"mine/photos"}
    assert [step.run for step in steps] == ["mine"] * 4 + ["mine/cycle_2"] * 3 + ["mine/cycle_3"] * 3
    assert (steps[2].init_from.critic, steps[3].init_from.generator) == ("a.ckpt", "b.ckpt")
    for before, own, (generate_, critic, gan) in (
        ("runs/mine", "runs/mine/cycle_2", steps[4:7]),
        ("runs/mine/cycle_2", "runs/mine/cycle_3", steps[7:]),
    ):
        last = f"{before}/gan/checkpoints/best.ckpt"
        assert (generate_.checkpoint, str(generate.output_folder(generate_))) == (last, f"{own}/generated")
        assert (critic.phase, critic.init_from.critic, critic.generated) == (
            "pretrain_critic",
            last,
            f"{own}/generated",
        )
        assert (gan.phase, gan.optim.critic.lr, gan.resume) == ("gan", 1e-5, "auto")
        assert gan.init_from.generator == last
        assert gan.init_from.critic == f"{own}/pretrain_critic/checkpoints/best.ckpt"
    with pytest.raises(schema.BadOption, match="cycles=0 is too small"):
        configured("pipeline", [*typed_words, "cycles=0"])


def test_a_folder_takes_step_1_alone_from_the_bundled_generator(monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []
    monkeypatch.setattr(pipeline, "check_root", lambda *_: None)
    monkeypatch.setattr("colorize.training.first_weights.require_pretrained", lambda *_: None)
    monkeypatch.setattr(pipeline.signals, "run", lambda arguments: commands.append(arguments[2:]))
    monkeypatch.setattr(pipeline, "summarize", lambda config: 1.0)

    def start(*words: str) -> list[str]:
        commands.clear()
        run_command("pipeline", pipeline.run, ["data=folder", "data.root=x", *words])
        return [config.recipe for config in (configured(c[0].removeprefix("colorize."), c[1:]) for c in commands)]

    assert start() == ["finetune"]
    assert configured("train", commands[0][1:]).init_from.generator == "bundled"
    assert start("model=small") == ["paper"] * 4, "the step that knows no model too"
    assert start("recipe=pocket", "steps=[pretrain_gen,generate]") == ["pocket"] * 2
    for wrong in ("steps=[gan,generate]", "steps=[]", "cycles=2"):
        with pytest.raises(SystemExit):
            start(wrong)


@pytest.mark.parametrize("option", ["quality=101", "start=nan", "duration=inf", "fps=nan"])
def test_values_that_no_photo_or_film_can_be_coloured_with_are_refused(option: str) -> None:
    with pytest.raises(schema.BadOption, match=option):
        configured("predict", ["input=a.png", option])


@pytest.mark.parametrize(
    ("given", "only", "named"),
    [
        (["phase=gan"], "", "phase is the pipeline's own business"),
        ([], "a=1 seed=1", "only.gan: seed must be the same"),
    ],
)
def test_the_pipeline_refuses_steps_that_contradict_each_other(given: list[str], only: str, named: str) -> None:
    config = schemas.PipelineConfig(run="r", recipe="paper", phase="gan", only=schemas.OnlyConfig(gan=only))
    with pytest.raises(schema.BadOption, match=named):
        pipeline.check(config, given)


# --- what is wrong is named -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "overrides", "named"),
    [
        ("train", ["phase=gan"], "phase gan needs a generator .*: run phase=pretrain_gen or give init_from.generator="),
        ("train", ["phase=pretrain_critic"], "generated holds no saved images: run `python -m colorize.generate`"),
        ("generate", [], "generate needs a generator .*pretrain_gen/checkpoints/best.ckpt"),
        ("train", ["phase=pretrain_gen", "resume=true"], "nothing to resume: there is no .*last.ckpt"),
        ("train", ["phase=pretrain_gen", "data.root=/no/such/folder"], "/no/such/folder"),
        ("train", ["phase=pretrain_gen", "model.encoder_weights=/no/such.pth"], "/no/such.pth"),
        ("train", ["phase=pretrain_gen", "resolution.size_px=[16]"], "resolution.size_px"),
        ("train", ["phase=pretrain_gen", "init_from.generator=/no/such.ckpt"], "/no/such.ckpt"),
        ("train", ["phase=pretrain_gen", "data=imagenet"], "is not an ImageNet tree"),
        ("train", ["phase=pretrain_gen", "optim.generator.lr_multipliers=[1]"], "lr_multipliers=.1.0.: one for each"),
        (
            "train",
            ["phase=pretrain_gen", "optim.generator.freeze_low=null"],
            "freeze_high=.0, 1.: .* only be frozen",
        ),
        ("train", ["phase=pretrain_gen", "data.val_size_px=16"], "data.val_size_px=16 is too small"),
    ],
)
def test_bad_input_is_named(configure: Configure, command: str, overrides: list[str], named: str) -> None:
    run = train.run if command == "train" else generate.run
    with pytest.raises(UserError, match=named) as caught:
        run(configure(command, *overrides))
    assert "\n" not in str(caught.value)


def test_a_started_fit_is_not_lost_and_another_architecture_is_refused(configure: Configure, tmp_path: Path) -> None:
    short = configure("train", "phase=pretrain_gen", *TWO_SIZES, "resolution.epochs=[1,0]")
    train.run(short)
    folder = PhaseFolder(short.runs_dir, short.run, "pretrain_gen")
    kept = folder.last.read_bytes()
    longer = configure("train", "phase=pretrain_gen", *TWO_SIZES)
    with pytest.raises(UserError, match=r"holds a started training: give resume=auto"):
        train.run(longer)
    longer.resume, longer.model.blur = "auto", False
    with pytest.raises(UserError, match=r"last.ckpt holds a generator of another architecture: blur=True"):
        train.run(longer)
    with locked(folder.path), pytest.raises(UserError, match="in use by another process"):
        train.run(longer)
    other = configure(
        "train", "phase=pretrain_gen", "run=other", "model.blur=false", f"init_from.generator='{folder.last}'"
    )
    with pytest.raises(UserError, match=r"another architecture: blur=True instead of False"):
        train.run(other)
    assert folder.last.read_bytes() == kept
    garbage = tmp_path / "page.ckpt"
    garbage.write_text("<html>not found</html>")
    other.init_from.generator = str(garbage)
    with pytest.raises(UserError, match=r"page.ckpt"):
        train.run(other)


def test_typed_mistakes_end_with_one_line_and_a_status(tmp_path: Path, photos: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    root = f"data.root={photos}"
    for status, named, words in (
        (2, "optim.generator.lrr", ["phase=pretrain_gen", "optim.generator.lrr=1"]),
        (1, "file", ["phase=pretrain_gen", "data=folder", root, "runs_dir=file", *TINY]),
    ):
        done = typed("train", *words, cwd=tmp_path)
        assert done.returncode == status, done.stderr
        assert named in done.stderr
        assert "Traceback" not in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


@pytest.mark.parametrize("phase", ["pretrain_gen", "pretrain_critic", "gan"])
def test_the_recipe_for_eight_gpus_is_the_papers_in_larger_batches_with_rates_that_follow(phase: str) -> None:
    words = (f"phase={phase}", "data.root=photos")
    paper, ours = (configured("train", [*words, f"recipe={name}"]) for name in ("paper", "paper_8gpu"))
    assert (ours.trainer.devices, min(ours.resolution.batch_size) // 8) == (8, 24)
    growth = math.sqrt(ours.resolution.batch_size[0] / paper.resolution.batch_size[0])
    for name in PHASES[phase].trains:
        rates = [getattr(config.optim, name).lr for config in (paper, ours)]
        assert rates[1] == pytest.approx(growth * rates[0], rel=0.02)
    changed = {line.partition("=")[0] for line in differences(settings(paper), ours)}
    rates = {f"optim.{name}.lr" for name in PHASES[phase].trains}
    warm_up = {"optim.generator.pct_start"} if phase == "pretrain_gen" else set()
    assert changed == {"resolution.batch_size", "resolution.rate_scale", *rates, *warm_up}
