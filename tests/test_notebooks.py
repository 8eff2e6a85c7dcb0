"""The notebooks: committed with small outputs, importing what exists, running from top to bottom."""

import ast
import base64
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
COLOUR, DATA, TRAIN = (
    ROOT / "notebooks" / f"{name}.ipynb" for name in ("01_colour_your_photo", "02_data_and_grey", "03_train_and_watch")
)
MAGIC = re.compile(r"^( *)%(.*)$", re.MULTILINE)


def sources(notebook: Path, kind: str = "code") -> list[str]:
    """The text of each cell of a kind, an escaped line joined with the next."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]).replace("\\\n", " ") for cell in cells if cell["cell_type"] == kind]


def pictures(book: Mapping[str, Any]) -> list[tuple[str, bytes]]:
    """The id of a cell and the bytes of a picture, for each picture that stands in a notebook."""
    outputs = [(cell["id"], output.get("data", {})) for cell in book["cells"] for output in cell.get("outputs", [])]
    return [
        (cell, base64.b64decode("".join(data[kind])))
        for cell, data in outputs
        for kind in ("image/png", "image/jpeg")
        if kind in data
    ]


def test_every_notebook_is_tested_and_their_pictures_are_small() -> None:
    books = [json.loads(notebook.read_text(encoding="utf-8")) for notebook in (COLOUR, DATA, TRAIN)]
    assert sum(len(picture) for book in books for _, picture in pictures(book)) < 200_000
    assert sorted((ROOT / "notebooks").glob("*.ipynb")) == [COLOUR, DATA, TRAIN]


@pytest.mark.parametrize("notebook", [COLOUR, DATA, TRAIN], ids=lambda path: path.stem)
def test_notebooks_keep_what_they_show_and_name_what_exists(notebook: Path) -> None:
    book = json.loads(notebook.read_text(encoding="utf-8"))
    said = json.dumps([output.get("text", "") for cell in book["cells"] for output in cell.get("outputs", [])])
    assert not re.search(r"Warning|Traceback|stopped by|\d\d:\d\d|[\s\"'](?:/|[A-Z]:\\)\w", said)
    for cell in book["cells"]:
        for output in cell.get("outputs", []):
            assert output["output_type"] != "error" and output.get("name") != "stderr"
    assert len(pictures(book)) >= 5 or notebook == TRAIN  # whose outputs are still to be kept: `make notebooks`

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
    (tmp_path / "checkout/docs").mkdir()
    shutil.copy(ROOT / "docs/pocket.jpg", tmp_path / "checkout/docs")

    def start(notebook: Path, folder: str) -> str:
        copy = Path(shutil.copy(notebook, tmp_path / "checkout/notebooks"))
        book = nbformat.read(copy, as_version=4)
        kept = [cell for cell, _ in pictures(book)]
        where = {"metadata": {"path": str(tmp_path / "checkout" / folder)}}
        NotebookClient(book, timeout=1800, kernel_name="python3", resources=where).execute()
        outputs = [output for cell in book.cells if cell.cell_type == "code" for output in cell.outputs]
        text = "".join(output.text for output in outputs if output.output_type == "stream")
        assert "Warning" not in text
        assert [cell for cell, _ in pictures(book)] == kept or (notebook == TRAIN and not kept)
        assert {path.suffix for path in (tmp_path / "checkout/notebooks").iterdir()} == {".ipynb"}
        assert {path.name for path in (tmp_path / "checkout").iterdir()} <= {"docs", "notebooks", "runs"}
        return text

    return start


@pytest.mark.slow
def test_the_notebooks_run_in_their_order_from_either_folder(run: Any, tmp_path: Path) -> None:
    assert "1803 scenes for training" in run(DATA, "notebooks")
    assert not (tmp_path / "checkout/runs").exists()

    said = run(COLOUR, "notebooks")
    assert "the bundled generator" in said and "differs by at most" in said
    assert "8 coloured, 0 skipped" in said

    assert "best.ckpt: " in run(TRAIN, "notebooks")
    # Once more: everything is there, and found to be complete.
    assert "phase gan of run notebook is complete" in run(TRAIN, ".")
