"""What a site is, the list of a model's sites that prints as a table, and choosing from it."""

import fnmatch
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import torch

from ..capture.location import Place
from ..capture.record import Capture

KINDS = ("activation", "skip", "branch", "block", "join", "gate")
WIDTH = 100  # columns of a printed list

Where = str | Iterable[str] | Callable[["Site"], bool] | None


@dataclass(frozen=True, eq=False)
class Site:
    """One removable occurrence inside one execution of its container.

    `how` is ``local`` (the container's code is rewritten), ``module`` (the called child is),
    ``intercepted`` with the reason (bypassed at run time), ``refused`` with the reason, or empty where it was not
    tried.
    """

    id: str
    kind: str
    path: str  # of the container; the root is ""
    op: str
    shape: tuple[int, ...]
    calls: int
    params: int  # parameters that removal frees
    macs: int  # multiply-adds of the run that removal saves, all calls together
    how: str
    module: str | None  # path of the child that is called, for a site that is a module call
    span: int  # for adds: sites that the long way round passes over
    grad: bool  # a gradient can reach its switch
    method: str = field(repr=False)
    entry: Any = field(repr=False)
    place: Place = field(repr=False)
    keep: int = field(repr=False)  # which tensor operand stays when it is removed
    drop: int = field(repr=False)
    mutated: bool = field(repr=False)  # its output is changed in place afterwards
    inplace: bool = field(repr=False)  # it changes its input in place
    recast: tuple[torch.dtype, bool] | None = field(repr=False)  # `editing.recast`, if what stays has another dtype


@dataclass(frozen=True)
class Left:
    """Something seen and not taken: where, what, which kind of site it is not (skip for any add), and why."""

    path: str  # of the container
    op: str
    kind: str  # or "any", where nothing inside can be seen
    reason: str
    module: str | None = None  # path of the child that is called, where it is a module call
    calls: int = 1


class Sites(Sequence[Site]):
    """The sites of one run, in the order they ran. A sequence; prints as a table."""

    def __init__(self, sites: Iterable[Site], left: Iterable[Left], record: Capture):
        self._sites = tuple(sites)
        self.left = tuple(left)
        self.record = record

    def __getitem__(self, index):
        return self._sites[index]

    def __len__(self) -> int:
        return len(self._sites)

    def frame(self) -> pd.DataFrame:
        """One row a site: site, kind, op, shape, calls, params, macs, their shares in the whole, span, grad, how."""
        params = max(self._params(), 1)
        macs = max(self._macs(), 1)
        rows = [
            {
                "site": s.id,
                "kind": s.kind,
                "op": s.op,
                "shape": "x".join(map(str, s.shape)),
                "calls": s.calls,
                "params": s.params,
                "params_share": s.params / params,
                "macs": s.macs,
                "macs_share": s.macs / macs,
                "span": s.span,
                "grad": s.grad,
                "how": s.how,
            }
            for s in self
        ]
        columns = "site kind op shape calls params params_share macs macs_share span grad how".split()
        return pd.DataFrame(rows, columns=columns)

    def left_frame(self) -> pd.DataFrame:
        """One row for each thing seen and left: path, module, op, kind (of site that it is not), calls, reason."""
        columns = "path module op kind calls reason".split()
        rows = [{**{name: getattr(x, name) for name in columns}, "module": x.module or ""} for x in self.left]
        return pd.DataFrame(rows, columns=columns)

    def __repr__(self) -> str:
        """A table of at most 100 columns, and below it what its columns leave out."""
        counts = ", ".join(f"{n} {kind}" for kind, n in Counter(s.kind for s in self).items())
        lines = [*_table(self.frame()), f"{len(self)} sites: {counts}" if len(self) else "no sites"]
        if len(self):
            whole = f"{self._params():,} parameters and {self._macs():,} MACs"
            lines.append(f"params, MACs: what goes with a site, as a share of {whole}")
        why = Counter(s.how for s in self if ": " in s.how)
        lines += [f"{n} {how}" for how, n in why.items()]
        if self.left:
            lines.append(f"{sum(x.calls for x in self.left)} seen and left, with the reason: .left_frame()")
        return "\n".join(lines)

    def _params(self) -> int:
        return sum(self.record.params.values())

    def _macs(self) -> int:
        return sum(op.macs for op in self.record.ops)


