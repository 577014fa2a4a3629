"""A folder with models in it, and the command line called there."""

import io
import json
import sys

import pandas as pd
import pytest

from archlab.cli.main import main

MYNET = '''
import torch
from torch import nn

print("importing")

class Net(nn.Module):
    """Two convolutions; keyword arguments here and in forward; a method beside it."""

    def __init__(self, width=4, act="relu"):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, 3, 3, padding=1))
        self.drop = nn.Dropout(0.5)

    def forward(self, x, factor=1.0, *, shift=None):
        print("running")
        return self.drop(x + self.body(x) * factor)

    def encode(self, x):
        return torch.tanh(self.body[0](x))

class Wide(Net):
    def __init__(self):
        super().__init__(width=32)

class Tied(nn.Module):
    """One matrix in two layers, and a bias of its own."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(4, 4, bias=False), nn.Linear(4, 4)
        self.two.weight = self.one.weight
        self.body = nn.Linear(3, 1, bias=False)

    def forward(self, x):
        return self.one(self.two(self.one(x)))

class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.mix = nn.Embedding(10, 4), nn.Linear(4, 4)

    def forward(self, ids):
        return torch.relu(self.mix(self.embed(ids)))

class OnData(nn.Module):
    """Cannot run without data."""

    def __init__(self):
        super().__init__()
        self.mix = nn.Linear(4, 4)

    def forward(self, x):
        return self.mix(x) if x.sum() > 0 else x

def broken(): raise RuntimeError("no weights\\nhere")
def leaves(): raise SystemExit(3)
def a_list(): return [1]
def compiled(): return torch.compile(Tokens())
ready = Tokens()
number = 3
'''


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with mynet.py in it, as the current one."""
    (tmp_path / "mynet.py").write_text(MYNET)
    (tmp_path / "failing.py").write_text("import nowhere_to_be_found\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    for name in ("mynet", "failing"):
        sys.modules.pop(name, None)


class Said:
    """What one call printed, and its exit status."""

    def __init__(self, status: int, out: str, err: str):
        self.status, self.out, self.err = status, out, err

    def json(self):
        return json.loads(self.out)

    def csv(self) -> pd.DataFrame:
        return pd.read_csv(io.StringIO(self.out))

    def lines(self) -> list[list[str]]:
        return [line.split() for line in self.out.splitlines()]


@pytest.fixture
def archlab(here, monkeypatch, capsys):
    """Call the command line with words; wrong usage where `status` is 2 is one line, and nothing is printed.

    Before it on standard error are what the models print, and what begins with `ahead`.
    """

    def call(*words: str, status: int = 0, ahead: tuple[str, ...] = ()) -> Said:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["archlab", *words])
        with pytest.raises(SystemExit) as stopped:
            main()
        said = Said(stopped.value.code or 0, *capsys.readouterr())  # type: ignore[arg-type]
        assert said.status == status, said.err
        if status == 2:
            last = [line for line in said.err.splitlines() if not line.startswith(("importing", "running", *ahead))]
            assert len(last) == 1 and last[0].startswith("archlab: "), said.err
            assert said.out == ""
        return said

    return call
