"""The floors of the house: who may import whom, no circles, few names on a level, one package that is complete."""

from __future__ import annotations

import ast
import re
import sys
from functools import cache
from pathlib import Path

import pytest

import lossrag

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parent.parent
FLOORS = {
    "lossrag": set(),
    "tasks": {"lossrag"},
    "models": {"lossrag"},
    "weighting": {"lossrag"},
    "lossbank": {"lossrag", "weighting"},
    "experiments": {"lossrag", "tasks", "models", "weighting", "lossbank"},
}
"""Each folder and those it may use."""

ONLY_IN = {
    "hydra": {"experiments"},
    "omegaconf": {"experiments"},
    "tensorboard": {"experiments"},
    "torch.utils.tensorboard": {"experiments"},
    "matplotlib": {"experiments"},
    "rich": {"experiments", "tasks"},  # tasks shows the progress of a download
}
LONGEST = 450
MOST_NAMES = {**dict.fromkeys(FLOORS, 10), "lossrag": 13, "tasks": 11, "weighting": 11, "experiments": 21}
"""On the first level of a folder, so that a newcomer can read them all."""


def module_name(path: Path) -> str:
    """As it is imported: the floors lie beside ``lossrag`` in a checkout."""
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    return name if name.partition(".")[0] == "lossrag" else f"lossrag.{name}"


def floor_of(name: str) -> str:
    """The folder of a module, or of a name in it."""
    first, _, rest = name.partition(".")
    second = rest.partition(".")[0]
    return second if first == "lossrag" and second in FLOORS else first


MODULES = {module_name(path): path for folder in FLOORS for path in sorted((ROOT / folder).rglob("*.py"))}
ENTRY = "lossrag.__main__"
"""The one module below that hands over to the top floor."""


@cache
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
    assert {floor_of(name) for name in MODULES} == set(FLOORS)
    assert len(MODULES) > 50


@pytest.mark.parametrize("floor", FLOORS)
def test_arrows_point_down(floor):
    wrong = [
        f"{name}:{line} imports {target}"
        for name, path in MODULES.items()
        for target, line, _ in imported(path)
        if floor_of(name) == floor
        and (other := floor_of(target)) in FLOORS
        and other != floor
        and other not in FLOORS[floor]
        and name != ENTRY
    ]
    assert not wrong


ROOMS = {"config": set(), "optim": set(), "record": {"config"}, "run": {"config", "optim", "record"}}
"""Rooms under the training loop, and those that each may use."""


def test_arrows_between_the_rooms_of_a_run_point_down():
    above = {"train", "cli", "studies", "figures", "theory", "bank", "benchmark", *ROOMS}
    wrong = [
        f"{name}:{line} imports {target}"
        for name, path in MODULES.items()
        for target, line, _ in imported(path)
        if name.startswith("lossrag.experiments.") and target.startswith("lossrag.experiments.")
        if (room := name.split(".")[2]) in ROOMS and (other := target.split(".")[2]) in above
        if other != room and other not in ROOMS[room] and "run.learned_losses" not in target
    ]
    assert not wrong


def test_old_names_are_not_imported():
    wrong = [
        f"{name}:{line} imports {target}"
        for name, path in MODULES.items()
        for target, line, _ in imported(path)
        if target.partition(".")[0] in FLOORS and target.partition(".")[0] != "lossrag"
    ]
    assert not wrong


@pytest.mark.parametrize("library", ONLY_IN)
def test_the_machinery_of_runs_stays_on_the_top_floor(library):
    users = {
        floor_of(name)
        for name, path in MODULES.items()
        for target, _, _ in imported(path)
        if f"{target}.".startswith(f"{library}.")
    }
    assert users <= ONLY_IN[library]


def test_no_import_hides_in_a_function():
    hidden = [
        f"{name}:{line} imports {target}"
        for name, path in MODULES.items()
        for target, line, inside in imported(path)
        if inside and target.partition(".")[0] == "lossrag"
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
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > LONGEST
    }
    assert not long


@pytest.mark.parametrize("floor", FLOORS)
def test_few_names_on_the_first_level(floor):
    entries = [
        path.name
        for path in (ROOT / floor).iterdir()
        if path.suffix == ".py" or any(inside.suffix in (".py", ".yaml") for inside in path.rglob("*.*"))
    ]
    assert len(entries) <= MOST_NAMES[floor], sorted(entries)


def test_every_package_is_in_the_wheel():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert set(settings["packages"]) == {name for name, path in MODULES.items() if path.name == "__init__.py"}
    assert set(settings["package-dir"]) == {"lossrag", *(f"lossrag.{floor}" for floor in FLOORS if floor != "lossrag")}


def test_the_face_has_every_public_name_of_the_floors():
    for floor in FLOORS:
        if floor not in ("lossrag", "experiments"):
            package = getattr(__import__(f"lossrag.{floor}"), floor)
            missing = [
                name
                for name in package.__all__
                if not isinstance(getattr(package, name), type(sys)) and getattr(lossrag, name, None) is None
            ]
            assert not missing, floor


@pytest.mark.parametrize("path", sorted((ROOT / "experiments" / "conf").rglob("*.yaml")), ids=lambda path: path.stem)
def test_every_configuration_starts_with_its_command(path):
    head = re.match(r"(?:#.*\n)+", path.read_text())
    assert head, "no comment at the top"
    kind, _, name = str(path.relative_to(ROOT / "experiments" / "conf").with_suffix("")).partition("/")
    by_folder = {
        "experiment": f"lossrag train experiment={name}",
        "ablation": f"lossrag ablate {path.stem}",
        "compare": f"lossrag compare experiment={path.stem}",
        "collect": f"lossrag bank collect {path.stem}",
    }
    command = by_folder.get(kind, "lossrag train")
    assert command in head.group()


def test_typed_package():
    assert (ROOT / "lossrag" / "py.typed").exists()
