"""Tables: text of the cells, changes against a base, best values, each format."""

import io

import numpy as np
import pandas as pd
import pytest

from archlab.report import fronts, tables


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


def test_a_line_of_runs_that_were_not_measured_has_no_change():
    frame = pd.DataFrame({"row": ["whole", "whole", "thin", "thin"], "run": [0, 1] * 2, "SSIM": [0.9, 0.8, None, None]})
    assert tables.table(frame, over="run", base=0, deltas=["SSIM"]).cells["SSIM"].tolist()[1] == "–"


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
        ({"better": {"SSIM": "bigger"}}, "better['SSIM'] must be one of 'higher', 'lower', got 'bigger'"),
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


HOSTILE = "a|b<script>\\$x_1$\n=1+1\x1b[2J"


def test_headings_and_cells_hold_anything():
    made = tables.table(pd.DataFrame({HOSTILE: [HOSTILE, "[x]"], "value": [1.0, 2.0]}), better={"value": "higher"})
    for text in (made.markdown(), made.html(), made.latex()):
        assert "\x1b" not in text and r"\x1b[2J" in text.replace(r"\textbackslash{}", "\\").replace(r"\\x", r"\x")
    assert len(made.markdown().splitlines()) == 4, "a line break in a cell is none in the table"
    assert made.markdown().count(r"a\|b\<script>\\$x_1$<br>=1+1") == 2
    assert made.html().count("a|b&lt;script&gt;\\$x_1$<br>=1+1") == 2
    assert made.latex().count(r"a|b<script>\textbackslash{}\$x\_1\$ =1+1") == 2 and "{[}x]" in made.latex()


@pytest.mark.parametrize("begin", ["=", "+", "-", "@", "\t", "\r"])
def test_what_a_spreadsheet_would_compute_is_text(begin):
    text = f"{begin}HYPERLINK(1)"
    frame = pd.DataFrame({text: [text], "v": [-0.5]})
    read = pd.read_csv(io.StringIO(tables.table(frame).csv(), newline=""))
    text = text.replace("\r", "\n")
    assert list(read) == [f"'{text}", "v"] and read.iloc[0].tolist() == [f"'{text}", -0.5]


def test_columns_named_by_numbers_and_twice():
    frame = pd.DataFrame([[1, 2.0, "x"], [3, 1.0, "y"]], columns=[0, 0, "0"])
    made = tables.table(frame, better={0: "higher"}, digits={0: 1})
    assert made.cells.to_numpy().tolist() == [["1.0", "2.0", "x"], ["3.0", "1.0", "y"]]
    assert made.best.to_numpy().tolist() == [[False, True, False], [True, False, False]]
    for text in (made.markdown(), made.latex(), made.html(), made.csv()):
        assert "3" in text


def test_lists_and_arrays_are_cells():
    frame = pd.DataFrame({"kept": [[1, 2], np.array([3, 4])], "none": [None, {"a": 1}]})
    assert tables.table(frame).cells.to_numpy().tolist() == [["[1, 2]", "–"], ["[3 4]", "{'a': 1}"]]


def test_a_folder_is_made_and_a_file_is_whole(frame, tmp_path):
    tables.table(frame).save(tmp_path / "new" / "folder")
    assert sorted(file.name for file in (tmp_path / "new" / "folder").iterdir()) == ["table.md", "table.tex"]


RUNS = pd.DataFrame(
    {
        "row": ["whole", "thin", "whole", "thin", "whole", "thin"],
        "seed": [0, 0, 1, 1, 2, 2],
        "SSIM": [0.90, 0.88, 0.94, 0.93, 0.92, 0.90],
        "params": [9, 5, 9, 5, 9, 5],
        "sites": [0, 1, 0, 2, 0, 2],
        "note": ["", "x", "", "y", "", "x"],
    }
)


