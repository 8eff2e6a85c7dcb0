"""A wheel carries what the commands need: the whole package, the bundled generator, and conf/."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

from colorize import __version__

CHECKOUT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of this checkout, built by what is installed (no network)."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(CHECKOUT)]
    built = subprocess.run(build, cwd=folder, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    [made] = folder.glob("*.whl")
    return made


def test_a_wheel_holds_the_package_and_its_configuration(wheel: Path) -> None:
    assert wheel.name == f"colorize-{__version__}-py3-none-any.whl"
    names = set(zipfile.ZipFile(wheel).namelist())
    package = CHECKOUT / "colorize"
    files = [*package.rglob("*.py"), *(package / "weights").glob("pocket.*"), package / "page/style.css"]
    held = {str(file.relative_to(CHECKOUT)) for file in files}
    conf = {f"colorize/{file.relative_to(CHECKOUT)}" for file in (CHECKOUT / "conf").rglob("*.yaml")}
    assert {name for name in names if ".dist-info/" not in name} == held | conf
    assert {"LICENSE", "NOTICE", "LICENSE.Apache-2.0"} <= {name.partition("/licenses/")[2] for name in names}


@pytest.mark.skipif(not (CHECKOUT / ".git").exists(), reason="no clone")
def test_git_lets_the_bundled_generator_in() -> None:
    files = [f"colorize/weights/pocket.safetensors{suffix}" for suffix in ("", ".md")]
    ask = ["git", "-c", "core.excludesFile=/dev/null", "check-ignore", "--no-index", *files]
    ignored = subprocess.run(ask, cwd=CHECKOUT, capture_output=True, text=True)
    assert ignored.returncode == 1, ignored.stdout + ignored.stderr


def test_an_installed_wheel_works_away_from_the_checkout(wheel: Path, tmp_path: Path) -> None:
    installed, elsewhere = tmp_path / "installed it's (1)", tmp_path / "elsewhere"
    zipfile.ZipFile(wheel).extractall(installed)  # for a wheel of pure Python, this is what installing does
    elsewhere.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(installed)}

    def python(*words: str) -> str:
        done = subprocess.run([sys.executable, *words], cwd=elsewhere, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    where = python("-c", "from colorize.config import conf_dir; print(conf_dir())").strip()
    assert Path(where) == installed.resolve() / "colorize/conf"
    shown = yaml.safe_load(python("-m", "colorize.train", "--cfg", "job", "data=folder", "data.root=x"))
    bundled = installed.resolve() / "colorize/weights/pocket.safetensors"
    assert python("-c", "from colorize.weights.bundled import BUNDLED; print(BUNDLED.resolve())").strip() == str(
        bundled
    )
    assert bundled.is_file() == (CHECKOUT / "colorize/weights/pocket.safetensors").is_file()
    assert (shown["data"], shown["recipe"]) == ({**shown["data"], "kind": "folder", "root": "x"}, "finetune")
    assert list(elsewhere.iterdir()) == []
