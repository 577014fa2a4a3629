"""What a study left in its folder, read with mistrust: report.md, notes.md, rows.csv and the cells' values."""

import ast
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ...arguments import folder as check_folder
from ...markup import frame_of_csv
from ..document import NOTES
from .body import Block, blocks_of

REPORT, ROWS, CELLS = "report.md", "rows.csv", "cells"
SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z*`])")
LONGEST = 400  # characters of a headline


@dataclass(frozen=True)
class Report:
    """A study's report.

    Attributes:
        folder: Where it stands.
        title: Its first heading.
        question: The first sentence of the study's own docstring; empty where its file is not found.
        headline: What was found, in a sentence: the first quotation (``> …``) of notes.md or report.md; else its first
            sentence.
        command: What made it; empty where it says none.
        conditions: The paragraph with the command.
        body: All else, in order, without title, conditions and quoted headline.
        rows: Of rows.csv; None where there is none.
        cells: What each row's newest result holds, of its lowest seed.
    """

    folder: Path
    title: str
    question: str
    headline: str
    command: str
    conditions: Block | None
    body: Sequence[Block]
    rows: pd.DataFrame | None
    cells: Mapping[str, Mapping[str, Any]]

    @property
    def picture(self) -> tuple[Path, str] | None:
        """The first picture that is there, and what it shows."""
        for block in self.body:
            for file, shows in block.pictures:
                if (path := self.file(file)) is not None:
                    return path, shows
        return None

    def file(self, name: str) -> Path | None:
        """A file of the folder by its name in the report; None for what is not in there."""
        path = (self.folder / name).resolve()
        return path if path.is_file() and path.is_relative_to(self.folder.resolve()) else None


def read_report(folder: str | Path) -> Report:
    """Read the report in `folder`.

    Args:
        folder: With report.md, as `write_report` writes it or any other; rows.csv and cells may lie beside it.

    Raises:
        FileNotFoundError: there is no report.md.
        ValueError: report.md is no text.
    """
    check_folder("folder", folder)
    folder = Path(folder)
    if not (folder / REPORT).is_file():
        raise FileNotFoundError(f"{folder / REPORT}: no such file; a study writes it when all its cells are finished")
    blocks = blocks_of(_words(folder / REPORT))
    title = next((block for block in blocks if block.kind == "heading"), None)
    conditions = next((block for block in blocks if _command(block)), None)
    notes = blocks_of(_words(folder / NOTES)) if (folder / NOTES).is_file() else []
    quoted = [block.text for block in (*notes, *blocks) if block.kind == "quote"]
    body = [b for b in blocks if b is not title and b is not conditions and not (quoted and b.text == quoted[0])]
    command = "" if conditions is None else _command(conditions)
    return Report(
        folder, folder.name if title is None else title.text, _question(command, folder),
        quoted[0] if quoted else _first_sentence(body), command, conditions, body, _rows(folder / ROWS),
        _cells(folder / CELLS),
    )  # fmt: skip


def reports_in(folder: str | Path) -> list[Path]:
    """The folders of reports at `folder` or one or two below it, as `reports/<study>/<preset>` is; "fig2" is before
    "fig10"."""
    check_folder("folder", folder)
    found = [path.parent for glob in (REPORT, f"*/{REPORT}", f"*/*/{REPORT}") for path in Path(folder).glob(glob)]
    return sorted(found, key=_by_numbers)


def _by_numbers(path: Path) -> list[str | int]:
    """What a path is sorted by: runs of digits, which stand between all else, as numbers."""
    return [int(part) if place % 2 else part for place, part in enumerate(re.split(r"(\d+)", str(path)))]


def _words(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} must be text in UTF-8: {error}") from error


def _command(block: Block) -> str:
    """The command that a paragraph begins with, if it does."""
    begins = block.kind == "paragraph" and block.code and block.text.startswith(block.code[0])
    return block.code[0] if begins and block.code[0].startswith("python -m ") else ""


def _question(command: str, folder: Path) -> str:
    """The first sentence of the docstring of the module that a command runs; the module is not run for it."""
    words = command.split()
    if len(words) < 3 or not re.fullmatch(r"\w+(\.\w+)*", words[2]):
        return ""
    module = Path(*words[2].split("."))
    for root in (Path.cwd(), *folder.resolve().parents):
        for path in (root / module.with_suffix(".py"), root / module / "study.py", root / module / "__init__.py"):
            try:
                told = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
            except (OSError, ValueError, SyntaxError):
                continue
            if told:
                return " ".join(SENTENCE.split(told.split("\n\n")[0])[0].split())
    return ""


def _first_sentence(body: Sequence[Block]) -> str:
    for block in body:
        if block.kind in ("paragraph", "list") and block.text:
            sentence = SENTENCE.split(block.text)[0]
            return sentence if len(sentence) <= LONGEST else f"{sentence[:LONGEST]} …"
    return ""


def _rows(path: Path) -> pd.DataFrame | None:
    try:
        return frame_of_csv(path)
    except (OSError, ValueError):
        return None


def _cells(folder: Path) -> dict[str, Mapping[str, Any]]:
    newest: dict[str, tuple[int, str, Mapping[str, Any]]] = {}
    for path in sorted(folder.glob("*.json")):
        try:
            cell = json.loads(path.read_text(encoding="utf-8"))
            row, seed, ended, values = cell["row"], int(cell["seed"]), str(cell["ended"]), cell["values"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            continue
        known = newest.get(str(row))
        if isinstance(values, dict) and (known is None or (-seed, ended) > (-known[0], known[1])):
            newest[str(row)] = seed, ended, values
    return {row: values for row, (_, _, values) in newest.items()}
