"""Several processes, or several starts, that share one folder of photos."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import colorize.cli.launch  # noqa: F401 (Lightning, once, before processes are forked)
from colorize import predict
from colorize.inference import claims, jobs
from tests.predicting import Colour, files, grey, save
from tests.ranks import on_ranks

ROOT = Path(__file__).parents[1]


@pytest.fixture
def photos(tmp_path: Path) -> list[str]:
    for index in range(5):
        save(tmp_path / "in" / f"{index}.png", grey(index))
    (tmp_path / "in" / "bad.png").write_bytes(b"no photo")
    return [f"{index}.png" for index in range(5)]


def test_two_processes_colour_each_photo_once_and_tell_together(
    photos: list[str], colour: Colour, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    one = predict.colour_photos

    def noted(config: Any, colorizer: Any, todo: list[Any], done: Any) -> None:
        seen.extend(os.path.basename(job.source) for job in todo)
        one(config, colorizer, todo, done)

    monkeypatch.setattr(predict, "colour_photos", noted)
    first, second = on_ranks(lambda rank: (*colour("in", devices=2), seen))
    assert sorted(first[2] + second[2]) == [*photos, "bad.png"] and len(first[2]) == 3
    assert first[0] == 1 and "5 coloured, 0 skipped (their results exist), 1 failed" in first[1]
    assert second[0] == 0 and "coloured," not in second[1]
    assert files(tmp_path / "out") == [*photos, "failed.txt"]
    assert (tmp_path / "out" / "failed.txt").read_text().count("\n") == 2


def test_the_next_start_makes_up_for_a_process_that_died(
    photos: list[str], colour: Colour, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(config: Any, colorizer: Any, todo: list[Any], done: Any) -> None:
        if os.environ["RANK"] == "1":
            os._exit(9)
        one(config, colorizer, todo, done)

    one = predict.colour_photos
    monkeypatch.setattr(predict, "colour_photos", dies)
    (status, said), died = on_ranks(lambda rank: colour("in", devices=2))
    assert status == 1 and "one of the processes ended before its work was done: the same command makes up" in said
    assert isinstance(died, RuntimeError) and files(tmp_path / "out") == ["0.png", "2.png", "4.png"]
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert "2 coloured, 3 skipped" in colour("in")[1]


def test_shards_are_disjoint_and_complete(photos: list[str], colour: Colour, tmp_path: Path) -> None:
    for number, names in ((1, ["0.png", "3.png"]), (2, ["1.png", "4.png"]), (3, ["2.png"])):
        before = set(files(tmp_path / "out"))
        status, _ = colour("in", shard=f"{number}/3")
        made = set(files(tmp_path / "out")) - before
        assert status == (number == 3) and made == {*names, *["failed-3-of-3.txt"] * (number == 3)}
    for wrong in ("0/3", "4/3", "third", "1/0"):
        status, said = colour("in", shard=wrong)
        assert status == 2 and f"shard={wrong}: give K/N" in said


def test_processes_and_keys_have_to_agree(photos: list[str], colour: Colour, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    status, said = colour("in", devices=2)
    assert status == 2 and "3 processes were started, but devices=2 times num_nodes=1 is 2" in said
    monkeypatch.delenv("WORLD_SIZE")
    status, said = colour("in", devices=2, device="cpu:0")
    assert status == 2 and "give device=cuda" in said


def test_starts_that_claim_photos_colour_each_once_and_take_over_from_one_that_is_lost(
    colour: Colour, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = 5
    for number in range(photos):
        save(tmp_path / "in" / f"{number}.png", grey(number))
    monkeypatch.setattr(claims, "LEASE_S", 2.0)
    hold = (
        "import sys, time; from colorize.inference import claims, jobs; claims.LEASE_S = 2.0\n"
        "found = claims.Claims(jobs.plan(['in'], 'out', None, None).jobs).free(); next(found), next(found)\n"
        "print('holds two', flush=True); time.sleep(60)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", hold]
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "holds two\n"
        mine = claims.Claims(jobs.plan(["in"], "out", None, None).jobs)
        assert [Path(job.source).name for job in mine.free()] == ["2.png", "3.png", "4.png"] and len(mine.left) == 2
        mine.release_all()
        other.kill()
    status, said = colour("in", claim=True)
    assert (status, f"{photos} coloured, 0 skipped" in said) == (0, True)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [f"{number}.png" for number in range(photos)]
    assert colour("in", claim=True, overwrite=True)[0] == 2
