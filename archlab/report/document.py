"""One writer of report.md for all studies: rows and parts in, a document out, with its tables and notes beside it.

It sees DataFrames, text and files only, never a model.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd

from ..arguments import text
from ..files import write_whole
from ..names import printable
from .tables import Table, check_columns

NOTES = "notes.md"  # written by hand: a reading of this very run
NAMED = 12  # rows of older code are named up to so many


@dataclass(frozen=True)
class Picture:
    """A picture beside the document: its `file` name there, and what it `shows`."""

    file: str
    shows: str


@dataclass(frozen=True)
class Pair:
    """Two pictures of one size, side by side; on a study's page one lies over the other, under a slider."""

    one: Picture
    other: Picture


Part = str | Table | Picture | Pair | Sequence[str]  # a paragraph or heading; a table; a picture; two; a list


def write_report(
    rows: pd.DataFrame,
    folder: str | Path,
    title: str,
    *parts: Part,
    command: str,
    about: str = "",
    tables: Mapping[str, Table] | None = None,
) -> None:
    """Write ``report.md`` into `folder`: how its rows were made, then the parts, then what was noted in notes.md.

    Args:
        rows: what a study's `report` is given; `rows.attrs["conditions"]` says how they were made, its column "stale"
            which of them are of older code.
        folder: where the report stands, and its pictures already.
        title: the first line.
        parts: in Markdown a paragraph or a heading (an empty one is left out); a `Table`; a `Picture`, or a `Pair` of
            them; or a sequence of strings, which becomes a list.
        command: what made the rows, as ``python -m studies.bench``, without its options.
        about: more sentences on how, after the conditions.
        tables: tables to be written as files too, as ``<name>.md`` and ``<name>.tex``.

    Raises:
        FileNotFoundError: a picture is not in `folder`.

    >>> rows = pd.DataFrame({"row": ["a"], "SSIM": [0.9]})
    >>> rows.attrs["conditions"] = {"preset": "cpu", "data": "default", "seeds": 1, "wall_s": 90.0, "device": "CPU",
    ...                             "torch": "2.14", "commit": "abc"}
    >>> write_report(rows, ".", "Figure 1", "What was found:", ["one thing", "another"], command="python -m figure")
    >>> print(Path("report.md").read_text(encoding="utf-8"))
    # Figure 1
    <BLANKLINE>
    `python -m figure --preset cpu`, data default, 1 seed(s), 2 minutes on CPU, torch 2.14, commit abc.
    <BLANKLINE>
    What was found:
    <BLANKLINE>
    - one thing
    - another
    <BLANKLINE>
    """
    check_columns(rows, ())
    if "conditions" not in rows.attrs:
        raise ValueError(
            "rows must have attrs['conditions'], as al.run gives them; DataFrame.attrs gets lost in some operations"
        )
    text("title", title)
    text("command", command)
    folder = Path(folder)
    for picture in (picture for part in parts for picture in _pictures(part)):
        if not (folder / picture.file).is_file():
            raise FileNotFoundError(
                f"{folder / picture.file}: no such picture; save it before the report that shows it"
            )
    for name, table in (tables or {}).items():
        table.save(folder, name)
    how = " ".join(filter(None, [conditions_line(rows, command), about]))
    content = "\n\n".join([f"# {printable(title)}", how, *filter(None, map(_markdown, parts))]) + "\n"
    if (folder / NOTES).is_file():
        content += "\n" + (folder / NOTES).read_text(encoding="utf-8")
    write_whole(folder / "report.md", content.encode())


def conditions_line(rows: pd.DataFrame, command: str) -> str:
    """How `rows` were made: the command, the data, how long it took and on what; which are missing or stale."""
    made: Mapping[str, Any] = rows.attrs["conditions"]
    minutes = made["wall_s"] / 60
    took = f"{minutes:.0f} minute{'s' if round(minutes) > 1 else ''} on "
    device = f"{took if minutes >= 0.5 else ''}{made['device']}"
    given = f", weights {made['weights']}" if made.get("weights") else ""
    told = f"`{command} --preset {made['preset']}`, data {made['data']}{given}, {made['seeds']} seed(s), {device}, "
    told += f"torch {made['torch']}, commit {made['commit']}."
    if missing := rows.attrs.get("missing"):
        some = ", ".join(missing) if len(missing) <= NAMED else f"{', '.join(list(missing)[:NAMED])}, …"
        told += f" **Part of the rows**: {len(missing)} of {len(missing) + len(rows)} cells are missing ({some})."
    stale = list(dict.fromkeys(rows.loc[rows["stale"].astype(bool), "row"])) if "stale" in rows else []
    if not stale:
        return told
    every, named = rows["row"].nunique(), ", ".join(stale)
    if len(stale) > NAMED:
        named = "all rows" if len(stale) == every else f"{len(stale)} of {every} rows (stale in rows.csv)"
    return f"{told} Of code that has changed since: {named}."


def _pictures(part: Part) -> list[Picture]:
    if isinstance(part, Pair):
        return [part.one, part.other]
    return [part] if isinstance(part, Picture) else []


def _markdown(part: Part) -> str:
    if isinstance(part, Picture | Pair):
        return " ".join(map(_shown, _pictures(part)))
    if isinstance(part, Table):
        return part.markdown()
    return part if isinstance(part, str) else "\n".join(f"- {line}" for line in part)


def _shown(picture: Picture) -> str:
    shows = picture.shows.replace("[", r"\[").replace("]", r"\]").replace("\n", " ")
    return f"![{shows}]({quote(picture.file)})"