def test_runs_of_a_line_are_its_mean_and_deviation_and_changes_are_paired():
    made = tables.table(RUNS, base=0, deltas=["SSIM", "params"], over="seed", better={"SSIM": "higher"})
    assert list(made.cells) == ["row", "SSIM", "params", "sites", "note"]
    assert made.cells["SSIM"].tolist() == ["0.920 ± 0.020", "0.903 ± 0.025 (-0.017 [-0.031, -0.002])"]
    assert made.cells["params"].tolist() == ["9", "5 (-4 [-4, -4])"], "what runs share stays a whole number"
    assert made.cells["sites"].tolist() == ["0.000", "1.667 ± 0.577"] and made.cells["note"].tolist() == ["", "x, y"]
    values = pd.read_csv(io.StringIO(made.csv()))
    assert values["SSIM sd"].tolist() == pytest.approx([0.02, RUNS["SSIM"][1::2].std()])
    assert "note sd" not in values and "± 0.020" in made.html() and "± 0.020" in made.latex()
    shuffled = tables.table(RUNS.iloc[[3, 0, 5, 4, 1, 2]], base=1, deltas=["SSIM"], over="seed")
    assert shuffled.cells["SSIM"][0].endswith("(-0.017 [-0.031, -0.002])"), "runs are paired by seed, not by order"


def test_the_seeds_of_a_sample_are_its_mean_before_samples_are_compared():
    draw = np.random.default_rng(0)
    hard = np.repeat(draw.normal(0.7, 0.1, 40), 2)
    of = {"sample": np.repeat(np.arange(40), 2), "seed": [0, 1] * 40}
    frame = pd.concat([pd.DataFrame({"row": name, **of, "SSIM": hard + by}) for name, by in (("a", 0), ("b", -0.01))])
    frame["SSIM"] += draw.normal(0, 1e-3, len(frame))
    made = tables.table(frame.drop(columns="seed"), base=0, deltas=["SSIM"], over="sample", method="bootstrap")
    assert made.cells["SSIM"][1].startswith("0.684 ± 0.080"), "deviation over samples"
    assert made.cells["SSIM"][1].endswith("(-0.010 [-0.011, -0.010])"), "what all samples share cancels"


def test_one_run_a_line_is_the_table_without_runs(frame):
    options = {"base": 0, "deltas": ["params"]}
    alone = tables.table(frame.assign(seed=0), over="seed", **options)
    pd.testing.assert_frame_equal(alone.cells, tables.table(frame, **options).cells, check_column_type=False)


def test_a_line_without_a_run_of_the_base_is_named():
    with pytest.raises(ValueError, match="'thin' has no run in common with 'whole'"):
        tables.table(RUNS[(RUNS["row"] == "whole") ^ (RUNS["seed"] == 1)], base=0, deltas=["SSIM"], over="seed")


def test_a_row_without_a_run_is_one():
    frame = pd.DataFrame({"row": ["whole", "thin", "thin"], "seed": [np.nan, 0, 1], "PSNR": [30.0, 28.0, 29.0]})
    assert tables.table(frame, over="seed").cells["PSNR"].tolist() == ["30.000", "28.500 ± 0.707"]
    with pytest.raises(ValueError, match=r"'thin' has 0\.0, 1\.0, 'whole' has nan"):
        tables.table(frame, over="seed", base=0, deltas=["PSNR"])


@pytest.mark.parametrize("kind", ["uint8", "uint64", "Int64", "UInt8"])
def test_whole_numbers_of_every_kind_are_subtracted(kind):
    frame = pd.DataFrame({"row": list("abc"), "seed": 0, "layers": pd.array([50, 34, 50], dtype=kind)})
    assert tables.table(frame, base=0, deltas=["layers"]).cells["layers"][1] == "34 (-16)"
    assert fronts.pareto(frame, {"layers": "lower", "seed": "lower"}).tolist() == [False, True, False]


@pytest.mark.parametrize(
    "kind, shown", [("Int64", ["50", "34", "–"]), ("UInt8", ["50", "34", "–"]), ("Float32", ["50.000", "34.000", "–"])]
)
def test_numbers_of_every_kind_may_be_missing(kind, shown):
    frame = pd.DataFrame({"row": list("abc"), "seed": 0, "layers": pd.array([50, 34, None], dtype=kind)})
    for made in (tables.table(frame), tables.table(frame, over="seed")):
        assert made.cells["layers"].tolist() == shown
    assert fronts.pareto(frame, {"layers": "higher", "seed": "lower"}).tolist() == [True, False, False]


def test_a_column_without_values_has_no_best():
    frame = pd.DataFrame({"row": ["a", "b"], "q": [None, None]})
    assert not tables.table(frame, better={"q": "higher"}).best["q"].any()
