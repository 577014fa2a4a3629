"""The guides give what they show; what the guides and READMEs name is there."""

import ast
import importlib.util
import re
from pathlib import Path

import pytest

from . import documents
from .documents import ROOT
from .test_layout import ROOMS

GUIDES = sorted((ROOT / "studies" / "guides").glob("*.md"))
DOCUMENTS = [ROOT / "README.md", ROOT / "archlab" / "README.md", ROOT / "studies" / "README.md", *GUIDES]


def name_of(document: Path) -> str:
    return document.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("guide", GUIDES, ids=lambda guide: guide.stem)
def test_a_guide_gives_what_it_shows(guide, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    documents.run(guide, tmp_path)


def test_there_are_guides():
    assert {guide.stem for guide in GUIDES} == {
        "cluster",
        "own_loop",
        "own_network",
        "reshape",
        "search",
        "speed",
        "studies",
        "video",
    }


def test_the_guide_to_a_network_of_ones_own_shows_the_network_of_the_readme():
    guide, source = ROOT / "studies/guides/own_network.md", ROOT / "studies/guides/denoiser.py"
    assert source.read_text(encoding="utf-8") in [block.text for block in documents.blocks(guide)]


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_what_a_document_names_is_there(document):
    assert not documents.missing_paths(document)
    assert not documents.unknown_names(document)
    modules = documents.modules_run(document) - {"widths", "pytest"}  # the guide to studies writes the former
    assert all(importlib.util.find_spec(module) for module in modules), modules


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_a_document_shows_its_pictures(document):
    assert all((document.parent / shown).is_file() for shown in documents.PICTURE.findall(documents.prose(document)))


def test_the_readme_of_archlab_has_every_room_with_what_it_may_import():
    rooms = {}
    for name, imports in re.findall(
        r"^\| `(\w+)/` \|.*\| ([\w, ]+) \|$", DOCUMENTS[1].read_text("utf-8"), re.MULTILINE
    ):
        rooms[name] = set() if imports == "nothing" else set(imports.split(", "))
    folders = {path.name for path in (ROOT / "archlab").iterdir() if (path / "__init__.py").exists()}
    assert rooms.keys() == folders
    assert rooms.pop("cli") == {"all but rewrite"}
    assert rooms == {name: ROOMS[name] for name in rooms}
    assert not ROOMS["cli"] & {"rewrite"} and folders - {"cli", "rewrite"} <= ROOMS["cli"]


def test_where_to_change_something_names_what_is_in_the_files():
    """In each row of the last table, names in backticks without a slash are defined in one of the row's files."""
    rows = [row for row in DOCUMENTS[1].read_text("utf-8").partition("## Where would")[2].splitlines() if "`" in row]
    assert len(rows) >= 11
    for row in rows:
        named = re.findall(r"`([^`]+)`", row.split("|")[2])
        files = [name for name in named if name.endswith(".py")]
        assert files or "figures/" in row, row
        defined = set()
        for file in files:
            path = ROOT / file if (ROOT / file).exists() else ROOT / "archlab" / file
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                defined |= {node.name} if isinstance(node, ast.FunctionDef | ast.ClassDef) else set()
                defined |= {node.id} if isinstance(node, ast.Name) else set()
        missing = {name for name in named if "/" not in name and not name.endswith(".py")} - defined
        assert not missing, f"{missing} of {row}"


# --- the machinery itself ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("```python\n>>> 1 + 1\n3\n```\n", "see the output"),
        ("```python\n>>> 1.52\n1.3\n```\n", "see the output"),
        ("```python\nraise ValueError('no')\n```\n", "no"),
        ("```bash\nfalse\n```\n", "exit status 1"),
        ("```bash\narchlab sites nowhere:Net --input 3\n```\n", "exit status 2\narchlab: "),
        ("```bash\narchlab --version\ncat nothing\n```\n", "exit status 1\ncat: nothing"),
        ("```bash\necho one\n```\n\n```text\ntwo\n```\n", "shows"),
        ("```python\n>>> 1\n1\n```\n\n![a picture](nothing.png)\n", "none of its blocks draws"),
        ("```\nno language\n```\n", "fences"),
    ],
)
def test_a_document_that_is_wrong_is_seen(text, error, tmp_path):
    document = tmp_path / "document.md"
    document.write_text(text)
    with pytest.raises((AssertionError, ValueError), match=error):
        documents.run(document, tmp_path)


def test_a_document_that_is_right_passes(tmp_path):
    document = tmp_path / "document.md"
    document.write_text(
        "```python\n# file: own.py\nONE = 1\n```\n\n```bash\npython -c 'import own; print(own.ONE, 7.5)'\n```\n\n"
        "```text\n1 3.1\n```\n\n```python\nx = 28.02\n```\n\n```python\n>>> x\n28.13\n```\n\n"
        "```text\nof no command\n```\n\n"
        "```bash\n# takes an hour\nfalse\n```\n"
    )
    documents.run(document, tmp_path)


def test_what_is_not_there_is_named(tmp_path):
    document = tmp_path / "document.md"
    document.write_text(
        "`archlab/nothing.py`, `al.nothing`, `archlab.training.fit`, [a link](nowhere.md), `README.md`\n"
    )
    assert documents.missing_paths(document) == ["nowhere.md", "archlab/nothing.py"]
    assert documents.unknown_names(document) == ["al.nothing"]
