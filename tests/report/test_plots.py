"""Figures: what is drawn is what the frame holds."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Text

from archlab.measure.intervals import interval
from archlab.report import plots


@pytest.fixture(autouse=True)
def _closed():
    yield
    plt.close("all")


def test_omegas_draws_a_line_a_site_coloured_by_its_end():
    tracks = {"stays": [0.0, 0.2, 0.1], "goes": [0.0, 0.6, 1.0]}
    history = pd.DataFrame(
        [{"phase": "soft", "step": i, "site": s, "omega": w} for s, t in tracks.items() for i, w in enumerate(t)]
    )
    stays, goes = (line for line in plots.omegas(history, tau=0.5).lines if len(line.get_xdata()) == 3)
    assert list(stays.get_ydata()) == tracks["stays"] and stays.get_color() == plots.COLOURS[1]
    assert list(goes.get_ydata()) == tracks["goes"] and goes.get_color() == plots.COLOURS[0]


def test_sensitivity_keeps_the_order_and_says_what_it_thinned():
    frame = pd.DataFrame({"site": [f"s{i}" for i in range(50)], "kind": "skip", "delta_ssim": -np.arange(50) / 100})
    ax = plots.sensitivity(frame, quality="ssim", most=10)
    assert [text.get_text() for text in ax.get_yticklabels()][::9] == ["s0", "s49"]
    assert "10 of 50 sites" in ax.get_xlabel()
    assert [round(bar.get_width(), 2) for bar in ax.patches][-1] == -0.49
    with pytest.raises(ValueError, match="no column 'delta_psnr'"):
        plots.sensitivity(frame, quality="psnr")


def test_tradeoff_points_labels_and_front():
    frame = pd.DataFrame({"GMACs": [1.0, 2.0, 3.0, 2.5], "SSIM": [0.7, 0.8, 0.9, 0.75], "row": list("abcd")})
    ax = plots.tradeoff(frame, x="GMACs", y="SSIM", label="row")
    assert sorted(map(tuple, ax.collections[0].get_offsets())) == sorted(
        zip(frame["GMACs"], frame["SSIM"], strict=True)
    )
    assert list(ax.lines[0].get_xdata()) == [1.0, 2.0, 3.0]
    assert [text.get_text() for text in ax.texts] == list("abcd")
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("GMACs (lower is better)", "SSIM (higher is better)")


def test_tradeoff_over_seeds_is_their_mean_with_bars_and_a_zone_is_in_sight():
    frame = pd.DataFrame(
        {"ms": [1.0, 3.0, 5.0, 5.0], "SSIM": [0.7, 0.9, 0.6, 0.6], "row": list("aabb"), "seed": [0, 1] * 2}
    )
    ax = plots.tradeoff(frame, x="ms", y="SSIM", label="row", over="seed", zone={"ms": 0.5, "SSIM": 0.95})
    points = next(c for c in ax.collections if hasattr(c, "get_sizes"))
    assert [tuple(round(v, 6) for v in point) for point in points.get_offsets()] == [(2.0, 0.8), (5.0, 0.6)]
    (zone,) = (patch for patch in ax.patches if patch.get_hatch())
    (left, right), (low, high) = ax.get_xlim(), ax.get_ylim()
    assert left <= zone.get_x() and zone.get_x() + zone.get_width() == 0.5 <= right
    assert zone.get_y() == 0.95 and zone.get_y() + zone.get_height() <= high and low < 0.6
    log = plots.tradeoff(frame, x="ms", y="SSIM", label="row", zone={"ms": 0.01}, log=["ms"])
    assert log.get_xscale() == "log" and 0 < log.get_xlim()[0] < 0.01
    with pytest.raises(ValueError, match="zone must be of 'ms' or 'SSIM'"):
        plots.tradeoff(frame, x="ms", y="SSIM", label="row", zone={"FPS": 25})


def test_tradeoff_against_a_base_has_the_paired_interval_as_bars():
    frame = pd.DataFrame(
        {"row": list("aabbcc"), "seed": [0, 1] * 3, "ms": 1.0, "SSIM": [0.5, 0.9, 0.4, 0.82, 0.7, 0.7]}
    )
    ax = plots.tradeoff(frame, x="ms", y="SSIM", label="row", over="seed", base="a")
    bars = [path.vertices[:, 1] for path in ax.collections[1].get_paths()]
    low, high = interval([0.4, 0.82], [0.5, 0.9])[1:]
    assert bars[0].tolist() == [0.7, 0.7] and np.ptp(bars[1]) == pytest.approx(high - low)
    assert [line.get_ydata()[0] for line in ax.lines if line.get_linestyle() == ":"] == [pytest.approx(0.7)]
    for wrong, words in ({"base": "z"}, "there are a, b, c"), ({"base": "a", "over": None}, "needs over="):
        with pytest.raises(ValueError, match=words):
            plots.tradeoff(frame, x="ms", y="SSIM", label="row", **{"over": "seed"} | wrong)


def test_a_curve_over_seeds_is_their_mean_in_a_band():
    frame = pd.DataFrame({"step": [0, 0, 5, 5], "loss": [1.0, 3.0, 1.0, 1.0], "seed": [0, 1, 0, 1]})
    ax = plots.curve(frame, x="step", y="loss", over="seed")
    assert ax.lines[0].get_xydata().tolist() == [[0, 2], [5, 1]]
    band = ax.collections[0].get_paths()[0].vertices
    assert band[:, 1].max() == pytest.approx(2 + 2**0.5) and band[:, 1].min() == pytest.approx(2 - 2**0.5)


def test_points_of_one_value_have_room_on_a_logarithmic_axis():
    frame = pd.DataFrame({"FPS": [30.0, 30.0], "SSIM": [0.7, 0.8], "row": list("ab")})
    left, right = plots.tradeoff(frame, x="FPS", y="SSIM", label="row", log=["FPS"]).get_xlim()
    assert left < 30 < right


def test_labels_of_close_points_do_not_cover_each_other():
    frame = pd.DataFrame(
        {"x": [1.0, 1.02, 1.04, 5.0], "y": [1.0, 1.01, 1.0, 5.0], "row": ["one", "two", "three", "far"]}
    )
    ax = plots.tradeoff(frame, x="x", y="y", label="row")
    renderer = ax.figure.canvas.get_renderer()
    ax.figure.canvas.draw()
    boxes = [Text.get_window_extent(text, renderer) for text in ax.texts]  # without the lines that lead to them
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_labels_keep_off_the_line_of_the_best():
    frame = pd.DataFrame({"x": [4.06, 3.4, 0.75, 0.08], "y": [28.4, 28.36, 27.56, 25.0], "row": ["1 of 6 blocks"] * 4})
    ax = plots.tradeoff(frame, x="x", y="y", label="row")
    renderer = ax.figure.canvas.get_renderer()
    ax.figure.canvas.draw()
    line = ax.lines[0].get_path().transformed(ax.transData)
    for text in ax.texts:
        assert not line.intersects_bbox(Text.get_window_extent(text, renderer), filled=False)


def test_labels_keep_off_the_bars_of_intervals():
    frame = pd.DataFrame({"x": [1.0, 2.0, 4.0], "y": [1.0, 0.97, 0.9], "row": ["one network"] * 3})
    frame = frame.assign(low=frame["y"] - 0.3, high=frame["y"] + 0.3)
    ax = plots.tradeoff(frame, x="x", y="y", label="row", error=("low", "high"), better={"x": "higher"}, log=["x"])
    renderer = ax.figure.canvas.get_renderer()
    ax.figure.canvas.draw()
    bars = [path.transformed(ax.transData) for path in ax.collections[0].get_paths()]
    assert len(bars) == 3
    for text in ax.texts:
        box = Text.get_window_extent(text, renderer)
        assert not any(bar.intersects_bbox(box, filled=False) for bar in bars)
    assert {label.get_text() for label in ax.get_xticklabels(which="both")} >= {"1", "2", "5"}, "no powers of ten"


def test_save_writes_the_file_and_closes_the_figure(tmp_path):
    before = plt.get_fignums()
    ax = plots.curve(pd.DataFrame({"step": [0, 1], "loss": [1.0, 0.5]}), x="step", y="loss", name="net")
    plots.save(ax, tmp_path / "curve.png")
    assert (tmp_path / "curve.png").stat().st_size > 1000 and plt.get_fignums() == before


@pytest.mark.parametrize("ending", ["png", "pdf", "svg", "jpg", "jpeg", "PNG"])
def test_figures_in_each_format_are_the_same_each_time(tmp_path, ending):
    for name in ("one", "two"):
        ax = plots.curve(pd.DataFrame({"step": [0, 1], "loss": [1.0, 0.5]}), x="step", y="loss")
        plots.save(ax, tmp_path / "new" / f"{name}.{ending}")
    one, two = ((tmp_path / "new" / f"{name}.{ending}").read_bytes() for name in ("one", "two"))
    assert one == two and len(one) > 500


def test_an_unknown_ending_is_named_with_those_there_are(tmp_path):
    with pytest.raises(ValueError, match=r"path must end in one of .*\.png.*, got .*chart\.exe"):
        plots.save(plots.curve(pd.DataFrame({"a": [1], "b": [2]}), x="a", y="b"), tmp_path / "chart.exe")


HOSTILE = r"$x_$ and \frac{1}$"  # no mathematics that matplotlib could read


def test_names_are_not_read_as_mathematics(tmp_path):
    frame = pd.DataFrame(
        {HOSTILE: [1.0, 2.0], "y": [1.0, 2.0], "row": [HOSTILE, "$"], "group": [HOSTILE, "b\x1b"], "kind": "skip"}
    )
    drawn = [
        plots.tradeoff(frame, x=HOSTILE, y="y", label="row", group="group"),
        plots.breakdown(frame, value=HOSTILE, label="row"),
        plots.sensitivity(frame.rename(columns={"row": "site", "y": "delta_y"}), quality="y"),
        plots.curve(frame, x=HOSTILE, y="y", name=HOSTILE),
    ]
    for index, ax in enumerate(drawn):
        plots.save(ax, tmp_path / f"{index}.png")


def test_tradeoff_leaves_out_what_has_no_number_and_draws_logarithms_of_positive_numbers():
    frame = pd.DataFrame({"ms": [1.0, None, 0.0], "SSIM": [0.7, 0.8, 0.9], "row": list("abc")})
    assert [text.get_text() for text in plots.tradeoff(frame, x="ms", y="SSIM", label="row").texts] == ["a", "c"]
    with pytest.raises(ValueError, match=r"column 'ms' must be above 0 for a logarithmic axis, got 0\.0"):
        plots.tradeoff(frame, x="ms", y="SSIM", label="row", log=["ms"])


def points_of(ax):
    return [tuple(point) for drawn in ax.collections if drawn.get_label() != "_nolegend_"
            for point in getattr(drawn, "get_offsets", list)().tolist()]  # fmt: skip


@pytest.mark.parametrize("over", [None, "seed"])
def test_rows_without_a_group_are_drawn_as_one(over):
    of = {"net": ["a", "a", "original", "control"], "method": ["learned", "learned", None, None], "seed": [0, 1, 0, 0]}
    frame = pd.DataFrame({**of, "macs": [5.0, 5.0, 10.0, 20.0], "PSNR": [28.0, 29.0, 30.0, 40.0]})
    ax = plots.tradeoff(frame, x="macs", y="PSNR", label="net", group="method", over=over)
    a = [(5.0, 28.0), (5.0, 29.0)] if over is None else [(5.0, 28.5)]
    assert points_of(ax) == [*a, (10.0, 30.0), (20.0, 40.0)]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["learned", "–"]


def test_labels_may_be_the_groups_and_what_is_infinite_is_left_out():
    frame = pd.DataFrame({"net": ["a", "a", "b"], "seed": [0, 1, 0], "macs": [5, 5, 9], "PSNR": [28.0, 29.0, np.inf]})
    ax = plots.tradeoff(frame, x="macs", y="PSNR", label="net", group="net", over="seed")
    assert points_of(ax) == [(5.0, 28.5)]
    with pytest.raises(ValueError, match="rows to draw with finite numbers in 'macs' and 'PSNR', got none"):
        plots.tradeoff(frame[2:], x="macs", y="PSNR", label="net")
