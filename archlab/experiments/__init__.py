"""Studies that survive what kills them: what a study's file imports from here."""

from .command import command
from .live.launch import launch
from .provenance import data_fingerprint
from .runner import run
from .study import Needed, OutOfTime, Scratch, Study, Wanted

__all__ = ["Needed", "OutOfTime", "Scratch", "Study", "Wanted", "command", "data_fingerprint", "launch", "run"]
