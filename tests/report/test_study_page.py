"""The page of a study's report: whole without JavaScript, alone, small, and nothing in it that was not meant."""

import json
import shutil
import subprocess

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from archlab.markup import csv_of
from archlab.report import Pair, Picture, table, write_report
from archlab.report.page import write_page
from archlab.report.study.body import blocks_of
from archlab.report.study.page import write_index, write_readme, write_study
from archlab.report.study.report import read_report, reports_in
from archlab.report.study.script import SCRIPT

from .pages import StudyPage, read

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(1)>\"'& [x](javascript:alert(1))"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


def rows(names):
    frame = pd.DataFrame({"row": names, "MACs [M]": [4.06, 1.04, 0.27], "PSNR [dB]": [22.3, 18.8, 17.3], "seed": 0})
    frame.attrs["conditions"] = {
        "preset": "smoke", "data": "default", "seeds": 1, "wall_s": 9.0, "device": "CPU", "torch": "2", "commit": "abc",
    }  # fmt: skip
    return frame


def study(folder, *, names=("wide", "middle", "thin"), notes="", title="Widths"):
    """A report as a user's own study leaves it: words, a table, pictures, rows, a cell that learned ω."""
    folder.mkdir(parents=True)
    frame = rows(list(names))
    for name, value in (("one.png", 40), ("other.png", 200)):
        Image.fromarray(np.full((20, 30, 3), value, dtype=np.uint8)).save(folder / name)
    if notes:
        (folder / "notes.md").write_text(notes)
    shown = table(frame.drop(columns="seed"))
    write_report(
        frame, folder, title, f"Half of it is enough, says {names[0]}. And more.", shown,
        Pair(Picture("one.png", "dark"), Picture("other.png", "bright")), "## Reading", ["a", "b"],
        command="python -m widths", tables={"table": shown},
    )  # fmt: skip
    (folder / "rows.csv").write_text(csv_of(frame))
    (folder / "cells").mkdir()
    omegas = {"step": [0, 1] * 2, "site": [f"body.{names[0]}"] * 2 + ["tail"] * 2, "omega": [0.0, 0.9, 0.0, 0.1]}
    cell = {"row": names[0], "seed": 0, "ended": "2026", "values": {"omegas": omegas, "tau": 0.5}}
    (folder / "cells" / "a.json").write_text(json.dumps(cell))
    return folder


def test_a_study_of_ones_own_has_all_parts_on_its_page(tmp_path):
    folder = study(tmp_path / "widths" / "smoke", notes="## Notes\n\n> A quarter is too little.\n")
    page = read(write_study(folder), StudyPage)
    order = ["Widths", "A quarter is too little.", "Half of it is enough", "PSNR [dB] against MACs [M]", "dark"]
    order += ["Reading", "What was removed where", "1 of 2", "How each ω moved", "Every row", "python -m widths"]
    at = [page.text.index(part) for part in order]
    assert at == sorted(at)
    assert page.titles.count("middle: MACs [M] 1.04, PSNR [dB] 18.8") == 2, "of the point and of its line"
    assert "tail: stays, ω = 0.1" in page.titles and page.tags["img"] == 2 and page.tags["script"] == 1
    assert {"report.md", "rows.csv", "table.md", "table.tex", "notes.md"} == set(page.links)
    assert page.text.count("A quarter is too little.") == 1


def test_the_switches_of_a_cell_are_shown_in_whichever_form_it_keeps_them(tmp_path):
    steps, values = [0, 1], {"body": [0.0, 0.9], "tail": [0.0, 0.1]}
    forms = [{"omegas": values, "omega_steps": steps},
             {"omegas": {"step": steps, "phase": ["soft", "push"], "omega": values}}]  # fmt: skip
    for form in forms:
        folder = study(tmp_path / str(len(form)) / "smoke")
        cell = json.loads((folder / "cells" / "a.json").read_text())
        (folder / "cells" / "a.json").write_text(json.dumps({**cell, "values": {**form, "tau": 0.5}}))
        assert "tail: stays, ω = 0.1" in read(write_study(folder), StudyPage).titles


