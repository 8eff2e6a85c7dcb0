"""The README, docs/ and the notebooks: every command composes, every link leads somewhere, every name exists."""

import importlib
import json
import re
import shlex
from functools import cache
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override

from colorize import config as schemas
from colorize.cli.command import configured, quoted
from colorize.cli.front_door import HELP, command_line
from colorize.data.resolution import fit_to_photos
from colorize.training import build

ROOT = Path(__file__).parents[1]
DOCS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
HISTORY = {"CHANGELOG.md", "LOG.md"}  # may name what is gone
NO_OVERRIDES = {"-m", "--cfg", "job", "…"}
REQUIRED = {"predict": ["input=photo.jpg", "output=coloured.jpg"], "export": ["output=mine.safetensors"]}


@cache
def text_of(path: Path) -> str:
    """The text of a page; of a notebook, its cells. Lines that end in a backslash are joined with the next."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        text = "\n".join("".join(cell["source"]) for cell in json.loads(text)["cells"])
    return text.replace("\\\n", " ")


def shown_commands() -> list[str]:
    """Commands of this program, from the name on, on pages, in notebooks, in `conf/` and in the commands' own texts.

    One that stands within a sentence may leave out what its command needs: it ends in "…".
    """
    files = [*DOCS, *(ROOT / "conf").rglob("*.yaml"), *(ROOT / "notebooks").glob("*.ipynb")]
    files += [ROOT / "colorize" / f"{name}.py" for name in schemas.SCHEMAS]
    text = "\n".join(text_of(path) for path in files)
    starts = r"^(?:[#% ]*|.*: )(?:python|run|torchrun|srun) [^`\n]*?-m "
    found = set(re.findall(starts + r"(colorize\.\w+[^`\n]*)$", text, re.MULTILINE))
    front = re.findall(r"^ *(colorize (?!COMMAND|PHOTOS)[^`\n]*?)(?: {2,}.*)?$", f"{text}\n{HELP}", re.MULTILINE)
    found |= {f"colorize.{shlex.join([name, *words])}" for name, words in map(as_command, front)}
    found |= {f"{command} …" for command in re.findall(r"`[^`\n]*-m (colorize\.\w+[^`]*)`", text)}
    return sorted({" ".join(command.split()) for command in found})


def as_command(front: str) -> tuple[str, list[str]]:
    """The command that `colorize …` means, and its words."""
    words = shlex.split(front, comments=True)[1:]
    return ("train", ["--help"]) if words == ["--help"] else command_line(words)


def first_job(override: Override) -> str:
    """The override with its first value, where it has several."""
    if override.is_interval_sweep():
        return f"{override.get_key_element()}={override.value().start}"
    if override.is_sweep_override():
        return f"{override.get_key_element()}={next(override.sweep_string_iterator())}"
    return str(override.input_line)


@pytest.mark.parametrize("command", shown_commands())
def test_commands_shown_compose_and_fit_together(command: str) -> None:
    module, *words = shlex.split(command, comments=True)
    name = module.removeprefix("colorize.")
    schema = schemas.SCHEMAS[name]
    if "--help" in words:
        return
    overrides = quoted([word for word in words if word not in NO_OVERRIDES], schema, sweep="-m" in words)
    if "…" in words:
        overrides = [*REQUIRED.get(name, ["data.root=photos"]), *overrides]
    if "-m" in words:  # a sweep: its first job
        parsed = OverridesParser.create().parse_overrides([word for word in overrides if not word.startswith("hydra")])
        assert any(override.is_sweep_override() for override in parsed)
        overrides = [first_job(override) for override in parsed]
    config = configured(name, overrides)
    if isinstance(config, schemas.TrainConfig):
        config.resolution = fit_to_photos(config.resolution, 10_000)  # as training does
        build.make_schedule(config)
    if isinstance(config, schemas.PipelineConfig):
        for step, own in vars(config.only).items():
            if own:
                words = ["data.root=photos", *shlex.split(own)]
                configured("generate", words) if step == "generate" else configured("train", [f"phase={step}", *words])


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)#?([^)\s]*)\)", text_of(path)):
        page = path.parent / target if target else path
        assert page.exists(), target
        if anchor:
            titles = re.findall(r"^#+ (.*)$", text_of(page), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w\- ]", "", title).lower().replace(" ", "-") for title in titles}, anchor


@pytest.mark.parametrize("path", [path for path in DOCS if path.name not in HISTORY], ids=lambda path: path.name)
def test_names_of_files_modules_targets_and_extras_exist(path: Path) -> None:
    text = text_of(path)
    folders = r"(?:colorize|tests|benchmarks|conf|findings)/[\w/]+"
    for name in re.findall(rf"\b(?:{folders}|test_\w+)\.(?:py|yaml|sh)\b", text):
        assert any((ROOT / folder / name).exists() for folder in (".", "tests")), name
    for name in re.findall(r"`networks/[\w/]+\.py`", text):
        assert (ROOT / "colorize" / name.strip("`")).exists(), name
    modules = re.findall(r"^from (colorize\S*) import", text, re.MULTILINE)
    for name in [*modules, *re.findall(r"`(colorize(?:\.\w+)+)", text)]:
        parts = name.split(".")
        module = max((n for n in range(len(parts) + 1) if is_module(".".join(parts[:n]))), default=0)
        found = importlib.import_module(".".join(parts[:module]))
        for attribute in parts[module:]:
            found = getattr(found, attribute)
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"(?:^|`)make (?:VENV=\S+ )?([a-z-]+)", text, re.MULTILINE):
        assert f"\n{target}:" in makefile, target
    extras = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for extra in re.findall(r"(?:\.|colorize)\[(\w+)\]", text):
        assert f"\n{extra} = [" in extras, extra


def is_module(name: str) -> bool:
    """Tell whether a dotted name is one of this package's modules."""
    path = ROOT / name.replace(".", "/")
    return name.startswith("colorize") and (path.is_dir() or path.with_suffix(".py").is_file())


def test_the_readme_is_short_and_leads_to_every_page() -> None:
    readme = text_of(ROOT / "README.md")
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 180
    assert [page.name for page in (ROOT / "docs").glob("*.md") if f"(docs/{page.name})" not in readme] == []
