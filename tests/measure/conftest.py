"""Clocks that are known, and what a model saw."""

import pytest

from archlab.measure import clocks, speed

from .hands import HANDS, SEEN


@pytest.fixture
def hands(monkeypatch):
    """Every clock of archlab shows what `HANDS` show."""
    HANDS.__init__()
    for module in (clocks, speed):
        monkeypatch.setattr(module, "perf_counter", lambda: HANDS.now)
    return HANDS


@pytest.fixture
def seen():
    SEEN.clear()
    return SEEN