def _table(frame: pd.DataFrame) -> list[str]:
    """The lines of the table. The ids of a model with deep paths lose their beginning where `WIDTH` asks for it."""
    if frame.empty:
        return []
    cells = {
        "kind": frame["kind"],
        "op": [op if len(op) <= 14 else op[:13] + "…" for op in frame["op"]],
        "shape": frame["shape"],
        "calls": frame["calls"].astype(str),
        "params": frame["params_share"].map(_share),
        "MACs": frame["macs_share"].map(_share),
        "how": [
            how.partition(":")[0] if grad else "no gradient"
            for how, grad in zip(frame["how"], frame["grad"], strict=True)
        ],
    }
    columns = {
        name: _aligned(name, values, right=name in ("calls", "params", "MACs")) for name, values in cells.items()
    }
    room = max(WIDTH - sum(len(lines[0]) + 2 for lines in columns.values()), len("site"))
    lines = zip(_aligned("site", (_tail(site, room) for site in frame["site"])), *columns.values(), strict=True)
    return ["  ".join(line).rstrip() for line in lines]


def _tail(site: str, room: int) -> str:
    """`site`, or as many of its last parts as there is room for."""
    short = site
    while len(short) > room and "." in short.partition("/")[0]:
        short = "…" + short.removeprefix("…").partition(".")[2]
    return short


def _aligned(name: str, values: Iterable[str], right: bool = False) -> list[str]:
    values = [name, *values]
    width = max(map(len, values))
    return [value.rjust(width) if right else value.ljust(width) for value in values]


def _share(share: float) -> str:
    return "–" if share == 0 else "<0.1%" if share < 0.001 else f"{share:.1%}"


def select(sites: Sites, *, kinds: Iterable[str], where: Where = None) -> Sites:
    """The sites of the given `kinds` that match `where` (a glob on id, container or module path, a list of
    globs, or a function of the Site). Raises ValueError where nothing is selected, and says which sites there are."""
    kinds = check_kinds(kinds)
    of_kinds = [s for s in sites if s.kind in kinds]
    if where is None:
        taken = of_kinds
    elif callable(where):
        taken = [s for s in of_kinds if where(s)]
    else:
        globs = _globs(where)
        for glob in globs:
            if not any(_matches(s, glob) for s in sites):
                raise ValueError(f"where={glob!r} matches no site. {_instead(sites, kinds, globs)}")
        taken = [s for s in of_kinds if any(_matches(s, glob) for glob in globs)]
    if not taken:
        pattern = "" if where is None else f" matches where={getattr(where, '__name__', where)!r}"
        globs = None if where is None or callable(where) else _globs(where)
        raise ValueError(f"no site of kind {'/'.join(kinds)}{pattern}. {_instead(sites, kinds, globs)}")
    return Sites(taken, sites.left, sites.record)


def check_kinds(kinds: str | Iterable[str]) -> tuple[str, ...]:
    """`kinds` as a tuple. Raises ValueError for none, and naming an unknown one."""
    named = (kinds,) if isinstance(kinds, str) else tuple(kinds or ())
    for kind in named:
        if kind not in KINDS:
            raise ValueError(f"kind {kind!r} is unknown: choose from {', '.join(KINDS)}")
    if not named:
        raise ValueError(f"kinds names nothing: choose at least one of {', '.join(KINDS)}; got {kinds!r}")
    return named


def _globs(where: Any) -> list[str]:
    globs = [where] if isinstance(where, str) else list(where) if isinstance(where, Iterable) else [where]
    for glob in globs:
        if not isinstance(glob, str):
            raise TypeError(f"where must be a glob, a list of globs or a function of a Site; got {where!r}")
    return globs


def _matches(found: "Site | Left", glob: str) -> bool:
    names = (getattr(found, "id", None), found.path, found.module)
    return any(name is not None and fnmatch.fnmatchcase(name, glob) for name in names)


def _instead(sites: Sites, kinds: tuple[str, ...], globs: list[str] | None) -> str:
    """What the model has where nothing was selected: what was left there and why, and the ids there are."""
    wanted = {{"branch": "skip", "join": "skip", "gate": "activation"}.get(kind, kind) for kind in kinds} | {"any"}
    left = [x for x in sites.left if x.kind in wanted and (globs is None or any(_matches(x, glob) for glob in globs))]
    told = [f"{x.module or x.path or 'root'} ({x.op}): {x.reason}" for x in left]
    why = f"Left there: {_some(list(dict.fromkeys(told)), 3, '; ')}. " if told else ""
    ids = [s.id for s in sites if s.kind in kinds]
    if ids:
        return f"{why}The sites of kind {'/'.join(kinds)} are: {_some(ids, 12, ', ')}"
    if len(sites):
        counts = ", ".join(f"{n} {kind}" for kind, n in Counter(s.kind for s in sites).items())
        return f"{why}The model has no such site; it has {counts}"
    return f"{why}The model has no sites at all"


def _some(items: list[str], most: int, separator: str) -> str:
    more = f"{separator}… ({len(items)} in all)" if len(items) > most else ""
    return separator.join(items[:most]) + more
