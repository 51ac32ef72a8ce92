"""The floors of the house: who may import whom, no circles, no overlong file, every preset with its command."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FLOORS = {
    "lossrag": set(),
    "tasks": {"lossrag"},
    "models": {"lossrag"},
    "weighting": {"lossrag"},
    "lossbank": {"lossrag", "weighting"},
    "experiments": {"lossrag", "tasks", "models", "weighting", "lossbank"},
}
"""Each package and those it may use."""

ONLY_IN = {
    "hydra": {"experiments"},
    "omegaconf": {"experiments"},
    "tensorboard": {"experiments"},
    "torch.utils.tensorboard": {"experiments"},
    "matplotlib": {"experiments"},
    "rich": {"experiments", "tasks"},  # tasks shows the progress of a download
}
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in FLOORS
    for path in sorted((ROOT / package).rglob("*.py"))
}


def imported(path: Path) -> list[tuple[str, int, bool]]:
    """What a file imports: dotted name, line, and whether inside a function. ``from a import b`` is "a.b"."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
    inner = {id(node) for function in functions for node in ast.walk(function)}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno, id(node) in inner) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            found += [(f"{node.module}.{alias.name}", node.lineno, id(node) in inner) for alias in node.names]
    return found


def test_there_is_something_to_check():
    assert {name.partition(".")[0] for name in MODULES} == set(FLOORS)
    assert len(MODULES) > 50


@pytest.mark.parametrize("package", FLOORS)
def test_arrows_point_down(package):
    wrong = [
        f"{name}:{line} imports {target}"
        for name, path in MODULES.items()
        for target, line, _ in imported(path)
        if name.partition(".")[0] == package
        and (floor := target.partition(".")[0]) in FLOORS
        and floor != package
        and floor not in FLOORS[package]
    ]
    assert not wrong


@pytest.mark.parametrize("library", ONLY_IN)
def test_the_machinery_of_runs_stays_on_the_top_floor(library):
    users = {
        name.partition(".")[0]
        for name, path in MODULES.items()
        for target, _, _ in imported(path)
        if f"{target}.".startswith(f"{library}.")
    }
    assert users <= ONLY_IN[library]


def test_no_import_hides_in_a_function():
    """But for the command line, whose help must not wait for torch."""
    hidden = [
        f"{name}:{line} imports {target}"
        for name, path in MODULES.items()
        for target, line, inside in imported(path)
        if inside and target.partition(".")[0] in FLOORS and name != "experiments.cli"
    ]
    assert not hidden


def test_no_circles():
    graph: dict[str, set[str]] = {}
    for name, path in MODULES.items():
        graph[name] = set()
        for target, _, _ in imported(path):
            module = target if target in MODULES else target.rpartition(".")[0]
            if module in MODULES and module != name:
                graph[name].add(module)

    finished: set[str] = set()

    def walk(name: str, above: tuple[str, ...]) -> None:
        assert name not in above, " -> ".join([*above[above.index(name) :], name])
        if name not in finished:
            for target in sorted(graph[name]):
                walk(target, (*above, name))
            finished.add(name)

    for name in graph:
        walk(name, ())


def test_no_overlong_file():
    folders = [*FLOORS, "tests"]
    long = {
        str(path.relative_to(ROOT)): lines
        for folder in folders
        for path in (ROOT / folder).rglob("*.py")
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > 300
    }
    assert not long


@pytest.mark.parametrize("path", sorted((ROOT / "experiments" / "conf").rglob("*.yaml")), ids=lambda path: path.stem)
def test_every_configuration_starts_with_its_command(path):
    head = re.match(r"(?:#.*\n)+", path.read_text())
    assert head, "no comment at the top"
    kind, _, name = str(path.relative_to(ROOT / "experiments" / "conf").with_suffix("")).partition("/")
    by_folder = {
        "experiment": f"lossrag train experiment={name}",
        "ablation": f"lossrag ablate {path.stem}",
        "compare": f"lossrag compare experiment={path.stem}",
    }
    command = by_folder.get(kind, "lossrag train")
    assert command in head.group()


def test_typed_packages():
    assert all((ROOT / package / "py.typed").exists() for package in FLOORS)
