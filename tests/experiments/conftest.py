"""A study of its own for each test."""

import sys

import pytest

from .lab import Lab


@pytest.fixture
def lab(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    return Lab(tmp_path, monkeypatch)
