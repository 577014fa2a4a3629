"""What of a network its task can do without: what studies and users' scripts import from here."""

from .learn import Removal, learn_to_remove
from .sensitivity import sensitivity

__all__ = ["Removal", "learn_to_remove", "sensitivity"]
