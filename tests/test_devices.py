"""Two devices against one: the same training, the same pictures, the same figures, and one end for all."""

import csv
import errno
import os
import shutil
import warnings
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.modules.batchnorm import _BatchNorm

from colorize import evaluate, generate, pipeline, train
from colorize.cli.launch import take_place
from colorize.data import generated
from colorize.data.generated import image_path, read_manifest
from colorize.data.resolution import fit_to_photos
from colorize.data.sources import Photos
from colorize.losses import ContentLoss
from colorize.metrics import MeanMetrics
from colorize.runs import PhaseFolder
from colorize.runtime import distributed
from colorize.runtime.errors import UserError
from colorize.runtime.schema import BadOption
from colorize.training import build, first_weights
from colorize.training.callbacks import scoring
from colorize.training.module import ColorizationModule
from tests.ranks import on_ranks
from tests.test_datamodule import make_datamodule
from tests.test_evaluation import SCENES, configured, save_checkpoint

Configure = Callable[..., Any]

TWO = ("trainer.devices=2",)
# Batches that two devices cannot halve, validation in two batches for one and one for the other, a size change, an
# interval of freezing, turns by the critic's loss, averaged weights.
FIT = (
    *("resolution.size_px=[32,40]", "resolution.batch_size=[7,5]", "resolution.epochs=[1,1]", "data.val_batch_size=2"),
    "data.max_val=5",
    *("optim.generator.freeze_low=[0,1]", "optim.generator.freeze_high=null", "optim.critic.freeze_low=[1,2]"),
    *("switch.mode=adaptive", "switch.threshold=0.695", "switch.max_critic_steps=2", "ema.half_life_images=20"),
    *("trainer.limit_train_batches=3", "data.train_fraction=1", "grid_photos=1", "save.score_photos=4"),
    *("optim.critic.lr=1e-3", "optim.generator.lr=1e-3"),
    "optim.critic.lr_multipliers=[0.01,0.1,1.0]",  # the tolerances below were measured at these: Adam lifts rounding
)


