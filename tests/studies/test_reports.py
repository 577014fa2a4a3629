"""Each report drawn again from its committed cells says what the committed one says, to the last digit of its table."""

import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

REPORTS = Path(__file__).resolve().parents[2] / "reports"
STUDIES = (
    "studies.motion.table1", "studies.motion.train.networks", "studies.motion.train.faster",
    "studies.classify.resnet20", "studies.removal.study",
    "studies.removal.merging",
    *(f"studies.motion.figures.{name}" for name in
      ("by_passes", "fig1_cost", "fig6_width", "fig7_resolution", "fig8_noise", "fig10_impulse", "fig11_ablation",
       "fig13_nas", "fig2_linearity", "fig5_calibration", "fig14_slices", "fig17_subpixel", "fig19_vibration",
       "full_hd", "real_time")),
)  # fmt: skip


def committed_rows(study, cells: Path, work: Path) -> pd.DataFrame:
    """The rows of a study as the runner gives them, from the newest committed cells of each row and seed.

    What cells left in their folders is not committed; something of the same name and shape stands there.
    """
    results = [json.loads(path.read_text(encoding="utf-8")) for path in cells.glob("*.json")]
    newest = {(one["row"], one["seed"]): one for one in sorted(results, key=lambda result: result["ended"])}
    rows, folders, noise = [], {}, np.random.default_rng(0)
    for row in study.ROWS:
        name, said = row["name"], {key: value for key, value in row.items() if key != "name"}
        for seed in sorted(seed for of, seed in newest if of == name):
            result = newest[name, seed]
            about = {"preset": "cpu", "seed": seed, "stale": False, "seconds": result["seconds"]}
            rows.append({"row": name, **said, **result["values"], **about})
        folder = work / name
        folder.mkdir(parents=True)
        folders[name] = str(folder)
        for file in ("input", "target", name):
            np.save(folder / f"{file}.npy", noise.random((8, 12, 3)))
        np.save(folder / "filters.npy", noise.random((32, 3, 19, 19)))
        for file in ("net", "baseline"):
            (folder / f"{file}.safetensors").write_bytes(b"weights")
    frame = pd.DataFrame(rows)
    frame.attrs["folders"] = folders
    made = {"preset": "cpu", "data": "data", "seeds": 1, "wall_s": float(frame["seconds"].sum())}
    frame.attrs["conditions"] = made | {"device": "CPU (x86_64)", "torch": "2", "commit": "abc"}
    return frame


@pytest.mark.parametrize("module", STUDIES)
def test_a_report_drawn_again_has_the_same_tables_words_and_pictures(module, tmp_path):
    study = importlib.import_module(module)
    title, command = getattr(study, "NAME", module.rpartition(".")[2]), module.removesuffix(".study")
    committed, drawn = REPORTS / title / "cpu", tmp_path / "drawn"
    drawn.mkdir()
    if (committed / "notes.md").is_file():
        shutil.copy(committed / "notes.md", drawn)
    study.report(committed_rows(study, committed / "cells", tmp_path / "work"), drawn)
    tables = sorted(path.name for path in committed.glob("*.md") if path.name not in ("report.md", "notes.md"))
    tables += sorted(path.name for path in committed.glob("*.tex"))
    assert "table.md" in tables
    for name in tables:
        assert (drawn / name).read_text(encoding="utf-8") == (committed / name).read_text(encoding="utf-8"), name
    text, before = ((folder / "report.md").read_text(encoding="utf-8") for folder in (drawn, committed))
    headings = [[line for line in one.splitlines() if line.startswith(("#", "![", "| "))] for one in (text, before)]
    assert headings[0] == headings[1]
    assert f"`python -m {command} --preset cpu" in text and f"`python -m {command} --preset cpu" in before
    assert {path.name for path in committed.glob("*.png")} <= {path.name for path in drawn.glob("*.png")}


@pytest.mark.parametrize("report", sorted(REPORTS.rglob("report.md")), ids=lambda path: path.parent.parent.name)
def test_a_report_s_command_and_files_exist(report):
    text = report.read_text(encoding="utf-8")
    command = text.split("`python -m ", 1)[1].split("`", 1)[0].split()[0]
    assert importlib.util.find_spec(command) is not None
    linked = [part.split(")", 1)[0] for part in text.split("](")[1:]]
    assert all((report.parent / link).exists() for link in linked if "://" not in link), linked


def test_the_readme_of_reports_is_the_command_s_and_leads_to_reports_and_pictures():
    """`archlab page reports --readme` writes it; run it again after a report has changed."""
    text = (REPORTS / "README.md").read_text(encoding="utf-8")
    linked = [part.split(")", 1)[0] for part in text.split("](")[1:]]
    assert text.startswith("<!-- Written by `archlab page ") and len(linked) > 12
    assert all((REPORTS / link).is_file() for link in linked), linked
