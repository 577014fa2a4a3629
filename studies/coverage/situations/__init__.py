"""Situations from public bug reports, as models of a few lines. A check's docstring is its row's name."""

from . import contents, counting, finding, rewriting
from .judge import Check, judged

__all__ = ["SITUATIONS", "situation"]

SITUATIONS: dict[str, Check] = dict(
    sorted(
        (str(check.__doc__).splitlines()[0].rstrip("."), check)
        for file in (rewriting, contents, counting, finding)
        for check in vars(file).values()
        if str(check.__doc__)[:2].isdigit()
    )
)


def situation(name: str) -> dict[str, str]:
    """The row of one situation."""
    return judged(SITUATIONS[name])