@pytest.fixture
def stored_statistics(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batch norms stay in eval mode, and phase gan starts from random networks."""
    warnings.filterwarnings("ignore", "Found .* module.s. in eval mode")
    monkeypatch.setattr(_BatchNorm, "train", lambda self, mode=True: torch.nn.Module.train(self, False))
    monkeypatch.setattr(first_weights, "init_from", lambda *_: False)


def fitted(config: Any, resume_from: Path | None = None) -> dict[str, Any]:
    """What a fit ends with, in the memory of this process: all tensors by name, and the numbers that steer it."""
    folder = PhaseFolder(config.runs_dir, config.run, config.phase)
    folder.path.mkdir(parents=True, exist_ok=True)
    trainer = train.fit(config, folder, resume_from)
    module, tensors = trainer.lightning_module, {}
    tensors |= {f"weights/{name}": value for name, value in module.state_dict().items()}
    for number, optimizer in enumerate(trainer.optimizers):
        for index, state in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer {number}/{index}/{name}": value for name, value in state.items()}
    if module.ema_model is not None:
        tensors |= {f"average/{name}": value for name, value in module.ema_model.state_dict().items()}
    return {
        # As numbers: a tensor would go through shared memory that ends with the process.
        "tensors": {name: value.numpy().copy() for name, value in tensors.items()},
        "numbers": (module.images_seen, module.update_schedule.state(), module.curve),
    }


def as_tensors(found: dict[str, Any]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(value) for name, value in found["tensors"].items()}


def largest_difference(one: dict[str, Any], other: dict[str, Any]) -> float:
    first, second = as_tensors(one), as_tensors(other)
    assert first.keys() == second.keys()
    return max(float((first[name].double() - second[name].double()).abs().max()) for name in first)


def figures(config: Any) -> list[dict[str, float]]:
    with PhaseFolder(config.runs_dir, config.run, config.phase).metrics.open() as file:
        rows = [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]
    return [{name: value for name, value in row.items() if name != "images_per_s"} for row in rows]


def fitted_by_two(config: Any, resume_from: Path | None = None, devices: int = 2) -> dict[str, Any]:
    """The same of two ranks, or more, which must be in step to the bit."""
    config.trainer.devices = devices
    first, *others = on_ranks(lambda rank: fitted(config, resume_from), devices)
    for rank in (first, *others):
        if isinstance(rank, BaseException):
            raise rank
    for other in others:
        assert first["numbers"] == other["numbers"]
        assert largest_difference(first, other) == 0.0
    return dict(first)


def check_two_equal_one(configure: Configure, phase: str, *more: str) -> None:
    one, two = (configure("train", f"phase={phase}", *FIT, *more, f"run={name}") for name in ("one", "two"))
    alone, both = fitted(one), fitted_by_two(two)
    assert alone["numbers"][0] == 2 * 7 + 3 * 5 == both["numbers"][0]
    assert alone["numbers"][1] == both["numbers"][1], "the same turns"
    assert largest_difference(alone, both) < 2e-6
    for mine, theirs in zip(figures(one), figures(two), strict=True):
        ours = {name: value for name, value in mine.items() if not name.startswith(("generator/", "critic/"))}
        assert {name: theirs[name] for name in ours} == pytest.approx(ours, rel=2e-3, abs=2e-5)


@pytest.mark.slow
def test_two_devices_train_as_one(configure: Configure, stored_statistics: None, tmp_path: Path) -> None:
    check_two_equal_one(configure, "gan")
    check_two_equal_one(configure, "pretrain_gen")
    checkpoint = save_checkpoint(tmp_path / "a.ckpt", phase="pretrain_gen")
    config = configure("generate", "data.train_fraction=1", "size_px=40", f"checkpoint={checkpoint}")
    generate.run(config)
    check_two_equal_one(configure, "pretrain_critic", f"generated={generate.output_folder(config)}")


@pytest.mark.slow
@pytest.mark.parametrize("devices", [4, 8])
def test_more_devices_train_as_one(configure: Configure, stored_statistics: None, devices: int) -> None:
    """In batches that neither divides, counted in images."""
    more = ("resolution.batch_size=[11,9]", "data.val_fraction=0.4", "data.max_val=8")
    one, many = (configure("train", "phase=gan", *FIT, *more, f"run={name}") for name in ("one", "many"))
    for config in (one, many):
        config.resolution.images = [11, 27]
        config.resolution = fit_to_photos(config.resolution, len(build.make_photos(config).train))
    alone, all_of_them = fitted(one), fitted_by_two(many, devices=devices)
    assert alone["numbers"][0] == 11 + 3 * 9 == all_of_them["numbers"][0]
    assert alone["numbers"][1] == all_of_them["numbers"][1], "the same turns"
    print(devices, difference := largest_difference(alone, all_of_them))
    assert difference < 2e-6


@pytest.mark.slow
def test_a_step_takes_one_collective(configure: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against a critic two: the adversarial gradient is scaled, by the norms over all devices, before the backward."""
    monkeypatch.setattr(first_weights, "init_from", lambda *_: False)
    monkeypatch.setattr(scoring, "POINTS", 1)
    short = ("resolution.size_px=[32]", "resolution.batch_size=[4]", "resolution.epochs=[1]", "data.max_val=2")
    short += ("trainer.log_every_n_steps=100", "switch.mode=fixed", "switch.critic_steps=2", "switch.generator_steps=2")

    def work(rank: int) -> list[int]:
        made, seen = [0], []
        for name in ("all_reduce", "all_gather", "all_gather_into_tensor", "broadcast"):
            real = getattr(torch.distributed, name)
            counted = lambda *given, real=real, **more: (made.append(1), real(*given, **more))[1]  # noqa: E731
            monkeypatch.setattr(torch.distributed, name, counted)
        step = ColorizationModule.training_step
        noting = lambda self, *given: (seen.append(sum(made)), step(self, *given))[1]  # noqa: E731
        monkeypatch.setattr(ColorizationModule, "training_step", noting)
        fitted(config)
        return [after - before for before, after in pairwise(seen)]

    config = configure("train", "phase=gan", *FIT, *TWO, *short, "trainer.limit_train_batches=4")
    assert on_ranks(work) == [[1, 1, 2]] * 2


@pytest.mark.slow
@pytest.mark.parametrize("phase", ["pretrain_gen", "gan"])
def test_ranks_stay_in_step_where_batch_norms_learn(
    configure: Configure, monkeypatch: pytest.MonkeyPatch, phase: str
) -> None:
    monkeypatch.setattr(first_weights, "init_from", lambda *_: False)
    fitted_by_two(configure("train", f"phase={phase}", *FIT))


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [(fitted_by_two, fitted), (fitted, fitted_by_two)])
def test_a_fit_goes_on_with_another_number_of_devices(
    configure: Configure, stored_statistics: None, before: Callable[..., Any], after: Callable[..., Any]
) -> None:
    whole = fitted(configure("train", "phase=gan", *FIT, "run=whole"))
    before(configure("train", "phase=gan", *FIT, "run=parted", "resolution.epochs=[1,0]"))
    config = configure("train", "phase=gan", *FIT, "run=parted")
    parted = after(config, PhaseFolder(config.runs_dir, config.run, "gan").last)
    assert whole["numbers"][:2] == parted["numbers"][:2]
    assert largest_difference(whole, parted) < 2e-6


