"""The README gives what it shows, and stays short."""

from pathlib import Path

from . import documents

README = documents.ROOT / "README.md"
WORDS = 600


def test_the_readme_gives_what_it_shows(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    documents.run(README, tmp_path)
    assert documents.pictures(README), "the README shows a figure"


def test_the_readme_is_short():
    assert len(README.read_text(encoding="utf-8").split()) <= WORDS


def test_the_commands_of_the_readme_are_those_of_ci():
    """They take too long to be run here; what .ci/run does instead is the same."""
    ci = Path(documents.ROOT, ".ci", "run").read_text(encoding="utf-8").replace(" --quiet", "")
    commands = [
        part for block in documents.blocks(README) if block.language == "bash" for part in block.text.split("\n")
    ]
    commands = [part for line in commands if not line.startswith("#") for part in line.split(" && ") if part]
    assert len(commands) == 4
    for command in commands:
        assert command.removeprefix("pip install -e .") in ci, command
