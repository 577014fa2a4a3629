"""No contract is collected for a network that it does not apply to."""

from inspect import signature

import pytest


def pytest_configure(config):
    config.addinivalue_line("markers", "applies(condition): to these parameters of the test alone, which it names")


def pytest_collection_modifyitems(items):
    kept = [item for item in items if all(_holds(mark, item) for mark in item.iter_markers("applies"))]
    if lost := {item.originalname for item in items} - {item.originalname for item in kept}:
        raise pytest.UsageError(f"{', '.join(sorted(lost))}: applies to none of the networks asked for")
    items[:] = kept


def _holds(mark, item) -> bool:
    (condition,) = mark.args
    return condition(**{name: item.callspec.params[name] for name in signature(condition).parameters})
