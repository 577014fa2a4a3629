"""Files that are whole or not there at all.

torch and safetensors write into the final name; a kill in between leaves half a file there. So everything archlab keeps
goes through `whole_file` or `write_whole`.
"""

import contextlib
import errno
import os
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

ABANDONED_S = 900.0  # without growing, where files have no locks, until a half-written one is taken for abandoned


@contextlib.contextmanager
def whole_file(path: str | Path, *, synced: bool = True) -> Iterator[BinaryIO]:
    """A file to write to, which becomes `path` when the block ends; `path` keeps its former content if it raises.

    Several may write the same `path` at once: the last one stands, whole. Where it is `synced`, also after a power cut;
    else one may take it back, or leave it empty.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        temporary, file = _begun(path)
    except OSError as error:
        error.filename = str(path)  # the name that is known
        raise
    try:
        with file:
            yield file
            file.flush()
            if synced:
                os.fsync(file.fileno())
            if fcntl is None:  # Windows renames no open file; elsewhere it stays locked until it has its name
                file.close()
            os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno and error.filename is None:  # a full disk names none
            error.filename = str(path)
        raise
    if synced and os.name == "posix":
        with contextlib.suppress(OSError):  # a folder that cannot be read, or a file system that cannot do it
            _sync(path.parent)


def write_whole(path: str | Path, content: bytes, *, synced: bool = True) -> None:
    """Write `content` so that `path` holds either its former content or all of the new one, after any crash.

    Without being `synced`, after any but a power cut: for what may be lost, many times a second.
    """
    with whole_file(path, synced=synced) as file:
        file.write(content)


def sweep_abandoned(path: str | Path) -> None:
    """Delete what killed writers of `path` left half-written; those that write now are left alone."""
    path = Path(path)
    for part in path.parent.glob(f".{path.name}.*.part"):
        with contextlib.suppress(OSError), open(part, "rb") as file:
            if _lock(file) or time.time() - part.stat().st_mtime > ABANDONED_S:
                part.unlink()


def _begun(path: Path) -> tuple[Path, BinaryIO]:
    """A new file beside `path`, locked for as long as its writer lives."""
    while True:
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
        file = open(temporary, "xb")
        with contextlib.suppress(BlockingIOError):
            _lock(file)
            if os.fstat(file.fileno()).st_nlink:
                return temporary, file
        file.close()  # swept before it was locked
        temporary.unlink(missing_ok=True)


def _lock(file: BinaryIO) -> bool:
    """Lock a file; False where files have no locks. Raises BlockingIOError where another has it."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            raise BlockingIOError(*error.args) from None
        return False
    return True


def _sync(folder: Path) -> None:
    """Bring a rename in `folder` to the disk."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
