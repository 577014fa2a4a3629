"""The code that a row's numbers depend on: what a function reaches, read by names from definition to definition.

A function uses names; each is defined at the top of a file, or imported from another, where its definition uses names
again. What is met on the way counts and nothing else does: neither `report`, nor a figure's colours, nor the training
where a speed is measured. So a study keeps no list of what it depends on, which would sooner or later leave a part out.

- Code is followed through all that lies beside the study's own top package, as a user's network may, and through
  archlab's rooms in `READ`. Of a library counts which names are used.
- archlab's other rooms, which read and rewrite models, count where `depends(row)` names them. Tests hold that they
  change no number, and each edit there would mark every row.
- Code is a tree without comments, docstrings, layout and imports, and counts by its hash: where a file lies, what it is
  called and what else is in it make no difference.

Reading does not see modules that a string names, and files that are opened. In doubt it counts too much: all of a
module that is handed on as a value (but not of a study, which is named so), that is imported with a star, or in which
`globals()` is asked for; and, as soon as anything of the file counts, its statements that define nothing and what its
package's own decorators are put on, which may register it.
"""

import ast
import importlib.util
import inspect
import symtable
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any, NamedTuple

from .provenance import digest

ARCHLAB = __name__.partition(".")[0]
READ = ("passes", "measure", "training", "removal", "architectures")  # rooms whose code makes numbers
DRAWS = f"{ARCHLAB}.report"  # counts never
ASKS_FOR_ALL = ("globals", "eval", "exec")
DEFINES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign, ast.AugAssign)
LOOSE = ""  # the name of a file's statements that define nothing
VERSIONED = ("ctx", "kind", "type_comment")  # fields of a tree that say nothing, or not in every version of Python


class Definition(NamedTuple):
    """What binds a name at the top of a module: a function, a class, an assignment and what is put into it later."""

    module: str
    name: str


class Written(NamedTuple):
    """The code of a definition: its hash, and the chains of names that it takes from outside, as ("np", "zeros")."""

    hash: str
    names: frozenset[tuple[str, ...]]


@dataclass(frozen=True, eq=False)
class File:
    """A module's text, taken apart: its definitions, and where names are imported from, as (module, name in it)."""

    definitions: Mapping[str, Written]
    imported: Mapping[str, frozenset[tuple[str, str]]]


@dataclass(frozen=True)
class Code:
    """What was reached: a hash of all of it, and for a person one of each module's part."""

    hash: str
    modules: Mapping[str, str]


def code_of(function: Callable[..., Any], more: Iterable[str] = ()) -> Code:
    """The code that `function` reaches, and all of what `more` names.

    Args:
        function: Defined at the top of a file.
        more: Dotted names as for import: of a module, or of a package, with all that lies below it.

    Returns:
        Its hash, the same wherever the code lies and in every version of Python, and each module's part.

    Raises:
        ValueError: there is no Python file of the function's module, or of what `more` names.
    """
    _spec.cache_clear()
    _file.cache_clear()  # read once for this question, and again for the next: a file may have been edited
    function = inspect.unwrap(getattr(function, "func", function))  # that of a partial, and below its decorators
    home, name = function.__module__, function.__qualname__.partition(".")[0]
    if _spec(home) is None:
        raise ValueError(f"{home}: no Python file of this module is found, in which {name} would be read")
    open_ = [*_found(home, (name,), home), *(one for named in more for part in below(named) for one in _all_of(part))]
    uses, reached = set(), set()
    while open_:
        one = open_.pop()
        if isinstance(one, str) or one in reached:
            continue
        reached.add(one)
        written = _file(one.module).definitions[one.name]
        if LOOSE in _file(one.module).definitions:
            open_.append(Definition(one.module, LOOSE))
        uses.add((written.hash, "", ""))
        for chain in written.names:
            for target in _targets(one.module, chain, home):
                what = target if isinstance(target, str) else _file(target.module).definitions[target.name].hash
                uses.add((written.hash, ".".join(chain), what))
                open_.append(target)
    parts = defaultdict(list)
    for one in reached:
        parts[one.module].append(_file(one.module).definitions[one.name].hash)
    return Code(digest(sorted(uses)), {module: digest(sorted(hashes)) for module, hashes in sorted(parts.items())})


