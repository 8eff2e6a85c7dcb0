"""Write a trained generator to a file that travels: safetensors for this program, ONNX for others.

python -m colorize.export checkpoint=FILE output=mine.safetensors
python -m colorize.export checkpoint=FILE output=mine.onnx format=onnx half=true

A model card is written beside it, as OUTPUT.md: what the network was trained on, its scores, how it is shown photos.
ONNX needs the extra: pip install -e ".[onnx]".
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from importlib import import_module
from pathlib import Path

from colorize.cli.command import run_command
from colorize.config import ExportConfig
from colorize.runtime.errors import UserError
from colorize.runtime.files import written_whole
from colorize.runtime.log import log
from colorize.runtime.schema import BadOption
from colorize.weights.bundled import existing_weights


def run(config: ExportConfig) -> None:
    """Write the file and its card."""
    config = replace(config, checkpoint=str(existing_weights(config.checkpoint)))
    output = Path(config.output)
    card_file = output.with_name(f"{output.name}.md")
    check(config, output, card_file)
    if config.format == "onnx":
        for package in ("onnx", "onnxruntime", "onnxscript"):  # what is missing is told before anything is read
            import_module(package)
    from colorize.exporting import model_card, weight_files
    from colorize.weights.load import load_weights

    loaded = load_weights(config.checkpoint, config.use_ema)
    if config.render_px is not None:
        loaded = replace(loaded, preprocessing=replace(loaded.preprocessing, render_px=config.render_px))
    loaded = replace(loaded, provenance=model_card.find_provenance(config.checkpoint, loaded, config.use_ema))
    difference = None
    if config.format == "onnx":
        content, difference = weight_files.to_onnx(loaded, config.half)
        log.info(f"PyTorch and ONNX Runtime differ by at most {difference:.1g} on {len(weight_files.CHECKED)} sizes")
    else:
        content = weight_files.to_safetensors(loaded, config.half)
    card = model_card.text(loaded, output.name, difference, config.half)
    with ExitStack() as files:  # both are whole before either takes its place
        for path, part in ((output, content), (card_file, card.encode())):
            files.enter_context(written_whole(path)).write(part)
    log.info(f"{output}: {loaded.title}, {len(content) / 1e6:.1f} MB; {card_file.name} beside it describes it")


def check(config: ExportConfig, output: Path, card: Path) -> None:
    """Refuse, before anything is read, a name that is not of its format, and what is in the way of the output."""
    suffix = f".{config.format}"
    if output.suffix.lower() != suffix:
        raise BadOption(f"output={output} with format={config.format}: give a file name that ends in {suffix}")
    if output.exists() and output.samefile(config.checkpoint):
        raise UserError(f"output={output} is the checkpoint itself: give another name")
    for path in (output, card):
        if path.is_dir():
            raise UserError(f"{path} is a folder: give another output")
        if path.exists() and not config.overwrite:
            raise UserError(f"{path} exists: give another output, or overwrite=true")


if __name__ == "__main__":
    run_command("export", run)
