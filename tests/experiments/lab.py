"""A study of nothing much in a folder of its own: what its cells do is told by the environment."""

import importlib
import sys
import uuid
from pathlib import Path

from archlab.experiments.cells import cells_of
from archlab.experiments.runner import plan_for, run

STUDY = '''
"""A study of nothing much."""
import os, sys, time
from pathlib import Path
from {helper} import VALUE
from archlab.experiments import OutOfTime

PRESETS = ("smoke", "cpu")
ROWS = [{{"name": "base", "kind": "none"}}, {{"name": "a/1", "kind": "relu"}}, {{"name": "b", "kind": "skip"}}]

def needs(row):
    return [] if row["name"] == "base" else ["base"]

def cell(row, preset, seed, scratch):
    with open(Path(scratch.folder).parents[1] / "ran.txt", "a") as ran:
        ran.write(f"{{row['name']}} {{seed}}\\n")
    behave = os.environ.get("BEHAVE_" + row["name"].replace("/", "_"), "")
    if behave == "fail":
        raise RuntimeError("no good")
    if behave == "kill":
        os.kill(os.getpid(), 9)
    if behave == "slow":
        time.sleep(60)
    while behave == "held" and not Path("go").exists():
        time.sleep(0.02)
    if behave == "long":
        done = len(list(scratch.folder.glob("step*")))
        while done < 5:
            (scratch.folder / f"step{{done}}").touch()
            done += 1
            if scratch.time_left_s() is not None and scratch.time_left_s() < 1000:
                raise OutOfTime
    if behave.startswith("exec "):
        exec(behave.removeprefix("exec "))
    if behave.startswith("return "):
        return eval(behave.removeprefix("return "))
    base = scratch.needed["base"].values["score"] if row["name"] != "base" else 0
    return {{"score": base + VALUE + seed, "steps": 5}}

def report(rows, folder):
    (folder / "report.md").write_text("\\n".join(f"{{r.row}} {{r.score}}" for r in rows.itertuples()))
'''


class Lab:
    """A study module of its own in a folder of its own, and what it did."""

    def __init__(self, folder: Path, monkeypatch):
        self.folder = folder
        self.name = f"study_{uuid.uuid4().hex[:8]}"
        self.helper = f"helper_{self.name}"
        (folder / self.name).mkdir()
        (folder / self.name / "__init__.py").touch()
        self.module = f"{self.name}.table"
        self.edit(helper="VALUE = 1\n", study=STUDY.format(helper=f"{self.name}.helper"))
        monkeypatch.chdir(folder)
        monkeypatch.syspath_prepend(str(folder))

    def edit(self, helper: str | None = None, study: str | None = None) -> None:
        for name, text in (("helper", helper), ("table", study)):
            if text is not None:
                (self.folder / self.name / f"{name}.py").write_text(text)
            if f"{self.name}.{name}" in sys.modules:
                sys.modules.pop(f"{self.name}.{name}")
        importlib.invalidate_caches()

    def run(self, **options):
        return run(self.module, preset="smoke", **options)

    def cells(self):
        return cells_of(plan_for(self.module, "smoke", None, 1, "keep", "reports", "scratch"))

    @property
    def scratch(self) -> Path:
        return self.folder / "scratch" / "table" / "smoke"

    @property
    def out(self) -> Path:
        return self.folder / "reports" / "table" / "smoke"

    def ran(self) -> list[str]:
        path = self.scratch / "ran.txt"
        return path.read_text().splitlines() if path.exists() else []