def below(name: str) -> list[str]:
    """The module of that name, and of a package all that lie below it, except those that only draw.

    Raises:
        ValueError: there is no such module.
    """
    spec = _spec(name)
    if spec is None:
        raise ValueError(f"{name}: no Python file of this module is found; name modules and packages as for import")
    found = [name]
    for folder in map(Path, spec.submodule_search_locations or ()):
        parts = [path.relative_to(folder).with_suffix("").parts for path in folder.rglob("*.py")]
        found += [".".join([name, *part]).removesuffix(".__init__") for part in parts]
    return sorted({module for module in found if not _lies_in(module, DRAWS)})


def source(module: str) -> str:
    """The text of a module's file; nothing for a package without one."""
    spec = _spec(module)
    return Path(spec.origin).read_text(encoding="utf-8") if spec is not None and spec.origin else ""


def _targets(module: str, chain: tuple[str, ...], home: str) -> Iterator[Definition | str]:
    """What a chain of names in the code of `module` stands for: definitions that are followed, names of what is not."""
    file, first = _file(module), chain[0]
    if first in file.definitions:
        yield Definition(module, first)
    if first in ASKS_FOR_ALL:
        yield from _all_of(module)
    for other, name in file.imported.get(first, ()):
        yield from _found(other, (name, *chain[1:]) if name else chain[1:], home)
    if first not in file.definitions and first not in file.imported:
        for other, _ in file.imported.get("*", ()):
            yield from _found(other, chain, home)


def _found(module: str, path: tuple[str, ...], home: str) -> Iterator[Definition | str]:
    """What `path` is, looked up from `module` on, attribute by attribute."""
    if not _is_own(module, home):
        yield ".".join([module, *path])
        return
    top, *rooms = module.split(".")
    if top == ARCHLAB and rooms and rooms[0] not in READ:
        return
    file = _file(module)
    if not path:
        if not {"ROWS", "report"} <= file.definitions.keys() | file.imported.keys():
            yield from _all_of(module)
    elif path[0] in file.definitions:
        yield Definition(module, path[0])
    elif elsewhere := file.imported.get(path[0], frozenset()) - {(module, path[0])}:
        for other, name in elsewhere:
            yield from _found(other, (name, *path[1:]) if name else path[1:], home)
    elif _spec(f"{module}.{path[0]}") is not None:
        yield from _found(f"{module}.{path[0]}", path[1:], home)
    else:  # bound as reading does not see it
        yield from _all_of(module)
        for other, _ in file.imported.get("*", ()):
            yield from _found(other, path, home)


def _all_of(module: str) -> Iterator[Definition]:
    return (Definition(module, name) for name in _file(module).definitions)


def _is_own(module: str, home: str) -> bool:
    """Whether a module is followed: archlab's, the study's, and what lies beside the study's (but for a library)."""
    top, mine = module.partition(".")[0], home.partition(".")[0]
    beside = _folder(mine)
    is_library = beside is None or beside.name in ("site-packages", "dist-packages")
    return top in (ARCHLAB, mine) or (not is_library and _folder(top) == beside)


def _folder(top: str) -> Path | None:
    """The folder in which a top package, or a module that is in none, lies."""
    spec = _spec(top)
    if spec is None:
        return None
    places = spec.submodule_search_locations
    return Path(next(iter(places))).parent if places else Path(spec.origin).parent if spec.origin else None


def _lies_in(module: str, package: str) -> bool:
    return f"{module}.".startswith(f"{package}.")


@cache
def _spec(module: str) -> ModuleSpec | None:
    """How Python finds a module that it would read from a file (or from a folder without one)."""
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, AttributeError, ValueError):
        return None
    if spec is None or (spec.origin is None and spec.submodule_search_locations is None):
        return None
    return spec if spec.origin is None or spec.origin.endswith(".py") else None


@cache
def _file(module: str) -> File:
    spec = _spec(module)
    package = module if spec is not None and spec.submodule_search_locations else module.rpartition(".")[0]
    return _taken_apart(source(module), package)


