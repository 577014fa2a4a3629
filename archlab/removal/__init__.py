"""What of a network its task can do without: what studies and users' scripts import from here."""

from .curves.curve import TradeOff
from .greedy import remove_at_random, remove_greedily
from .learn import Removal, learn_to_remove
from .merge.remove_to_merge import remove_to_merge
from .scores import scores
from .sensitivity import sensitivity

__all__ = [
    "Removal", "TradeOff", "learn_to_remove", "remove_at_random", "remove_greedily", "remove_to_merge", "scores",
    "sensitivity",
]  # fmt: skip
