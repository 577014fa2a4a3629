"""One thread, fixed seeds, no window for figures; where the real images lie, if they do."""

import os
import sys
from pathlib import Path

os.environ.setdefault("MPLBACKEND", "Agg")

import pytest
import torch

torch.set_num_threads(1)

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


def pytest_collection_modifyitems(items):
    """With pytest-xdist, the tests of one contract case run in one process, which builds its models once; so do those
    that share a fixture of their module."""
    for item in items:
        indices = getattr(getattr(item, "callspec", None), "indices", {})
        if "case" in indices:
            item.add_marker(pytest.mark.xdist_group(f"case{indices['case']}"))
        elif shares_a_fixture(item) and not item.get_closest_marker("xdist_group"):
            item.add_marker(pytest.mark.xdist_group(item.module.__name__))


def shares_a_fixture(item) -> bool:
    """Whether a test uses a fixture of its module, which each process would make for itself."""
    used = getattr(getattr(item, "_fixtureinfo", None), "name2fixturedefs", {})
    return any(fixture.scope == "module" for fixtures in used.values() for fixture in fixtures[-1:])


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _here_is_the_present_folder():
    """Python remembers which folder "." of ``sys.path`` was when it was first looked into, by an earlier test."""
    sys.path_importer_cache.pop(".", None)


@pytest.fixture(autouse=True)
def _modes_are_left_as_they_were():
    yield
    left = torch.is_grad_enabled(), torch.is_autocast_enabled("cpu")
    torch.set_grad_enabled(True)
    assert left == (True, False), "gradients or autocast are switched otherwise than before"


@pytest.fixture
def shared_data() -> Path:
    """The folder of real photographs and weights beside the checkout; the test skips where it is absent."""
    if not SHARED.is_dir():
        pytest.skip("no shared/data folder beside the checkout: the real photographs and weights are not here")
    return SHARED
