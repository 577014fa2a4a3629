"""What a result depends on: code and data, as short hashes, and the conditions it was measured under.

Code is hashed without comments, docstrings, layout and imports, and counts by that hash alone: neither explaining it
better, nor moving or renaming a file, makes an hour of training stale.
"""

import ast
import hashlib
import importlib.util
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def digest(value: Any) -> str:
    """A short hash of anything JSON can write, the same in every process."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def source_hashes(modules: Iterable[str]) -> dict[str, str]:
    """The hash of each module's code, by its name. Raises ValueError for a name without a Python file."""
    return {name: digest(plain(bare(_tree(name)))) for name in sorted(set(modules))}


def imported_by(module: str) -> list[str]:
    """`module` and what it imports of its own top package and of archlab, directly or not, by reading the files.

    Packages count where they are imported by name; the `__init__` of a parent is passed over, as it only
    gathers names.
    """
    tops = {module.partition(".")[0], "archlab"}
    found, open_ = {module}, [module]
    while open_:
        new = _imports(open_.pop(), tops) - found
        found |= new
        open_ += new
    return sorted(found)


def data_fingerprint(folder: str | Path | None) -> str:
    """The hash of names and sizes of all files below `folder`: cheap for a hundred thousand images."""
    if folder is None:
        return "none"
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such data folder")
    return digest(
        [(p.relative_to(folder).as_posix(), p.stat().st_size) for p in sorted(folder.rglob("*")) if p.is_file()]
    )


def _file(module: str) -> Path | None:
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, AttributeError, ValueError):
        return None
    return Path(spec.origin) if spec is not None and spec.origin and spec.origin.endswith(".py") else None


def _tree(module: str) -> ast.Module:
    path = _file(module)
    if path is None:
        raise ValueError(f"{module}: no Python file of this module is found; name modules as for import")
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def _imports(module: str, tops: set[str]) -> set[str]:
    """The modules of `tops` that the file of `module` imports, anywhere in it."""
    spec = importlib.util.find_spec(module)
    package = module if spec and spec.submodule_search_locations else module.rpartition(".")[0]
    names: set[str] = set()
    for node in ast.walk(_tree(module)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            for alias in node.names:  # a name of `base` is a module below it, or something defined in it
                below = f"{base}.{alias.name}"
                names.add(below if base.partition(".")[0] in tops and _file(below) else base)
    return {name for name in names if name.partition(".")[0] in tops and _file(name)}


def bare(tree: ast.Module) -> ast.Module:
    """The tree, in place, without imports, docstrings and the command line: what tells where code lies and why."""
    for node in ast.walk(tree):
        for part in ("body", "orelse", "finalbody"):
            statements = getattr(node, part, None)
            if isinstance(statements, list) and statements:  # the body of a lambda is an expression
                kept = [one for one in statements if not _says_nothing(one)]
                setattr(node, part, kept or [ast.Pass()])
    return tree


def _says_nothing(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.Expr):
        return isinstance(statement.value, ast.Constant)  # a docstring, or an ellipsis
    if isinstance(statement, ast.If):
        return ast.unparse(statement.test) == "__name__ == '__main__'"
    return isinstance(statement, ast.Import | ast.ImportFrom)


def plain(node: Any) -> Any:
    """A tree as lists that JSON can write; fields that only some versions of Python have are left out where empty."""
    if isinstance(node, ast.AST):
        fields = [(name, value) for name, value in ast.iter_fields(node) if name not in ("ctx", "kind", "type_comment")]
        return [type(node).__name__, *([name, plain(value)] for name, value in fields if value not in (None, []))]
    if isinstance(node, list):
        return [plain(item) for item in node]
    return repr(node)