def test_a_report_of_words_alone_has_a_page(tmp_path):
    (tmp_path / "report.md").write_text("No heading at all, and a [link](https://elsewhere.org/x) to `code`.")
    page = read(write_study(tmp_path), StudyPage)
    assert "a link to code" in page.text and page.links == ["report.md"] and "img" not in page.tags


def test_names_that_would_run_are_text(tmp_path):
    folder = study(tmp_path / "hostile", names=(HOSTILE, "b\x1b[2J", "=c|"), title=HOSTILE)
    found = read_report(folder).rows
    assert found is not None and found["row"].tolist() == [HOSTILE, "b\x1b[2J", "=c|"]
    page = read(write_study(folder), StudyPage)
    assert page.tags["script"] == 1 and page.tags["img"] == 2 and page.tags["h1"] == 1
    assert page.text.count("alert(1)") > 5 and any("alert(1)" in told for told in page.titles)
    index = read(write_index(tmp_path, reports_in(tmp_path)), StudyPage)
    assert index.tags["script"] == 1 and "alert(1)" in index.text
    readme = blocks_of(write_readme(tmp_path, reports_in(tmp_path)).read_text())
    assert HOSTILE in readme[3].text and not any("<script" in block.html for block in readme)


@pytest.mark.parametrize("picture", ["../secret.png", "/etc/hostname.png", "missing.png", "table.md", "bad.png"])
def test_only_pictures_of_the_folder_are_shown(tmp_path, picture):
    folder = study(tmp_path / "widths")
    Image.new("RGB", (4, 4)).save(tmp_path / "secret.png")
    (folder / "bad.png").write_bytes(b"no picture")
    with open(folder / "report.md", "a") as report:
        report.write(f"\n\n![what it shows]({picture})\n")
    page = read(write_study(folder), StudyPage)
    assert page.tags["img"] == 2 and "picture" in page.text


def test_a_page_stays_small_whatever_the_pictures(tmp_path):
    folder = study(tmp_path / "widths")
    noise = np.random.default_rng(0).integers(0, 255, (700, 900, 3), dtype=np.uint8)
    for name in ("one.png", "other.png"):
        Image.fromarray(noise).save(folder / name)
    assert (folder / "one.png").stat().st_size > 1_500_000
    path = write_study(folder)
    assert read(path, StudyPage).tags["img"] == 2 and path.stat().st_size < 500_000


def test_worthless_files_beside_the_report_harm_nothing(tmp_path):
    folder = study(tmp_path / "widths")
    (folder / "rows.csv").write_bytes(b"\xff\xfe,\n")
    about = {"row": "x", "seed": 0, "ended": ""}
    odd = [{"omegas": {"a": 3}, "omega_steps": 1, "decisions": [{}], "tau": []}]
    odd += [{"omegas": {"a": "bc"}, "omega_steps": [1, 2]}, {"omegas": {"step": [1], "site": [], "omega": None}}, [1]]
    texts = ["[1]", "{", '{"row": 1}', "[" * 10**5, *(json.dumps(about | {"values": values}) for values in odd)]
    for number, text in enumerate(texts):
        (folder / "cells" / f"b{number}.json").write_text(text)
    assert "1 of 2" in read(write_study(folder), StudyPage).text


def test_what_is_no_report_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"report\.md: no such file; a study writes it"):
        write_study(tmp_path)
    (tmp_path / "report.md").write_bytes(b"\xff\xff")
    with pytest.raises(ValueError, match="must be text in UTF-8"):
        write_study(tmp_path)
    with pytest.raises(ValueError, match=r"x='GMACs' is the heading of no table .*: row, MACs"):
        write_study(study(tmp_path / "widths"), x="GMACs")
    chosen = write_study(tmp_path / "widths", x="PSNR [dB]", y="MACs [M]")
    assert "MACs [M] against PSNR [dB]" in read(chosen, StudyPage).text