def test_a_process_computes_on_as_many_cores_as_it_is_given(
    configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", taken.append)
    take_place(configure("train", "phase=pretrain_gen").trainer)
    assert taken == []
    take_place(configure("train", "phase=pretrain_gen", "recipe=demo").trainer)
    assert taken == [1]


def test_cores_are_shared_and_batch_norms_synchronised_where_a_device_has_few_photos(
    configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(32), raising=False)
    config = configure("train", "phase=pretrain_gen", "recipe=paper_8gpu", "data.num_workers=null")
    assert [config.data.workers(devices) for devices in (1, 8, 32)] == [8, 3, 1]
    monkeypatch.setenv("SLURM_PROCID", "0")
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "8")
    assert config.data.workers(8) == 8, "a task's cores are its own"

    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert not build.synchronises_norms(config, gpu) and not build.synchronises_norms(config, cpu)
    config.trainer.num_nodes = 2  # 12 photos of 220 px on each device
    assert build.synchronises_norms(config, gpu)
    config.resolution.epochs[-1] = 0
    assert not build.synchronises_norms(config, gpu)
    config.trainer.sync_batchnorm = "true"
    assert build.synchronises_norms(config, gpu)
    with pytest.raises(BadOption, match="on CUDA GPUs alone"):
        build.synchronises_norms(config, cpu)


# --- one end for all --------------------------------------------------------------------------------------------------


def ends(found: list[Any]) -> list[tuple[type, str]]:
    return [(type(error), str(error).splitlines()[0]) for error in found]


def test_a_loss_that_is_not_finite_on_one_device_ends_all_with_one_line(configure: Configure) -> None:
    config = configure("train", "phase=pretrain_gen", *FIT, *TWO, "data.max_val=2")

    def work(rank: int) -> None:
        with pytest.MonkeyPatch.context() as patch:
            if rank == 1:
                lost = float("nan")
                patch.setattr(ContentLoss, "forward", lambda self, made, rgb: {"pixel": lost * made.mean()})
            train.run(config)

    (kind, line), other = ends(on_ranks(work))
    assert (kind, line) == other
    assert kind is UserError and "generator's loss is nan in epoch 1, batch 0" in line
    assert not PhaseFolder(config.runs_dir, config.run, config.phase).last.exists()


def test_ranks_share_what_they_meet(tmp_path: Path) -> None:
    for index in range(8):
        (tmp_path / f"{index}.jpg").write_bytes(b"")
    photos = Photos(tmp_path, [f"{index}.jpg" for index in range(6)], ["6.jpg", "7.jpg"])

    def work(rank: int) -> tuple[Any, ...]:
        torch.distributed.init_process_group("gloo")
        datamodule = make_datamodule(photos, rank=rank, world_size=2, max_unreadable=4)
        datamodule.trainer.training = False
        empty = datamodule.on_before_batch_transfer(next(iter(datamodule.val_dataloader())), 0)
        datamodule.share_unreadable()
        met = [dict(datamodule.unreadable)]
        datamodule.trainer.training = True
        said = []
        for own in (["0.jpg"], [f"{rank}.jpg"], [f"{rank + 2}.jpg"]):
            batch = empty._replace(names=["a photo that can be read"], unreadable=[(name, "gone") for name in own])
            try:
                datamodule.on_before_batch_transfer(batch, 0)
                datamodule.share_unreadable()
            except UserError as error:
                said.append((str(error), error.on_all_ranks))
            met.append(dict(datamodule.unreadable))
        try:
            distributed.agree(UserError("a fault of rank 1") if rank else None)
        except UserError as error:
            said.append((str(error), error.on_all_ranks))
        statistics = torch.nn.BatchNorm2d(1).train()
        statistics.running_mean += rank
        distributed.add_up(distributed.own_statistics(statistics), [0.25 if rank else 0.75] * 2)
        validated = MeanMetrics()
        if rank == 0:  # the other one could read none of its photos
            validated.add({"content": torch.tensor(4.0)}, 3, "val/")
        validated.add({"delta_cf": torch.tensor([rank] * (3 - rank))}, 3 - rank, "val/")
        sums = [[8.0, 16.0, 9.0], [-3.0, 4.0, 3.0]][rank]  # 3 photos, then 2: 18 / √(56 · 33), not a mean of cosines
        validated.add({"skill": torch.tensor([sums] * (3 - rank))}, 3 - rank, "val/")
        return validated.means(), met, said, statistics.running_mean.tolist()

    one, other = on_ranks(work)
    assert one == other, one
    means, met, said, mean = one
    assert means.pop("val/skill") == pytest.approx(18 / (56 * 33) ** 0.5)
    assert (means, mean) == ({"val/content": 4.0, "val/delta_cf": 0.4}, [0.25])
    assert [sorted(names) for names in met[:3]] == [["6.jpg", "7.jpg"], ["0.jpg", *met[0]], ["0.jpg", "1.jpg", *met[0]]]
    assert said[0][0].startswith("6 images in") and said[1:] == [("a fault of rank 1", True)] and said[0][1]


