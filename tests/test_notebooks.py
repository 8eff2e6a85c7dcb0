"""The notebooks: committed without outputs, importing what exists, running from top to bottom."""

import ast
import importlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
DATA, TRAIN, COLOUR = (
    ROOT / "notebooks" / f"{name}.ipynb" for name in ("01_data_and_grey", "02_train_and_watch", "03_colour_your_photo")
)
MAGIC = re.compile(r"^( *)%(.*)$", re.MULTILINE)


def sources(notebook: Path, kind: str = "code") -> list[str]:
    """The text of each cell of a kind, an escaped line joined with the next."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]).replace("\\\n", " ") for cell in cells if cell["cell_type"] == kind]


def test_every_notebook_is_tested() -> None:
    assert sorted((ROOT / "notebooks").glob("*.ipynb")) == [DATA, TRAIN, COLOUR]


@pytest.mark.parametrize("notebook", [DATA, TRAIN, COLOUR], ids=lambda path: path.stem)
def test_notebooks_have_no_outputs_and_name_what_exists(notebook: Path) -> None:
    assert notebook.stat().st_size < 40_000
    book = json.loads(notebook.read_text(encoding="utf-8"))
    for cell in book["cells"]:
        assert (cell.get("execution_count"), cell.get("outputs", [])) == (None, [])

    imports = [node for code in sources(notebook) for node in ast.walk(ast.parse(MAGIC.sub(r"\1pass", code)))]
    own = [node for node in imports if isinstance(node, ast.ImportFrom) and str(node.module).startswith("colorize")]
    assert own
    for node in own:
        module = importlib.import_module(str(node.module))
        assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []


def test_the_first_notebook_runs_and_labels_its_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process, which has imported everything already; in a kernel of its own it runs among the slow tests."""
    from matplotlib import pyplot

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    pyplot.switch_backend("agg")
    shown: list[Any] = []
    namespace = {"display": shown.append}
    try:
        for code in sources(DATA):
            exec(code, namespace)
        axes = [axis for number in pyplot.get_fignums() for axis in pyplot.figure(number).axes]
        assert len(axes) >= 9
        assert all(axis.get_xlabel() and (axis.get_ylabel() or axis.get_title()) for axis in axes if axis.has_data())
    finally:
        pyplot.close("all")
    assert [isinstance(image, Image.Image) for image in shown] == [True] * 3
    assert "/runs" not in str(list(tmp_path.iterdir()))


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """`run(notebook, folder)`: runs a copy, started in that folder of a checkout, in a kernel; what it has printed."""
    import nbformat
    from nbclient import NotebookClient

    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    (tmp_path / "checkout/notebooks").mkdir(parents=True)

    def start(notebook: Path, folder: str, shorter: Mapping[str, str] = {}) -> str:
        copy = Path(shutil.copy(notebook, tmp_path / "checkout/notebooks"))
        content = copy.read_text(encoding="utf-8")
        for word, other in shorter.items():
            assert word in content
            content = content.replace(word, other)
        book = nbformat.reads(content, as_version=4)
        where = {"metadata": {"path": str(tmp_path / "checkout" / folder)}}
        NotebookClient(book, timeout=1800, kernel_name="python3", resources=where).execute()
        outputs = [output for cell in book.cells if cell.cell_type == "code" for output in cell.outputs]
        text = "".join(output.text for output in outputs if output.output_type == "stream")
        assert "Warning" not in text
        assert sum("image/png" in output.get("data", {}) for output in outputs) >= 5
        assert {path.suffix for path in (tmp_path / "checkout/notebooks").iterdir()} == {".ipynb"}
        assert {path.name for path in (tmp_path / "checkout").iterdir()} <= {"notebooks", "runs"}
        return text

    return start


@pytest.mark.slow
def test_the_notebooks_run_in_their_order_from_either_folder(run: Any, tmp_path: Path) -> None:
    assert "1803 scenes for training" in run(DATA, "notebooks")
    assert not (tmp_path / "checkout/runs").exists()

    assert "take runs/notebook/gan/checkpoints/" in run(TRAIN, "notebooks")
    said = run(COLOUR, ".")
    assert "runs/notebook/gan/checkpoints/best.ckpt" in said
    assert "6 coloured, 0 skipped" in said
    # Once more: everything is there, and found to be complete.
    assert "phase gan of run notebook is complete" in run(TRAIN, ".")


@pytest.mark.slow
def test_the_last_notebook_trains_a_network_where_there_is_none(run: Any) -> None:
    seconds = {"data.scenes=1200": "data.scenes=60", "resolution.epochs=[2,2,2]": "resolution.epochs=[1,0,0]"}
    said = run(COLOUR, "notebooks", seconds)
    assert "training a small one on drawn scenes" in said
    assert "runs/notebook/pretrain_gen/checkpoints/best.ckpt: checkpoint of phase pretrain_gen" in said
