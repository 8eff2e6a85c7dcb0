"""`colorize photo.jpg`: photos in, photos out; what is typed wrong gets its right form, and leaves nothing behind."""

import os
import pydoc
import subprocess
import sys
from pathlib import Path

import pytest

import colorize
from colorize.cli.front_door import command_line, photo_options
from colorize.cli.refusals import right_form
from colorize.inference import jobs
from colorize.runtime.errors import UserError
from colorize.runtime.schema import BadOption
from colorize.weights.bundled import BUNDLED
from tests.conftest import draw_photo
from tests.predicting import grey, is_coloured_version, save

CHECKOUT = Path(__file__).resolve().parents[1]


def python(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(CHECKOUT), "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *words], cwd=cwd, env=environment, capture_output=True, text=True)


@pytest.mark.skipif(not BUNDLED.is_file(), reason="no generator is bundled")
def test_a_photo_in_a_photo_out(tmp_path: Path) -> None:
    source = save(tmp_path / "it's (1).png").read_bytes()
    done = python("-m", "colorize", "it's (1).png", "device=cpu", "saturation=1.2", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert "the bundled generator (pocket), trained on a folder of photos" in done.stderr
    assert done.stderr.endswith(" s; results: it's (1)_colour.png\n")
    assert is_coloured_version(tmp_path / "it's (1)_colour.png", grey(), 1)
    assert (tmp_path / "it's (1).png").read_bytes() == source


def test_words_are_a_command_or_photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "a=b.png")
    (tmp_path / "scans").mkdir()
    assert command_line(["train", "phase=gan", "--cfg", "job"]) == ("train", ["phase=gan", "--cfg", "job"])
    assert command_line(["x.jpg", "--", "-y.jpg"]) == ("predict", ["input=['x.jpg','-y.jpg']"])
    words = ["a=b.png", "seed=1", "-o", "it's", "scans"]
    assert photo_options(words) == ["input=['a=b.png','scans']", "seed=1", "output='it\\'s'"]
    for typed, meant in (
        (["trian"], "did you mean colorize train?"),
        (["a=b.png", "out.png"], "-o out.png"),
        (["a=b.png", "--saturation", "1.2"], "give saturation=1.2"),
        (["saturation=1.2"], "no photo"),
    ):
        with pytest.raises(BadOption, match=meant.replace("?", r"\?")):
            photo_options(typed)


@pytest.mark.parametrize(
    ("command", "words", "meant"),
    [
        ("predict", ["photo.jpg"], "give input=photo.jpg"),
        ("predict", ["it's.jpg"], "give input='it'\"'\"'s.jpg'"),
        ("predict", ["-o", "out"], "give output=out"),
        ("train", ["--resume"], "give resume=auto"),
        ("train", ["--data.root", "photos"], "give data.root=photos"),
        ("train", ["--limit-val"], "there is no flag --limit-val"),
        ("train", ["my/photos"], "give data=folder data.root=my/photos"),
        ("train", ["a.ckpt"], "give init_from.generator=a.ckpt"),
        ("export", ["a.ckpt"], "give checkpoint=a.ckpt"),
        ("pipeline", ["small"], "give model=small"),
        ("evaluate", ["protocol"], "give protocol=val5k|stretch256|native"),
    ],
)
def test_the_right_form_of_what_was_meant(command: str, words: list[str], meant: str) -> None:
    assert right_form(command, *words).startswith(meant)


def test_results_without_an_output_lie_beside_and_are_no_photos(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.gif", "scans/c.png", "scans/d/e.tif", "more/c.png"):
        save(tmp_path / name)
    save(tmp_path / "a_colour.jpg")  # of an earlier start, as is the next
    save(tmp_path / "a_colour.compare.jpg")
    singles = [str(path) for path in sorted(tmp_path.glob("*.*"))]

    def results(given: list[str], output: str | None) -> list[str]:
        plan = jobs.plan([str(tmp_path / one) for one in given], output, None)
        assert plan.report is None or plan.report.parent == plan.folder
        return sorted(os.path.relpath(job.result, tmp_path) for job in plan.jobs)

    assert results(singles, None) == ["a_colour.jpg", "b_colour.png"]
    assert results(["scans"], None) == results(["scans/"], None) == ["scans_colour/c.png", "scans_colour/d/e.tif"]
    into = ["out/a.jpg", "out/more/c.png", "out/scans/c.png", "out/scans/d/e.tif"]
    assert results(["scans", "more", "a.jpg"], str(tmp_path / "out")) == into
    assert not (tmp_path / "out").exists()


WRONG = """
import sys
from importlib import import_module
from colorize.cli.command import run_command
for name, *words in (
    ("train", "data=folder", "data.root=gone"),
    ("train", "data=folder", "data.root=empty"),
    ("train", "data=imagenet", "data.root=photos"),
    ("train", "data=folder", "data.root=photos", "phase=gan"),
    ("train", "data=folder", "data.root=photos", "init_from.generator=gone"),
    ("pipeline", "data=folder", "data.root=gone"),
    ("generate", "data=folder", "data.root=gone", "checkpoint=bundled"),
    ("generate", "data=folder", "data.root=photos", "checkpoint=gone"),
    ("evaluate", "data=folder", "data.root=gone", "coloured=empty"),
    ("evaluate", "data=folder", "data.root=photos", "checkpoint=gone"),
    ("predict", "input=gone"),
    ("predict", "input=photos", "checkpoint=gone", "output=out"),
    ("export", "checkpoint=gone", "output=x.safetensors"),
):
    try:
        run_command(name, import_module(f"colorize.{name}").run, words)
    except SystemExit as stop:
        assert stop.code == 1, (name, words)
    else:
        raise AssertionError((name, words))
assert not {"torch", "lightning"} & sys.modules.keys()
"""


def test_a_wrong_path_is_refused_before_torch_is_imported_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for index in range(2):
        save(tmp_path / "photos" / f"{index}.jpg", draw_photo(index))
    done = python("-c", WRONG, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(done.stderr.splitlines()) == 13, done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "photos"]


def test_from_python_help_shows_what_there_is_and_errors_are_one_line(tmp_path: Path) -> None:
    page = pydoc.render_doc(colorize, renderer=pydoc.plaintext)
    assert all(name in page for name in ("class Colorizer", "run_training(*options", "run_evaluation(*options"))
    with pytest.raises(UserError, match="no such folder: gone"):
        colorize.run_training("data=folder", "data.root=gone", f"runs_dir={tmp_path}")
    with pytest.raises(BadOption, match="did you mean"):
        colorize.run_evaluation("data.rot=gone")