def test_a_rank_that_is_lost_ends_the_others_without_a_trace_of_the_exchange() -> None:
    def work(rank: int) -> None:
        torch.distributed.init_process_group("gloo")
        distributed.total([1.0])
        if rank == 1:
            os._exit(3)
        with distributed.abort_together():
            distributed.total([1.0])

    found, died = on_ranks(work)
    assert type(found) is UserError and "another process of this command ended" in str(found)
    assert str(died) == "the process died"


@pytest.mark.slow
def test_a_disk_that_is_full_ends_all_devices(configure: Configure) -> None:
    config = configure("train", "phase=pretrain_gen", *FIT, *TWO)

    def work(rank: int) -> None:
        save = torch.save

        def full(content: Any, *more: Any, **options: Any) -> None:  # exchanges use it too
            if isinstance(content, dict) and "epoch" in content:
                raise OSError(errno.ENOSPC, "No space left on device")
            save(content, *more, **options)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch, "save", full)
            train.run(config)

    first, other = on_ranks(work)
    assert isinstance(first, (OSError, UserError)) and "No space left" in str(first)
    assert type(other) is UserError and other.on_all_ranks


# --- step 2 and the evaluation ----------------------------------------------------------------------------------------


def test_two_devices_generate_and_measure_as_one(configure: Configure, tmp_path: Path, photos: Path) -> None:
    root = tmp_path / "photos"
    shutil.copytree(photos, root)
    for name in ("a/photo 01.jpg", "b/photo 04.jpg"):  # one for each rank, as it comes
        (root / name).write_bytes(b"")
    checkpoint = save_checkpoint(tmp_path / "weights.ckpt")
    given = (f"data.root='{root}'", "data.train_fraction=1", "size_px=40", f"checkpoint='{checkpoint}'")
    one, two = (configure("generate", *given, f"output='{tmp_path}/{name}'", "batch_size=3") for name in ("1", "2"))
    generate.run(one)
    two.trainer.devices = 2
    measured = []
    words = [*SCENES, f"checkpoint=[{checkpoint}]", "batch_size=1"]
    for devices in (1, 2):
        config = configured(tmp_path, *words, f"output={tmp_path}/measured {devices}")
        config.trainer.devices = devices
        measured.append(config)
    evaluate.run(measured[0])

    def work(rank: int) -> list[str]:
        saved: list[str] = []
        with pytest.MonkeyPatch.context() as patch:
            real = generated.save_png
            patch.setattr(generated, "save_png", lambda picture, path: (saved.append(str(path)), real(picture, path)))
            generate.run(two)
        evaluate.run(measured[1])
        return saved

    shares = on_ranks(work)
    for share in shares:
        if isinstance(share, BaseException):
            raise share
    alone, both = (read_manifest(tmp_path / name) for name in ("1", "2"))
    assert both == alone and len(both.images) == 22 and len(both.unreadable) == 2
    assert sorted(path for share in shares for path in share) == sorted(
        str(image_path(tmp_path / "2", identity)) for identity in both.images
    ), "none twice, none dropped"
    assert min(map(len, shares)) > 8
    for identity in both.images:
        assert image_path(tmp_path / "2", identity).read_bytes() == image_path(tmp_path / "1", identity).read_bytes()
    for name in ("metrics.json", "per_image.csv", "gallery.png"):
        assert (tmp_path / "measured 1" / name).read_bytes() == (tmp_path / "measured 2" / name).read_bytes()


@pytest.mark.parametrize(
    "environment",
    [{"WORLD_SIZE": "3"}, {"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "3", "SLURM_JOB_NAME": "colours"}],
)
def test_more_processes_than_devices_do_not_do_the_same_work_twice(
    configure: Configure, monkeypatch: pytest.MonkeyPatch, tiny_file: Path, environment: dict[str, str]
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    line = r"3 processes were started, but trainer.devices=1 times trainer.num_nodes=1 is 1"
    with pytest.raises(BadOption, match=line):
        generate.run(configure("generate", f"checkpoint='{tiny_file}'"))
    with pytest.raises(BadOption, match=line):
        train.run(configure("train", "phase=pretrain_gen"))
    with pytest.raises(BadOption, match="start the pipeline once"):
        pipeline.run(configure("pipeline"))
