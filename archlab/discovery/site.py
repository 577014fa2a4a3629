"""What a site is, and the list of a model's sites, which prints as a table."""

import warnings
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

import pandas as pd

from ..capture.record import Capture
from ..markup import notebook_table
from ..names import printable
from ..rewrite.target import How, Target
from .kinds import Kind

_RIGHT = ("calls", "params", "MACs")  # columns of numbers
ANY = "any"  # the kind of what is skipped where nothing inside can be seen


@dataclass(frozen=True, eq=False)
class Site:
    """One removable occurrence inside one execution of its container.

    `how` says how it can be rewritten (`archlab.rewrite.target.How`), `reason` why not locally or not at all; both are
    empty where it was not tried.
    """

    id: str
    kind: Kind
    op: str
    shape: tuple[int, ...]
    calls: int
    params: int  # parameters that removal frees
    macs: int  # multiply-adds of the run that removal saves, all calls together
    span: int  # for adds: sites that the long way round passes over
    grad: bool  # a gradient can reach its switch
    how: How | None = None
    reason: str = ""
    same_as: str = ""  # id of another site whose removal is the very same
    values: tuple[tuple[int | None, int], ...] = field(default=(), repr=False)  # what stands and what it makes
    target: Target = field(repr=False, kw_only=True)

    @property
    def path(self) -> str:
        """Path of its container; the root is ""."""
        return self.target.container

    @property
    def module(self) -> str | None:
        """Path of the child that is called, for a site that is a module call."""
        return self.target.module

    @property
    def told(self) -> str:
        """`how` with the reason, as ``intercepted: it draws random numbers``."""
        return "" if self.how is None else f"{self.how}: {self.reason}" if self.reason else str(self.how)


@dataclass(frozen=True)
class Skipped:
    """Something seen and not taken: where, what, which kind of site it is not (skip for any add), and why."""

    path: str  # of the container
    op: str
    kind: str  # a `Kind`, or `ANY`
    reason: str
    module: str | None = None  # path of the child that is called, where it is a module call
    calls: int = 1