@cache
def _taken_apart(text: str, package: str) -> File:
    tree = ast.parse(text)
    imported = defaultdict(set)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                whole = alias.name if alias.asname else alias.name.partition(".")[0]
                imported[alias.asname or whole].add((whole, ""))
        elif isinstance(node, ast.ImportFrom):
            base = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            for alias in node.names:
                imported[alias.asname or alias.name].add((base, alias.name))
    by_name = defaultdict(list)
    beside = {name for name, sources in imported.items() if _of_package(sources, package)}
    for statement in _bare(tree).body:
        names = _bound(statement) | (_put_into(statement) & by_name.keys())
        registered = _decorators(statement) & (beside | by_name.keys())  # perhaps: they may put it into a table
        defines = isinstance(statement, DEFINES) and not registered
        for name in names if names and defines else {*names, LOOSE}:
            by_name[name].append(statement)
    by_name.pop("__all__", None)
    definitions = {name: _written(parts) for name, parts in by_name.items()}
    return File(definitions, {name: frozenset(sources) for name, sources in imported.items()})


def _of_package(sources: Iterable[tuple[str, str]], package: str) -> bool:
    """Whether something is imported from the top package that `package` lies in."""
    top = package.partition(".")[0]
    return any(module.partition(".")[0] == top for module, _ in sources)


def _decorators(statement: ast.stmt) -> set[str]:
    """The names that the decorators of a definition begin with."""
    return {chain[0] for node in getattr(statement, "decorator_list", ()) for chain in _chains(node)}


def _bare(tree: ast.Module) -> ast.Module:
    """The tree, in place, without imports, docstrings and the command line: what tells where code lies and why."""
    for node in ast.walk(tree):
        for part in ("body", "orelse", "finalbody"):
            statements = getattr(node, part, None)
            if isinstance(statements, list) and statements:  # the body of a lambda is no list
                kept = [one for one in statements if not _says_nothing(one)]
                setattr(node, part, kept or ([] if node is tree else [ast.Pass()]))
    return tree


def _says_nothing(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.Expr):
        return isinstance(statement.value, ast.Constant)  # a docstring, or an ellipsis
    if isinstance(statement, ast.If):
        return ast.unparse(statement.test) == "__name__ == '__main__'"
    return isinstance(statement, ast.Import | ast.ImportFrom)


def _bound(node: ast.AST) -> set[str]:
    """The names that a statement at the top of a file binds there, which its functions and comprehensions do not."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {node.name}
    if isinstance(node, ast.Name):
        return {node.id} if isinstance(node.ctx, ast.Store) else set()
    if isinstance(node, ast.Lambda | ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp):
        return set()
    return {name for child in ast.iter_child_nodes(node) for name in _bound(child)}


def _put_into(statement: ast.stmt) -> set[str]:
    """The names of what a statement puts something into, as `TABLE` in ``TABLE["a"] = 1``."""
    found = set()
    for node in ast.walk(statement) if isinstance(statement, ast.Assign | ast.AugAssign) else ():
        if isinstance(node, ast.Subscript | ast.Attribute) and isinstance(node.ctx, ast.Store):
            while isinstance(node, ast.Subscript | ast.Attribute):
                node = node.value
            found |= {node.id} if isinstance(node, ast.Name) else set()
    return found


def _written(statements: list[ast.stmt]) -> Written:
    code = ast.Module(statements, [])
    bound, top = _bound(code), symtable.symtable(ast.unparse(code), "", "exec")
    symbols = top.get_symbols()  # since Python 3.12 with the variables of comprehensions, which are not its own
    free = {symbol.get_name() for symbol in symbols if symbol.get_name() in bound or not symbol.is_assigned()}
    inner = top.get_children()
    while inner:
        table = inner.pop()
        free |= {symbol.get_name() for symbol in table.get_symbols() if symbol.is_global()}
        inner += table.get_children()
    return Written(digest(_plain(code)), frozenset(chain for chain in _chains(code) if chain[0] in free))


def _chains(node: ast.AST) -> Iterator[tuple[str, ...]]:
    """The longest chains of attributes that begin with a name: ("np", "random", "default_rng")."""
    inner, attributes = node, []
    while isinstance(inner, ast.Attribute):
        attributes.append(inner.attr)
        inner = inner.value
    if isinstance(inner, ast.Name):
        yield (inner.id, *reversed(attributes))
    for child in ast.iter_child_nodes(inner):
        yield from _chains(child)


def _plain(node: Any) -> Any:
    """A tree as lists that JSON can write, the same from every version of Python."""
    if isinstance(node, ast.AST):
        fields = [(name, value) for name, value in ast.iter_fields(node) if name not in VERSIONED]
        return [type(node).__name__, *([name, _plain(value)] for name, value in fields if value not in (None, []))]
    if isinstance(node, list):
        return [_plain(item) for item in node]
    return repr(node)
