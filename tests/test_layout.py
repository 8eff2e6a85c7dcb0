"""The order of packages, in which imports run down only; the sizes of files; how docstrings open."""

import ast
import re
from pathlib import Path

COLORIZE = Path(__file__).parents[1] / "colorize"

FLOORS = (
    {"runtime"},
    {"color"},
    {"networks"},
    {"config"},
    {"runs"},
    {"cli"},
    {"losses", "metrics"},
    {"photos", "video"},
    {"data"},
    {"weights"},
    {"inference"},
    {"evaluation"},
    {"training"},
    {"exporting", "page"},
    {"train", "generate", "evaluate", "predict", "export", "app", "pack"},
    {"pipeline"},
    {"__main__"},
)
"""From the ground up. What stands on one floor does not import its neighbours; `colorize.__init__` imports nothing."""


def test_imports_run_down_only() -> None:
    floor = {name: number for number, names in enumerate(FLOORS) for name in names}
    upwards = []
    for path in COLORIZE.rglob("*.py"):
        own = path.relative_to(COLORIZE).with_suffix("").parts[0]
        if own == "__init__":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            modules = []
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                modules = [f"{node.module}.{alias.name}" for alias in node.names]
            for module in modules:
                parts = module.split(".")
                if parts[0] == "colorize" and parts[1] != own and floor.get(parts[1], 99) >= floor[own]:
                    upwards.append(f"{path.relative_to(COLORIZE)}:{node.lineno} imports {module}")
    assert not upwards, "\n".join(upwards)


def test_docstrings_open_with_a_verb_or_a_noun_phrase() -> None:
    """Ruff's D401 sees to verbs; it lets these questions through where they stand before no verb, and in modules."""
    asking = re.compile(r"(What|Whether|How|Where|Which|Who|When)\b")
    found = [
        f"{path.relative_to(COLORIZE)}:{node.lineno}: {node.value.value.splitlines()[0]}"
        for path in COLORIZE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and asking.match(str(node.value.value))
    ]
    assert not found, "\n".join(found)


def test_files_stay_small() -> None:
    lines = {str(path.relative_to(COLORIZE)): len(path.read_text().splitlines()) for path in COLORIZE.rglob("*.py")}
    assert {name: count for name, count in lines.items() if count > 350} == {}
