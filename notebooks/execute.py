"""Run the notebooks in their order and keep their outputs, small enough to be committed: `make notebooks`."""

import base64
import itertools
import os
import sys
import tempfile
from io import BytesIO
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from PIL import Image

HERE = Path(__file__).resolve().parent
MOST_BYTES = 7_500
WIDTHS_PX, QUALITIES = (700, 600, 500, 400), (75, 60, 45)


def shrunk(png: bytes) -> tuple[str, bytes]:
    """Return the type and the bytes of a picture within `MOST_BYTES`: PNG of few colours, or else JPEG."""
    original = Image.open(BytesIO(png)).convert("RGB")
    plot = len(original.getcolors(1 << 24) or ()) < 5000  # photos would turn into posters
    for kind, width_px, quality in itertools.product(["png", "jpeg"] if plot else ["jpeg"], WIDTHS_PX, QUALITIES):
        image = original.copy()
        image.thumbnail((width_px, width_px), Image.Resampling.LANCZOS)
        buffer = BytesIO()
        if kind == "png":
            image.quantize(16, dither=Image.Dither.NONE).save(buffer, kind, optimize=True)
        else:
            image.save(buffer, kind, quality=quality, optimize=True)
        if buffer.tell() <= MOST_BYTES:
            break
    return f"image/{kind}", buffer.getvalue()


def kept(output: nbformat.NotebookNode) -> bool:
    """Keep what a cell shows and prints; not what commands log on stderr, which has times."""
    if "data" in output and "image/png" in output.data:
        kind, content = shrunk(base64.b64decode(output.data["image/png"]))
        output.data = {kind: base64.b64encode(content).decode()}
    return output.get("name") != "stderr"


def main() -> None:
    os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")])
    with tempfile.TemporaryDirectory() as folder:  # runs/ of the checkout is the user's
        (Path(folder) / "docs").symlink_to(HERE.parent / "docs")
        for path in [HERE / name for name in sys.argv[1:]] or sorted(HERE.glob("*.ipynb")):
            book = nbformat.read(path, as_version=4)
            where = {"metadata": {"path": folder}}
            NotebookClient(book, timeout=1800, kernel_name="python3", resources=where, record_timing=False).execute()
            for cell in book.cells:
                if cell.cell_type == "code":
                    cell.outputs = [output for output in cell.outputs if kept(output)]
            book.metadata.language_info = {"name": "python"}
            nbformat.write(book, path)


if __name__ == "__main__":
    main()