def test_the_readme_has_headlines_and_pictures_and_is_nobody_s_own(tmp_path):
    study(tmp_path / "widths" / "cpu", notes="> So it is.\n")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "report.md").write_text("# Other\n\nFound. Not said.\n")
    found = reports_in(tmp_path)
    assert [folder.name for folder in found] == ["other", "cpu"]
    for _ in range(2):
        text = write_readme(tmp_path, found).read_text()
    assert "## [Widths](widths/cpu/report.md)\n\nSo it is.\n\n![dark](widths/cpu/one.png)" in text
    assert text.index("Found.") < text.index("So it is.") and "Not said" not in text
    (tmp_path / "README.md").write_text("# My own\n")
    with pytest.raises(FileExistsError, match="was not written by this command"):
        write_readme(tmp_path, found)


def test_the_question_is_the_first_sentence_of_the_study_s_own_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "widths.py").write_text('"""How narrow may it\nbe? More.\n\nAnd more."""\nraise RuntimeError("ran")\n')
    assert read_report(study(tmp_path / "reports")).question == "How narrow may it be?"


DRIVER = """
const said = [], table = document.querySelector('table'), headings = table.tHead.rows[0].cells;
const names = () => Array.from(table.tBodies[0].rows, row => row.cells[0].textContent).join();
for (const column of [2, 2, 0]) { headings[column].querySelector('button').click(); said.push(names()); }
said.push(headings[0].getAttribute('aria-sort'), String(headings[2].getAttribute('aria-sort')));
const at = {bubbles: true, clientX: 380, clientY: 5};
document.querySelector('svg circle').dispatchEvent(new PointerEvent('pointermove', at));
const told = document.querySelector('.told'), box = told.getBoundingClientRect();
said.push(told.textContent, String(!told.hidden && box.left >= 0 && box.right <= window.innerWidth && box.top >= 0));
document.querySelector('.site').dispatchEvent(new PointerEvent('pointerdown', at));
said.push(told.textContent);
document.body.dispatchEvent(new PointerEvent('pointermove', at));
said.push(String(told.hidden));
const slider = document.querySelector('.compared input');
slider.value = 80;
slider.dispatchEvent(new Event('input'));
const [under, over] = document.querySelectorAll('.compared img');
said.push(over.style.clipPath, String(under.getBoundingClientRect().top === over.getBoundingClientRect().top));
said.push(String(document.documentElement.scrollWidth <= window.innerWidth));
document.body.append(Object.assign(document.createElement('pre'), {id: 'said', textContent: JSON.stringify(said)}));
"""


def test_in_a_browser_tables_sort_points_tell_names_and_pictures_are_compared(tmp_path):
    """In a real one, with the page's own policy, which must allow its script by its hash."""
    browser = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if browser is None:
        pytest.skip(f"no browser is installed, none of {', '.join(BROWSERS)}")
    html = write_study(study(tmp_path / "widths")).read_text(encoding="utf-8")
    driven = write_page(tmp_path / "driver", "d", "d", [], tables={}, script=DRIVER).read_text(encoding="utf-8")
    allowed = driven.split("script-src ")[1].split('"')[0]
    html = html.replace("script-src ", f"script-src {allowed} ").replace("</body>", f"<script>{DRIVER}</script></body>")
    (tmp_path / "page.html").write_text(html, encoding="utf-8")
    words = ["--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}",
             "--window-size=500,900", "--virtual-time-budget=2000", "--dump-dom"]  # fmt: skip
    done = subprocess.run([browser, *words, f"file://{tmp_path / 'page.html'}"], capture_output=True, timeout=120)
    dom = done.stdout.decode()
    assert 'id="said"' in dom, done.stderr.decode()[-2000:]
    said = json.loads(dom.split('id="said">')[1].split("</pre>")[0].replace("&lt;", "<").replace("&amp;", "&"))
    assert said[:3] == ["thin,middle,wide", "wide,middle,thin", "middle,thin,wide"], "by number, back, by name"
    assert said[3:5] == ["ascending", "null"]
    assert said[5:7] == ["wide: MACs [M] 4.06, PSNR [dB] 22.3", "true"], "its name, within the window"
    assert said[7:9] == ["body.wide: removed", "true"], "to a finger, and gone elsewhere"
    assert said[9:] == ["inset(0px 0px 0px 80%)", "true", "true"], (
        "one over the other, and nothing wider than the window"
    )
    assert SCRIPT in html
