"""Short hashes, and what the data are that a result was made from."""

import hashlib
import json
from pathlib import Path
from typing import Any


def digest(value: Any) -> str:
    """A short hash of anything JSON can write, the same in every process."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def data_fingerprint(folder: str | Path | None) -> str:
    """The hash of names and sizes of all files below `folder`: cheap for a hundred thousand images.

    Raises:
        ValueError: there is no such folder.
    """
    if folder is None:
        return "none"
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such data folder")
    return digest(
        [(p.relative_to(folder).as_posix(), p.stat().st_size) for p in sorted(folder.rglob("*")) if p.is_file()]
    )
