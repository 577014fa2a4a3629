"""Every example in archlab's docstrings gives the output that stands under it."""

import doctest
import importlib
import pkgutil

import pytest

import archlab

MODULES = ["archlab", *(module.name for module in pkgutil.walk_packages(archlab.__path__, "archlab."))]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # some write files
    results = doctest.testmod(importlib.import_module(name))
    assert not results.failed, f"{results.failed} of {results.attempted} examples failed; see the output"
