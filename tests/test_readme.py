"""The README's Python lines give what they show."""

import doctest
from pathlib import Path

README = Path(__file__).resolve().parents[1] / "README.md"


def test_the_readme_gives_what_it_shows(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # it saves a file
    text = README.read_text(encoding="utf-8").replace("\n```\n", "\n\n")  # a fence is no output
    examples = doctest.DocTestParser().get_doctest(text, {}, "README.md", str(README), 0)
    results = doctest.DocTestRunner().run(examples)
    assert results.failed == 0 and results.attempted >= 8