class Sites(Sequence[Site]):
    """The sites of one run, in the order they ran. A sequence; prints as a table."""

    def __init__(self, sites: Iterable[Site], skipped: Iterable[Skipped], record: Capture):
        self._sites = tuple(sites)
        self.skipped = tuple(skipped)
        self.record = record

    def __getitem__(self, index):
        return self._sites[index]

    def __len__(self) -> int:
        return len(self._sites)

    def without(self, kinds: Collection[Kind]) -> "Sites":
        """The sites, and what was skipped, of other kinds."""
        if not kinds:
            return self
        return Sites(
            [site for site in self if site.kind not in kinds],
            [skipped for skipped in self.skipped if skipped.kind not in kinds],
            self.record,
        )

    def frame(self) -> pd.DataFrame:
        """One row a site: site, module (path of the child that is called), kind, op, shape, calls, params, macs, their
        shares in the whole, span, grad, how, same_as (another site whose removal is the same)."""
        params = max(self._params(), 1)
        macs = max(self._macs(), 1)
        rows = [
            {
                "site": s.id,
                "module": s.module or "",
                "kind": s.kind.value,
                "op": s.op,
                "shape": "x".join(map(str, s.shape)),
                "calls": s.calls,
                "params": s.params,
                "params_share": s.params / params,
                "macs": s.macs,
                "macs_share": s.macs / macs,
                "span": s.span,
                "grad": s.grad,
                "how": s.told,
                "same_as": s.same_as,
            }
            for s in self
        ]
        columns = "site module kind op shape calls params params_share macs macs_share span grad how same_as".split()
        return pd.DataFrame(rows, columns=columns)

    def skipped_frame(self) -> pd.DataFrame:
        """One row for each thing seen and skipped: path, module, op, kind (of site that it is not), calls, reason."""
        columns = "path module op kind calls reason".split()
        rows = [
            {**{name: getattr(x, name) for name in columns}, "module": x.module or "", "kind": str(x.kind)}
            for x in self.skipped
        ]
        return pd.DataFrame(rows, columns=columns)

    @property
    def left(self) -> tuple[Skipped, ...]:
        """The former name of `skipped`."""
        warnings.warn("Sites.left is called .skipped now", DeprecationWarning, stacklevel=2)
        return self.skipped

    def left_frame(self) -> pd.DataFrame:
        """The former name of `skipped_frame`."""
        warnings.warn("Sites.left_frame() is called .skipped_frame() now", DeprecationWarning, stacklevel=2)
        return self.skipped_frame()

    def __repr__(self) -> str:
        """A table of at most 100 columns, and below it what its columns leave out."""
        return "\n".join(map(printable, [*_table(self.frame()), *self._notes()]))

    def _repr_html_(self) -> str:
        """The same for a notebook, with whole ids and whole reasons."""
        frame = self.frame()
        columns = {name: frame[name] for name in ("site", "module", "kind", "op", "shape", "calls")}
        columns |= {"params": frame["params_share"].map(_share), "MACs": frame["macs_share"].map(_share)}
        columns["how"] = frame["how"].where(frame["grad"], "no gradient")
        columns["same removal as"] = frame["same_as"]
        columns = {name: list(column) for name, column in columns.items() if column.astype(bool).any()}
        right = [number for number, name in enumerate(columns) if name in _RIGHT]
        return notebook_table(
            list(columns), list(zip(*columns.values(), strict=True)), right=right, notes=self._notes()
        )

    def _notes(self) -> list[str]:
        """What stands below the table."""
        counts = ", ".join(f"{n} {kind}" for kind, n in Counter(s.kind for s in self).items())
        lines = [f"{len(self)} sites: {counts}" if len(self) else "no sites"]
        if len(self):
            whole = f"{self._params():,} parameters and {self._macs():,} MACs"
            lines.append(f"params, MACs: what goes with a site, as a share of {whole}{self._unknown()}")
        why = Counter(s.told for s in self if s.reason)
        lines += [f"{n} {how}" for how, n in why.items()]
        same = sum(bool(s.same_as) for s in self)
        if same:
            lines.append(f"{same} with the same removal as another (=): it counts once")
        if self.skipped:
            lines.append(f"{sum(x.calls for x in self.skipped)} seen and skipped, with the reason: .skipped_frame()")
        return lines

    def _params(self) -> int:
        return sum(self.record.params.values())

    def _macs(self) -> int:
        return sum(op.macs for op in self.record.ops)

    def _unknown(self) -> str:
        names = dict.fromkeys(name for op in self.record.ops for name in op.uncounted)
        return f", without those of {', '.join(names)}: no formula" if names else ""


def _table(frame: pd.DataFrame) -> list[str]:
    """The lines of the table, as wide as the ids ask for: who reads one wants to give it to a pass."""
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
            (how.partition(":")[0] if grad else "no gradient") + (f" = {same.rpartition('/')[2]}" if same else "")
            for how, grad, same in zip(frame["how"], frame["grad"], frame["same_as"], strict=True)
        ],
    }
    columns = {name: _aligned(name, values, right=name in _RIGHT) for name, values in cells.items()}
    sites = [site + _told(site, *of) for site, *of in zip(frame["site"], frame["kind"], frame["module"], strict=True)]
    lines = zip(_aligned("site", sites), *columns.values(), strict=True)
    return ["  ".join(line).rstrip() for line in lines]


def _told(site: str, kind: str, module: str) -> str:
    """Which module a block is, of those in the container that its number counts: the end of its path."""
    inside = module.removeprefix(f"{site.rpartition('/')[0]}.") if kind == Kind.BLOCK else ""
    return f" ({'.'.join(inside.split('.')[-2:])})" if inside else ""


def _aligned(name: str, values: Iterable[str], right: bool = False) -> list[str]:
    values = [name, *values]
    width = max(map(len, values))
    return [value.rjust(width) if right else value.ljust(width) for value in values]


def _share(share: float) -> str:
    return "–" if share == 0 else "<0.1%" if share < 0.001 else f"{share:.1%}"
