"""The rooms of the house and the arrows between them, checked against the code."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CORE = ROOT / "zoo_core"

FLOORS = [
    {"text"},
    {"errors"},
    {"contract", "settings", "utils"},
    {"registry"},
    {"weights"},
    {"surgery"},
    {"tracing", "images", "build"},
    {"recipe"},
    {"inspect", "prediction", "embedding", "exporting"},
    {"testing", "plugin"},
    {"cli", "__main__"},
]
"""The rooms from the ground up: a module imports from its own floor and from those below, in functions too."""

PUBLIC_NAMES = {"zoo_core.build.get", "zoo_core.recipe.edits", "zoo_core.plugin"}
"""May import ``zoo_core`` itself: get takes what load does, and a recipe is replayed with public verbs."""


def room(module: str) -> str:
    """The room of a dotted module below zoo_core."""
    return module.split(".")[1] if "." in module else ""


def imports(path: Path) -> set[str]:
    """The zoo_core modules that a file imports, wherever in it: at the top, in functions, for type checking."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "zoo_core":
            names = (
                [f"{node.module}.{alias.name}" for alias in node.names] if node.module == "zoo_core" else [node.module]
            )
            found.update(names)
        elif isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names if alias.name.split(".")[0] == "zoo_core")
    return found - {"zoo_core.__version__"}


def modules() -> list[Path]:
    return [path for path in sorted(CORE.rglob("*.py")) if path != CORE / "__init__.py"]


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_a_module_imports_only_from_its_floor_and_below(path):
    floor_of = {name: level for level, names in enumerate(FLOORS) for name in names}
    own = floor_of[room(name_of(path))]
    for module in imports(path):
        if module == "zoo_core":
            assert name_of(path) in PUBLIC_NAMES, f"{name_of(path)} must import from the rooms, not from the root"
        else:
            assert floor_of[room(module)] <= own, f"{name_of(path)} must not import {module}"


def test_every_room_has_a_floor():
    rooms = {room(name_of(path)) for path in modules()}
    assert rooms <= {name for floor in FLOORS for name in floor}


@pytest.mark.parametrize("package", [CORE, *sorted((ROOT / "plugins").glob("*/zoo_*"))], ids=lambda path: path.name)
def test_a_package_has_no_circle_of_imports_wherever_they_stand(package):
    graph = {dotted(path, package): modules_imported(path, package) for path in package.rglob("*.py")}
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        if module in trail:
            pytest.fail(" -> ".join([*trail[trail.index(module) :], module]))
        if module not in done:
            for imported in graph.get(module, ()):
                visit(imported, (*trail, module))
            done.add(module)

    for module in graph:
        visit(module, ())


def dotted(path: Path, package: Path) -> str:
    return ".".join(path.relative_to(package.parent).with_suffix("").parts).removesuffix(".__init__")


def modules_imported(path: Path, package: Path) -> set[str]:
    """The modules that a file imports of its package, in functions and for type checking too; packages as such."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == package.name:
            for alias in node.names:
                module = f"{node.module}.{alias.name}"
                place = package.parent / Path(*module.split("."))
                found.add(module if place.with_suffix(".py").exists() or place.is_dir() else node.module)
    return found - {package.name, dotted(path, package)}


PLUGINS = [path for path in sorted((ROOT / "plugins").glob("*/zoo_*/**/*.py")) if "tests" not in path.parts]


@pytest.mark.parametrize("path", PLUGINS, ids=lambda path: str(path.relative_to(ROOT / "plugins")))
def test_a_plugin_imports_only_public_names(path):
    for module in imports(path):
        assert module in {"zoo_core", "zoo_core.errors", "zoo_core.plugin", "zoo_core.testing"}, (
            f"{path.name} imports {module}"
        )


@pytest.mark.parametrize(
    "statement",
    [
        "import zoo_core",
        "import zoo_core as zoo; zoo.list()",
        "import zoo_core as zoo; zoo.info('resnet18')",
        "import zoo_core as zoo; zoo.hookimpl, zoo.Anatomy, zoo.Chain",
        "import zoo_core.cli",
    ],
)
def test_light_paths_leave_heavy_libraries_unimported(statement):
    heavy = ["torch", "torchvision", "timm", "numpy", "requests", "rich", "click", "sklearn", "matplotlib"]
    code = f"{statement}\nimport sys\nprint([name for name in {heavy} if name in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("path", [*modules(), *PLUGINS], ids=lambda path: str(path.relative_to(ROOT)))
def test_modules_stay_small_enough_to_read(path):
    assert len(path.read_text().splitlines()) <= 500
