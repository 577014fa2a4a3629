"""One table of columns: a new one stands in every study's table, and the paper's numbers stand beside the row's."""

import pandas as pd
import pytest

from archlab.report import Column
from studies.motion import columns, table1_report
from studies.motion.figures import shared
from studies.motion.train import networks

from .test_figures import made_up, network_row
from .test_table1 import made_rows


@pytest.fixture
def new_column(monkeypatch):
    monkeypatch.setattr(columns, "QUALITY", (*columns.QUALITY, Column("psnr", "PSNR", unit="dB", digits=1)))


def networks_rows():
    """What a run of `networks` gives, with invented numbers; the large ones are not trained."""
    rows = []
    for number, row in enumerate(networks.ROWS):
        name = row.get("network", row["name"])
        trained = name not in networks.LARGE_ONLY
        line = network_row(row["name"], 1) | {"psnr": 30.0 + number, "loss": 0.1, "seconds": 60.0, "judged": 8}
        line |= {"val_data": "photos", "train_data": "photos", "batch": 2, "size": 48, "patch": 48, "precision": "fp32"}
        line |= {"what": row.get("what"), "steps": 40 * trained, "why_not": "" if trained else "too large"}
        if row["name"] == networks.SPEED:
            line["speeds"] = [
                {"network": n, "fps": 5.0, "width": 96, "height": 48, "conditions": "a CPU"} for n in networks.NETWORKS
            ]
        rows.append(line)
    return rows


def test_a_new_column_stands_in_every_table(new_column, tmp_path):
    rows = made_rows(tmp_path)
    rows["psnr"] = 30.0
    tables = [table1_report.table_of(rows), shared.table_of(made_up([network_row("baseline", 0) | {"psnr": 31.25}]))]
    assert [made.cells["PSNR [dB]"].iloc[0] for made in tables] == ["30.0", "31.2"]
    networks.report(made_up(networks_rows()), tmp_path)
    head, _, first, *_ = (tmp_path / "table.md").read_text().splitlines()
    place = [cell.strip() for cell in head.split("|")].index("PSNR [dB]")
    assert first.split("|")[place].strip() == f"{30 + len(networks.NETWORKS):.1f}"
    assert "- scaled C: too large" in (tmp_path / "report.md").read_text()


def test_what_the_paper_prints_stands_beside_the_row_that_it_is_of():
    rows = pd.DataFrame([network_row(name, i) for i, name in enumerate(("baseline", "width 4", "proposed"))])
    made = columns.table_of(rows, (*columns.SPEED, *columns.QUALITY), published="Fig. 11", changes=["ssim"])
    assert list(made.cells) == ["network", "FPS", "SSIM", "LPIPS", "paper: FPS", "paper: SSIM", "paper: LPIPS"]
    assert made.cells["paper: FPS"].tolist() == ["9.6", "–", "25.8"]
    assert made.cells["paper: SSIM"].tolist() == ["0.921", "–", "0.920 (-0.001)"]
    assert made.cells["paper: LPIPS"].tolist() == ["0.191", "–", "0.164"]
    assert "paper: K" not in made.cells and list(rows) == list(network_row("baseline", 0)), "the rows are untouched"
