"""Short hashes, and what the data are that a result was made from."""

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def digest(value: Any) -> str:
    """A short hash of anything JSON can write, the same in every process."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def data_fingerprint(folder: str | Path | None) -> str:
    """The hash of names and sizes of all files below `folder`: cheap for a hundred thousand images.

    Links are followed, each folder is looked into once: of one that is met again, the name counts that it had first.

    Raises:
        ValueError: there is no such folder, or one below it cannot be looked into.
    """
    if folder is None:
        return "none"
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such data folder")
    try:
        found = sorted(_below(folder), key=lambda pair: pair[0])
    except OSError as error:
        raise ValueError(f"{error.filename}: the data there cannot be looked up ({error.strerror})") from error
    return digest([(name.as_posix(), what) for name, what in found])


def _below(folder: Path) -> Iterator[tuple[Path, int | str]]:
    """The files below `folder` with their sizes, and the folders that were met before with the name they had then."""
    met = {_place(folder): "."}
    open_ = [folder]
    while open_:
        for entry in sorted(open_.pop().iterdir()):
            name = entry.relative_to(folder)
            if entry.is_file():
                yield name, entry.stat().st_size
            elif entry.is_dir():
                first = met.setdefault(_place(entry), name.as_posix())
                if first == name.as_posix():
                    open_.append(entry)
                else:
                    yield name, first


def _place(folder: Path) -> tuple[int, int] | str:
    """What tells one folder from another, whatever links lead to it."""
    there = folder.stat()
    return (there.st_dev, there.st_ino) if there.st_ino else os.path.realpath(folder)
