"""Every example in archlab's docstrings gives the output that stands under it."""

import ast
import doctest
import importlib
import inspect
import pkgutil
import sys
from pathlib import Path
from types import ModuleType

import pytest

import archlab

MODULES = ["archlab", *(module.name for module in pkgutil.walk_packages(archlab.__path__, "archlab."))]


class Finder(doctest.DocTestFinder):
    """Also finds the examples of decorated functions, which doctest takes for those of the decorator's module."""

    def _from_module(self, module, object):
        return super()._from_module(module, inspect.unwrap(object))  # type: ignore[misc]


def documented(module: ModuleType) -> int:
    """How many docstrings of the module's file hold examples."""
    described = ast.Module | ast.FunctionDef | ast.ClassDef
    nodes = [node for node in ast.walk(ast.parse(Path(module.__file__).read_text())) if isinstance(node, described)]
    return sum(">>> " in (ast.get_docstring(node) or "") for node in nodes)


@pytest.mark.parametrize("name", MODULES)
def test_examples(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # some write files, and import them
    monkeypatch.setattr(sys, "path", list(sys.path))
    module = importlib.import_module(name)
    tests = [test for test in Finder().find(module) if test.examples]
    assert len(tests) == documented(module)
    runner = doctest.DocTestRunner()
    assert not sum(runner.run(test).failed for test in tests), "see the output"
