"""What a learned removal is set by. `learn_to_remove` describes each option."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..arguments import choice, flag, number, whole, wrong
from ..names import closest
from ..passes.discard import KEEP
from ..training.fit import GROUPS
from ..training.optimization import MOST_STEPS, Schedule, check_schedule, constant, factor_at
from ..training.options import check_names, names_of, pick
from .budget import AMOUNTS, LATENCY, check_budget, check_shares
from .gates import GATES

NEAR = 0.1  # a site with |ω - τ| up to this is reported as near τ: another seed may well decide it otherwise
EPSILON = 0.01  # where ω starts, and its lower bound, when the penalty's gradient at 0 is 0 (p > 1) or -inf (p < 1)
LAM = 0.5  # of a loss that is its own unit
CALIBRATION = 8  # batches that the unit of the loss is measured on
LAM_UNITS = ("loss", "absolute")
WEIGHS = ("equal", *AMOUNTS, LATENCY)
PER_PHASE = {  # options of `fit` that are none of a removal
    "steps", "groups", "penalty", "penalty_weight", "loss_unit", "stateful", "after_backward", "after_step", "title",
    "describe",
}  # fmt: skip


def fit_options(call: str, options: Mapping[str, Any], *own: type) -> dict[str, Any]:
    """Those of the options of a removal that are `fit`'s in each of its phases, not of its `own` groups.

    Raises:
        TypeError: for a name that is neither's, and for one that the phases set themselves.
    """
    if set_here := sorted(PER_PHASE & options.keys()):
        instead = closest(set_here[0], [name for group in own for name in names_of(group)], most=3)
        raise TypeError(f"{call} has no option {set_here[0]!r}, which its phases set themselves; {instead}")
    check_names(call, options, *own, *GROUPS, but=PER_PHASE)
    names = {name for group in own for name in names_of(group)}
    return {name: value for name, value in options.items() if name not in names}


def check_fit_options(options: Mapping[str, Any], **first: Any) -> None:
    """Check the options of `fit` before any phase: one is not to end an evaluation that took its time.

    `first` are those that a phase names itself.

    Raises:
        TypeError, ValueError: as `fit` does.
    """
    given = {"precision": "fp32", "clip_norm": None, "schedule": constant, **first, **options}
    for group in GROUPS:
        group(**pick(group, given))


@dataclass(frozen=True, kw_only=True)
class RemovalSettings:
    """What decides over the sites, and how long and fast each phase learns."""

    lam: float | None
    lam_unit: str = "loss"
    p: float = 1.0
    tau: float = 0.5
    keep: str = "restore"
    budget: Mapping[str, float] | None = None
    at_most_loss: Mapping[str, float] | None = None
    weigh: str = "equal"
    gate: str = "blend"
    rewind: bool = False
    seed: int = 0
    calibration: int = CALIBRATION
    soft_steps: int = 600
    push_steps: int = 150
    tune_steps: int = 200
    lr: float = 5e-5
    lr_omega: float = 5e-3
    lr_tune: float | None = None
    schedule: Schedule = constant
    tune_schedule: Schedule = constant

    def __post_init__(self):
        number("tau", self.tau, low=0, high=1)
        if self.gate == "straight-through" and self.tau != 0.5:
            raise ValueError(wrong("tau", "0.5 with gate='straight-through', which opens its switches there", self.tau))
        number("lam", self.lam, low=0, optional=True)
        number("p", self.p, above=0)
        for name, known in (("keep", KEEP), ("lam_unit", LAM_UNITS), ("weigh", WEIGHS), ("gate", GATES)):
            choice(name, getattr(self, name), known)
        flag("rewind", self.rewind)
        for name, least in (("soft_steps", 1), ("push_steps", 0), ("tune_steps", 0), ("calibration", 1), ("seed", 0)):
            whole(name, getattr(self, name), least=least, most=MOST_STEPS)
        number("lr", self.lr, above=0, remedy="to learn ω alone, freeze the weights by requires_grad_(False)")
        number("lr_omega", self.lr_omega, above=0, remedy="at 0 no site would be removed")
        number("lr_tune", self.lr_tune, above=0, optional=True)
        check_schedule("schedule", self.schedule)
        check_schedule("tune_schedule", self.tune_schedule)
        if self.budget is not None:
            check_budget(self.budget)
        if self.at_most_loss is not None:
            check_shares("at_most_loss", self.at_most_loss, "{'accuracy': 0.01}")
        given = [name for name in ("lam", "budget", "at_most_loss") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} were given: λ is either fixed, or steered to one goal; choose one")
        if self.steered and (self.keep != "restore" or self.p != 1):
            raise ValueError(f"{given[0]} decides by the order of ω: it goes with keep='restore' and p=1 alone")
        if self.rewind and self.keep != "restore":
            raise ValueError("rewind starts from the original weights, with no ω in between: keep='restore' alone")

    @property
    def steered(self) -> bool:
        """Whether λ is driven by a goal."""
        return self.budget is not None or self.at_most_loss is not None

    @property
    def first_lam(self) -> float | None:
        """λ where it is fixed."""
        return None if self.steered else LAM if self.lam is None else self.lam

    @property
    def omega_start(self) -> float:
        """Where every ω starts, and what it stays above in the soft phase."""
        return 0.0 if self.p == 1 else EPSILON

    @property
    def travel(self) -> float:
        """How far ω can move in the soft phase: Adam moves it by about its rate a step."""
        return self.lr_omega * sum(factor_at(self.schedule, step) for step in range(self.soft_steps))

    def identity(self) -> dict[str, Any]:
        """What must be the same for a soft phase to be gone on with; what is decided later is not in it."""
        names = ("lam", "lam_unit", "p", "budget", "at_most_loss", "weigh", "gate", "seed", "calibration")
        return {name: repr(getattr(self, name)) for name in names}

    def facts(self, sites: int, unit: float) -> dict[str, Any]:
        """The numbers, for reports; λ and K together, as each site feels λ/K."""
        lam = self.first_lam
        return {
            "lam": lam,
            "lam_unit": self.lam_unit,
            "loss_unit": unit,
            "sites": sites,
            "lam_per_site": None if lam is None else lam / sites,
            "p": self.p,
            "tau": self.tau,
            "keep": self.keep,
            "budget": dict(self.budget) if self.budget else None,
            "at_most_loss": dict(self.at_most_loss) if self.at_most_loss else None,
            "weigh": self.weigh,
            "gate": self.gate,
            "rewind": self.rewind,
            "seed": self.seed,
            "soft_steps": self.soft_steps,
            "push_steps": self.push_steps,
            "tune_steps": self.tune_steps,
            "omega_start": self.omega_start,
            "lr": self.lr,
            "lr_omega": self.lr_omega,
            "lr_tune": self.lr if self.lr_tune is None else self.lr_tune,
        }
