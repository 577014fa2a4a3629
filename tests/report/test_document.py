"""A document says how it was made, holds its parts in order, and what was noted by hand; its tables are files too."""

import pandas as pd
import pytest

from archlab.report import Picture, table, write_report


@pytest.fixture
def rows():
    frame = pd.DataFrame({"row": ["a", "b", "b"], "SSIM": [0.9, 0.8, 0.7], "stale": [False, True, True]})
    frame.attrs["conditions"] = {
        "preset": "cpu", "data": "photos", "seeds": 2, "wall_s": 90.0, "device": "CPU", "torch": "2", "commit": "abc",
    }  # fmt: skip
    return frame


def test_parts_stand_in_order_under_how_they_were_made(rows, tmp_path):
    (tmp_path / "curve.png").touch()
    made = table(rows[["row", "SSIM"]])
    write_report(
        rows, tmp_path, "Title", "One.", "", made, ["x", "y"], Picture("curve.png", "a curve"), command="python -m s",
        about="Said beside.", tables={"table": made, "other": made},
    )  # fmt: skip
    title, how, *parts = (tmp_path / "report.md").read_text().split("\n\n")
    assert title == "# Title"
    assert how == (
        "`python -m s --preset cpu`, data photos, 2 seed(s), 2 minutes on CPU, torch 2, commit abc. Of code that has "
        "changed since: b. Said beside."
    )
    assert parts == ["One.", made.markdown(), "- x\n- y", "![a curve](curve.png)\n"]
    assert {path.name for path in tmp_path.glob("*.md")} == {"report.md", "table.md", "other.md"}
    assert (tmp_path / "other.tex").read_text().startswith(r"\begin{tabular}")


@pytest.mark.parametrize(
    ("older", "said"),
    [(2, "since: r0, r1."), (14, "since: 14 of 20 rows (stale in rows.csv)."), (20, "since: all rows.")],
)
def test_rows_of_older_code_are_named_while_they_are_few(rows, older, said, tmp_path):
    many = pd.DataFrame({"row": [f"r{n}" for n in range(20)], "stale": [n < older for n in range(20)]})
    many.attrs |= rows.attrs
    write_report(many, tmp_path, "Title", command="python -m s")
    assert f"Of code that has changed {said}" in (tmp_path / "report.md").read_text()


def test_a_report_of_part_of_the_rows_says_so(rows, tmp_path):
    rows.attrs["missing"] = {"c (seed 0)": "failed: no good", "d (seed 0)": "not chosen by only"}
    write_report(rows, tmp_path, "Title", command="python -m s")
    told = f"**Part of the rows**: 2 of {len(rows) + 2} cells are missing (c (seed 0), d (seed 0)). Of code that"
    assert told in (tmp_path / "report.md").read_text()


def test_notes_are_appended_and_stay(rows, tmp_path):
    (tmp_path / "notes.md").write_text("## Reading\n\nIt is so.\n")
    for _ in range(2):
        write_report(rows, tmp_path, "Title", "One.", command="python -m s")
        assert (tmp_path / "report.md").read_text().endswith("One.\n\n## Reading\n\nIt is so.\n")
    assert (tmp_path / "notes.md").read_text() == "## Reading\n\nIt is so.\n"


def test_fresh_rows_and_no_time_to_speak_of_are_not_mentioned(rows, tmp_path):
    rows["stale"] = False
    rows.attrs["conditions"]["wall_s"] = 3.0
    write_report(rows, tmp_path, "Title", command="python -m s")
    text = (tmp_path / "report.md").read_text()
    assert "changed since" not in text and "minutes" not in text and "2 seed(s), CPU, torch" in text


def test_a_picture_that_is_not_there_is_an_error_and_nothing_is_written(rows, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"curve\.png: no such picture; save it before"):
        write_report(
            rows, tmp_path, "T", Picture("curve.png", "a curve"), command="x", tables={"table": table(rows[["row"]])}
        )
    assert not list(tmp_path.iterdir())
