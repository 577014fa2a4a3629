"""Studies that survive what kills them: what a study's file imports from here."""

from .command import command
from .provenance import data_fingerprint
from .runner import run
from .study import OutOfTime, Scratch, Study

__all__ = ["OutOfTime", "Scratch", "Study", "command", "data_fingerprint", "run"]
