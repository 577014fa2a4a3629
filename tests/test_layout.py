"""Eleven rooms: imports run one way, rooms stay small, and no file reaches into the private names of another."""

import ast
import importlib
from pathlib import Path

import pytest

import archlab as al

PACKAGE = Path(al.__file__).parent
FILES = sorted(file for file in PACKAGE.rglob("*.py") if file.parent != PACKAGE or file.stem != "__init__")

# Which rooms a room may import, beside `arguments`, `files`, `names`, `markup` and `errors`, which import no room.
ROOMS = {
    "capture": set(),
    "rewrite": {"capture"},
    "discovery": {"capture", "rewrite"},
    "passes": {"capture", "rewrite", "discovery"},
    "measure": {"capture"},
    "training": {"capture"},
    "experiments": {"measure", "training"},
    "report": {"measure"},  # the statistics of what it shows
    "removal": {"capture", "rewrite", "discovery", "passes", "measure", "training", "experiments", "report"},
    "architectures": {"capture", "rewrite", "passes", "measure", "training", "experiments", "report"},
    "cli": {
        "capture",
        "discovery",
        "passes",
        "measure",
        "training",
        "experiments",
        "report",
        "removal",
        "architectures",
        "files",
        "archlab",
    },
    "files": set(),
    "names": set(),
    "errors": set(),
    "arguments": set(),
    "markup": set(),
}
EVERYWHERE = {"files", "names", "errors", "arguments", "markup"}
PUBLIC = {"training", "experiments", "report", "removal"}  # rooms that studies and users' scripts import from
FILES_PER_ROOM, LINES_PER_FILE = 12, 400


def module_of(file: Path) -> str:
    return ".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


def imported(file: Path) -> set[str]:
    """The modules of archlab that a file imports, anywhere in it."""
    module = module_of(file)
    package = (module if file.stem == "__init__" else module.rpartition(".")[0]).split(".")
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                path = PACKAGE.parent.joinpath(*base.split("."), alias.name)
                below = path.with_suffix(".py").exists() or (path / "__init__.py").exists()
                found.add(f"{base}.{alias.name}" if below else base)
    return {name for name in found if name.partition(".")[0] == "archlab"}


def room_of(module: str) -> str:
    """The room of a module's name; "archlab" for the package itself."""
    return module.split(".")[1] if "." in module else "archlab"


@pytest.mark.parametrize("file", FILES, ids=module_of)
def test_a_room_imports_only_the_rooms_that_the_table_allows(file):
    room = room_of(module_of(file))
    wrong = {name for name in imported(file) if room_of(name) not in ROOMS[room] | {room} | EVERYWHERE}
    assert not wrong, f"{module_of(file)} is in {room}, which may import {sorted(ROOMS[room])}; it imports {wrong}"


def test_no_two_files_import_each_other():
    """A cycle within a room as well: an order of all files exists."""
    known = {module_of(file) for file in FILES}
    needs = {module_of(file): imported(file) & known - {module_of(file)} for file in FILES if file.stem != "__init__"}
    while ready := {name for name, wanted in needs.items() if not wanted & needs.keys()}:
        needs = {name: wanted for name, wanted in needs.items() if name not in ready}
    assert not needs, f"these import each other: {sorted(needs)}"


@pytest.mark.parametrize("folder", sorted({file.parent for file in FILES} - {PACKAGE}), ids=lambda p: p.name)
def test_a_room_has_at_most_twelve_files(folder):
    files = [file for file in folder.glob("*.py") if file.stem != "__init__"]
    assert len(files) <= FILES_PER_ROOM


@pytest.mark.parametrize("file", FILES, ids=module_of)
def test_a_file_is_short_or_says_why_it_is_not(file):
    text = file.read_text()
    assert text.count("\n") <= LINES_PER_FILE or "one file" in (ast.get_docstring(ast.parse(text)) or "")


def test_rooms_are_entered_by_their_files():
    """Public names come from archlab/__init__.py, and of the rooms that studies use, from theirs."""
    for file in PACKAGE.glob("*/**/__init__.py"):
        assert module_of(file).split(".")[1:] in [[room] for room in PUBLIC] or not file.read_text().strip(), file


@pytest.mark.parametrize("file", sorted((PACKAGE / "report").rglob("*.py")), ids=module_of)
def test_what_draws_never_sees_a_model(file):
    tree = ast.parse(file.read_text())
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    roots = {alias.name.partition(".")[0] for node in imports for alias in node.names if isinstance(node, ast.Import)}
    roots |= {(node.module or "").partition(".")[0] for node in imports if isinstance(node, ast.ImportFrom)}
    assert not roots & {"torch", "torchvision", "archlab"}


@pytest.mark.parametrize("file", FILES, ids=module_of)
def test_no_file_reaches_into_the_private_names_of_another(file):
    """Neither `from .x import _name` nor `x._name` of a module of archlab that is imported as a whole."""
    tree = ast.parse(file.read_text())
    froms = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level]
    wrong = [alias.name for node in froms for alias in node.names if alias.name.startswith("_")]
    whole = {alias.asname or alias.name for node in froms if not node.module for alias in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and isinstance(node.value, ast.Name):
            wrong += [f"{node.value.id}.{node.attr}"] if node.value.id in whole else []
    assert not [name for name in wrong if name != "__version__"]


# What studies import: archlab's public names, and those of the rooms that are public. These files need more:
STUDIES = PACKAGE.parent / "studies"
MORE = {
    "bench/cases.py": {"archlab.rewrite.blend"},  # measures archlab's blend against its rivals
    # Runs an example of any form, and compares outputs of any, in which a cache may have lost entries.
    "coverage/checks.py": {"archlab.capture.example", "archlab.passes.depth.outputs"},
    "coverage/supernets.py": {"archlab.capture.example"},  # the same
    "coverage/witness.py": {"archlab.capture.example"},  # the same, beside archlab's own record
    "motion/video/stream.py": {"archlab.measure.executable"},  # compiles and captures as `al.speed` does, by one code
}


@pytest.mark.parametrize("file", sorted(STUDIES.rglob("*.py")), ids=lambda file: str(file.relative_to(STUDIES)))
def test_studies_import_public_names_only(file):
    tree, more = ast.parse(file.read_text(encoding="utf-8")), MORE.get(str(file.relative_to(STUDIES)), set())
    wrong, used = [], set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            wrong += [name.name for name in node.names if name.name.startswith("archlab.")]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "archlab":
            room = node.module or ""
            if room in more:
                used.add(room)
            elif room not in {"archlab", *(f"archlab.{public}" for public in PUBLIC)}:
                wrong.append(room)
            else:
                known = importlib.import_module(room).__all__
                wrong += [f"{room}: {alias.name}" for alias in node.names if alias.name not in known]
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "al":
            wrong += [f"al.{node.attr}"] if node.attr not in al.__all__ else []
    assert not wrong, f"{file.name} reaches behind archlab's public names: {wrong}"
    assert used == more, f"{file.name} is excepted and need not be"
