"""Runs what stands in a document: its Python, its commands, and the pictures it shows, which they must draw.

``python -m tests.documents README.md`` runs one and puts the pictures where the document shows them.

- A ```python block with ``>>>`` is a doctest, one without is run. All blocks of a document share their names. One whose
  first line is ``# file: NAME`` is that file.
- A ```bash block is run in the document's folder as bash would, unless its first line says ``# takes …``: how long.
- A ```text block behind it is what it prints, where ``...`` stands for anything and numbers may be others (times are).

Trainings end elsewhere on another processor, if only a little: a number with a decimal point may differ from the one
that is shown by 5 % or by 2 in its last digit. Whole numbers, such as how many sites were removed, must be the same.
Where milliseconds are shown, any number will do.
"""

import contextlib
import doctest
import importlib
import io
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"^```(python|bash|text)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
PICTURE = re.compile(r"!\[[^\]]+\]\(([^)]+\.png)\)")
FILE = re.compile(r"# file: (\S+)\n")
TOO_LONG = "# takes "
# Folders that a run writes, and those of a user's data.
OF_OTHERS = ("scratch/", "run/", "reports/widths/", "cells/", "backgrounds/", "objects/", "weights/")
NUMBER = re.compile(r"-?\d+(?:,\d{3})*(?:\.\d+)?(?:e[+-]?\d+)?")
TIMES = re.compile(r"_ms\b|\[ms\]")
SHARE, LAST_DIGITS = 0.05, 2
SECONDS = 300
COMMAND, BOTH = re.compile(r"archlab |python -m "), " 2>&1"
PLAIN = re.compile(rf"(archlab|python -m|cat|sed) [^|&;<>$`]*({re.escape(BOTH)})?")  # a line that is one command
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, and the line on which that begins, counted from 0."""

    language: str
    text: str
    line: int


def blocks(document: Path) -> list[Block]:
    """The blocks of a document in the order they stand."""
    text = document.read_text(encoding="utf-8")
    found = [Block(m[1], m[2], text.count("\n", 0, m.start()) + 1) for m in BLOCK.finditer(text)]
    fences = len(re.findall("^```", text, re.MULTILINE))
    assert fences == 2 * len(found), f"{document}: {fences} fences, {len(found)} blocks of python, bash or text"
    return found


def prose(document: Path) -> str:
    """The text of a document without its blocks."""
    return re.sub(r"^```\w+\n.*?^```$", "", document.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def pictures(document: Path) -> list[str]:
    """The pictures of its own that a document shows: not those of reports."""
    return [shown for shown in PICTURE.findall(prose(document)) if "reports/" not in shown]


def run(document: Path, folder: Path) -> None:
    """Run all blocks of `document` in `folder`. Raises AssertionError where one does not do what stands there."""
    names: dict = {}
    printed: str | None = None  # by the block before
    for block in blocks(document):
        if block.language == "text" and printed is not None:
            wanted, got = (NUMBER.sub("#", text.replace("█", "")) for text in (block.text, printed))
            assert doctest.OutputChecker().check_output(wanted, got, FLAGS), f"{document.name} shows\n{printed}"
        printed = None
        if file := FILE.match(block.text):
            (folder / file[1]).write_text(block.text, encoding="utf-8")
        elif block.language == "python":
            run_python(block, document, names)
        elif block.language == "bash" and not is_too_long(block):
            printed = run_bash(block, document, folder)
    for shown in pictures(document):
        assert (folder / Path(shown).name).is_file(), f"{document.name} shows {shown}, which none of its blocks draws"


def is_too_long(block: Block) -> bool:
    return block.text.startswith(TOO_LONG)


def run_python(block: Block, document: Path, names: dict) -> None:
    """Run a block with `names`, which it adds to."""
    if ">>>" not in block.text:
        exec(compile("\n" * block.line + block.text, str(document), "exec"), names)
        return
    test = doctest.DocTestParser().get_doctest(block.text, names, document.name, str(document), block.line)
    runner = doctest.DocTestRunner(checker=NearlyTheSame(), optionflags=FLAGS)
    assert not runner.run(test, clear_globs=False).failed, f"{document.name}, line {block.line}: see the output"
    names.update(test.globs)


def run_bash(block: Block, document: Path, folder: Path) -> str:
    """What a block prints. Where each of its lines is a command of its own, those of archlab and of studies are called
    in this process: another one takes seconds to import torch."""
    lines = block.text.replace("\\\n", " ").splitlines()
    if not all(PLAIN.fullmatch(line) for line in lines):
        return in_bash(block.text, block, document, folder)
    return "".join(
        called(line, block, document, folder) if COMMAND.match(line) else in_bash(line, block, document, folder)
        for line in lines
    )


def in_bash(text: str, block: Block, document: Path, folder: Path) -> str:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    given = {**os.environ, "PATH": path, "PYTHONPATH": os.pathsep.join([str(ROOT), str(folder)])}
    script = f'set -e\narchlab() {{ {sys.executable} -m archlab.cli "$@"; }}\n{text}'
    done = subprocess.run(
        ["bash", "-c", script], cwd=folder, env=given, text=True, capture_output=True, timeout=SECONDS
    )
    assert done.returncode == 0, f"{document.name}, line {block.line}: exit status {done.returncode}\n{done.stderr}"
    return done.stdout


def called(line: str, block: Block, document: Path, folder: Path) -> str:
    """What ``archlab …`` or ``python -m …`` prints, called here as Python would call it in a process of its own."""
    words, printed, told = shlex.split(line.removesuffix(BOTH)), io.StringIO(), io.StringIO()
    module, *words = ["archlab.cli", *words[1:]] if words[0] == "archlab" else words[2:]
    before, argv, path, here = set(sys.modules), sys.argv, list(sys.path), Path.cwd()
    sys.argv, sys.path[:] = [module, *words], [str(folder), *sys.path]
    os.chdir(folder)
    importlib.invalidate_caches()
    status: Any = 0
    try:
        with (
            contextlib.redirect_stdout(printed),
            contextlib.redirect_stderr(printed if line.endswith(BOTH) else told),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as stopped:
        status = stopped.code
    finally:
        os.chdir(here)
        sys.argv, sys.path[:] = argv, path
        for name in sys.modules.keys() - before:  # the document may edit it
            if str(getattr(sys.modules[name], "__file__", None)).startswith(str(folder)):
                del sys.modules[name]
    assert not status, f"{document.name}, line {block.line}: exit status {status}\n{told.getvalue()}"
    return printed.getvalue()


class NearlyTheSame(doctest.OutputChecker):
    """Holds numbers with a decimal point to `SHARE` or `LAST_DIGITS` only; all else must be the same."""

    def check_output(self, want: str, got: str, optionflags: int) -> bool:
        if super().check_output(want, got, optionflags):
            return True
        wanted, found = NUMBER.findall(want), NUMBER.findall(got)
        if not TIMES.search(want) and (len(wanted) != len(found) or not all(map(nearly, wanted, found))):
            return False
        return super().check_output(NUMBER.sub("#", want), NUMBER.sub("#", got), optionflags)


def nearly(wanted: str, found: str) -> bool:
    """Whether two numbers, as they are printed, are the same or, with a decimal point, nearly so."""
    if "." not in wanted:
        return wanted == found
    digits = len(re.split("e", wanted.partition(".")[2])[0])
    a, b = (float(number.replace(",", "")) for number in (wanted, found))
    return abs(a - b) <= max(SHARE * abs(a), (LAST_DIGITS + 0.01) * 10.0**-digits)


def modules_run(document: Path) -> set[str]:
    """The modules that a document runs with ``python -m``."""
    text = "".join(block.text for block in blocks(document) if block.language == "bash")
    return set(re.findall(r"python -m ([\w.]+)", text))


def unknown_names(document: Path) -> list[str]:
    """Names that the document has in code (`al.name`, `archlab.room.name`, `studies.module.name`) and nothing bears."""
    text = document.read_text(encoding="utf-8")
    text = re.sub(r"^```text\n.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    named = re.findall(r"(?<![\w./])((?:al|archlab|studies)(?:\.[A-Za-z_]\w*)+)", text)
    return [name for name in dict.fromkeys(named) if not (name.endswith(".md") or is_known(name))]


def is_known(name: str) -> bool:
    first, *rest = name.split(".")
    path = ["archlab" if first == "al" else first, *rest]
    for count in range(len(path), 0, -1):
        try:
            found = importlib.import_module(".".join(path[:count]))
        except ModuleNotFoundError:
            continue
        for attribute in path[count:]:
            if not hasattr(found, attribute):
                return False
            found = getattr(found, attribute)
        return True
    return False


def missing_paths(document: Path) -> list[str]:
    """Paths that a document names and that are not in the repository: in links, and in backticks where they have a
    slash. They count from the document's folder, from the repository's, or from archlab/."""
    text = prose(document)
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link]
    named = [name for name in re.findall(r"`([\w.-]+/[\w./-]*)`", text) if not name.startswith(OF_OTHERS)]
    bases = {document.parent, ROOT, ROOT / "archlab"}
    wrong = [link for link in links if link and not (document.parent / link).exists()]
    return wrong + [name for name in named if not any((base / name).exists() for base in bases)]


def main() -> None:
    import tempfile

    for name in sys.argv[1:]:
        document = Path(name).resolve()
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            run(document, Path(folder))
            for shown in pictures(document):
                shutil.copyfile(Path(folder, Path(shown).name), document.parent / shown)


if __name__ == "__main__":
    main()
