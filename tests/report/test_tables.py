"""Tables: text of the cells, changes against a base, best values, each format."""

import io

import numpy as np
import pandas as pd
import pytest

from archlab.report import tables


@pytest.fixture
def frame():
    return pd.DataFrame(
        {
            "row": ["whole", "thin", "a|b_&"],
            "params": [967, 838, 838],
            "SSIM": [0.932, 0.9294, np.nan],
            "x": [1, None, 2],
        }
    )


def test_cells_changes_and_missing_values(frame):
    cells = tables.table(frame, base=0, deltas=["params", "SSIM"]).cells
    assert cells["params"].tolist() == ["967", "838 (-129)", "838 (-129)"]
    assert cells["SSIM"].tolist() == ["0.932", "0.929 (-0.003)", "–"]
    assert cells["x"].tolist() == ["1.000", "–", "2.000"]


def test_no_change_is_not_shown_as_one():
    assert tables.table(pd.DataFrame({"a": [1.0, 1.0]}), base=0, deltas=["a"]).cells["a"].tolist() == ["1.000", "1.000"]


def test_the_best_is_bold_ties_all_and_the_base_is_no_rival(frame):
    made = tables.table(frame, base=0, better={"params": "lower", "SSIM": "higher"}, digits={"SSIM": 2})
    assert made.best["params"].tolist() == [False, True, True]
    assert made.best["SSIM"].tolist() == [False, True, False]
    assert "**838**" in made.markdown() and r"\textbf{0.93}" in made.latex() and "<b>838</b>" in made.html()


def test_formats_escape_what_they_read_otherwise(frame):
    made = tables.table(frame)
    assert r"a\|b_&" in made.markdown()
    assert r"a|b\_\&" in made.latex()
    assert "a|b_&amp;" in made.html()
    pd.testing.assert_frame_equal(pd.read_csv(io.StringIO(made.csv())), frame)


def test_the_frame_is_left_untouched_and_files_are_written(frame, tmp_path):
    before = frame.copy()
    tables.table(frame, base=0, deltas=["SSIM"]).save(tmp_path)
    pd.testing.assert_frame_equal(frame, before)
    assert (tmp_path / "table.md").read_text().startswith("| row") and r"\toprule" in (
        tmp_path / "table.tex"
    ).read_text()


@pytest.mark.parametrize(
    "options, words",
    [
        ({"deltas": ["SSIM"]}, "need a base row"),
        ({"base": 7}, "base must be the position of a row, 0 to 2, got 7"),
        ({"digits": {"FPS": 1}}, "no column 'FPS': the columns are row, params, SSIM, x"),
        ({"better": {"SSIM": "bigger"}}, "better['SSIM'] must be 'higher' or 'lower', got 'bigger'"),
    ],
)
def test_what_does_not_fit_is_named(frame, options, words):
    with pytest.raises(ValueError) as error:
        tables.table(frame, **options)
    assert words in str(error.value)


def test_columns_choose_order_head_and_print(frame):
    columns = [
        tables.Column("SSIM", "quality", digits=2, better="higher", change=True),
        tables.Column("params", "size", unit="K"),
    ]
    made = tables.table(frame, columns=columns, base=0)
    assert list(made.cells) == ["quality", "size [K]"]
    assert made.cells["quality"].tolist() == ["0.93", "0.93 (-0.00)", "–"]
    assert made.cells["size [K]"].tolist() == ["967", "838", "838"]
    assert made.best["quality"].tolist() == [False, True, False] and not made.best["size [K]"].any()
    given = tables.table(frame, columns=columns, base=0, deltas=["size [K]"], better={}, digits={})
    assert given.cells["quality"].tolist() == ["0.932", "0.929", "–"] and not given.best.any(axis=None)
    assert given.cells["size [K]"].tolist() == ["967", "838 (-129)", "838 (-129)"]
    assert tables.table(frame, columns=columns).cells["quality"].tolist()[1] == "0.93", "without a base no changes"
    with pytest.raises(ValueError, match="no column 'PSNR': the columns are row, params, SSIM, x"):
        tables.table(frame, columns=[tables.Column("PSNR", "PSNR")])
