"""Which errors count as a refusal: those that archlab raised itself, with words of its own."""

import traceback
from pathlib import Path

import archlab

PACKAGE = Path(archlab.__file__).parent


def is_refusal(error: Exception) -> bool:
    """Whether archlab itself raised it, of a kind that says what the caller can do."""
    raised_in = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
    return isinstance(error, ValueError | TypeError) and raised_in.is_relative_to(PACKAGE)
