"""Imports run one way, and the files that draw never see a model."""

import ast
from pathlib import Path

import pytest

import archlab as al
from archlab.sourcing import imported_by

PACKAGE = Path(al.__file__).parent
MODULES = sorted(
    ".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
    for file in PACKAGE.rglob("*.py")
)

# From the recorded run up to the command line: a module may import those before it, never one behind it.
ORDER = """
    examples frames locating capture costing ops flow listing finding
    blending variants guarding tracing editing intercepting methods injecting rewriting
    comparing linear chains planning pricing coupling resizing stages
    recipes passes.switching passes.removing passes.folding passes.hoisting passes.sharing passes.resolution
    passes.width passes.depth passes.replacing passes surveying
    checkpoints keeping ledger progress training phases learning probing
    sourcing leasing cells running
    clocks environment preparing timing
    parsing cli_options cli_timing cli
""".split()
# They stand apart: tables and figures are made of DataFrames, qualities of tensors.
APART = ("tables", "plots", "quality")


def own(module: str) -> set[str]:
    """What a module of archlab imports of archlab, directly or not, as names within it."""
    names = {name.removeprefix("archlab.") for name in imported_by(f"archlab.{module}")}
    return names - {module, "archlab"}


def test_every_module_has_its_place():
    here = {name.removeprefix("archlab.") for name in MODULES} - {"archlab"}
    assert here == {*ORDER, *APART}, "a new file: say in ORDER what it may import, or in APART that it imports nothing"


@pytest.mark.parametrize("module", ORDER)
def test_imports_run_one_way(module):
    before = set(ORDER[: ORDER.index(module)])
    wrong = own(module) - before - set(APART)
    assert not wrong, f"archlab.{module} imports {', '.join(sorted(wrong))}, which stands behind it"


@pytest.mark.parametrize("module", APART)
def test_what_draws_and_measures_imports_nothing_of_archlab(module):
    assert not own(module)


@pytest.mark.parametrize("module", ["tables", "plots"])
def test_what_draws_never_sees_a_model(module):
    tree = ast.parse((PACKAGE / f"{module}.py").read_text())
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    roots = {alias.name.partition(".")[0] for node in imports for alias in node.names if isinstance(node, ast.Import)}
    roots |= {(node.module or "").partition(".")[0] for node in imports if isinstance(node, ast.ImportFrom)}
    assert not roots & {"torch", "torchvision", "archlab"}


@pytest.mark.parametrize("module", MODULES)
def test_no_file_reaches_into_the_private_names_of_another(module):
    """Neither `from .x import _name` nor `x._name` of a module of archlab that is imported as a whole."""
    file = PACKAGE.parent / (module.replace(".", "/") + ".py")
    tree = ast.parse((file if file.exists() else file.with_suffix("") / "__init__.py").read_text())
    froms = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level]
    wrong = [alias.name for node in froms for alias in node.names if alias.name.startswith("_")]
    whole = {alias.asname or alias.name for node in froms if not node.module for alias in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and isinstance(node.value, ast.Name):
            wrong += [f"{node.value.id}.{node.attr}"] if node.value.id in whole else []
    assert not [name for name in wrong if not name.endswith("__version__")]


def test_no_module_has_the_name_of_a_public_function():
    assert not {name.rpartition(".")[2] for name in MODULES} & set(al.__all__)
