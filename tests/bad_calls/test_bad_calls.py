"""Every call in the tables is refused by archlab itself, in words that name the offender and what to do, and soon."""

import inspect
import signal
import traceback
from pathlib import Path

import pytest

import archlab as al

from . import architectures, learning, looking, reshaping, results

TABLE = [row for table in (looking, learning, reshaping, results, architectures) for row in table.CALLS]
SECONDS = 5
PACKAGE = str(Path(al.__file__).parent)


@pytest.fixture(autouse=True)
def _soon():
    """An alarm, so that a call that never ends fails."""

    def stop(*given):
        raise TimeoutError(f"no answer after {SECONDS} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def is_told(error: Exception) -> bool:
    """Whether archlab says it: raised by a line of its own, or told more about; or Python does, of the call itself."""
    frames = traceback.extract_tb(error.__traceback__)
    raised = frames[-1]
    own = raised.filename.startswith(PACKAGE) and (raised.line or "").startswith(("raise", "assert"))
    signature = isinstance(error, TypeError) and raised.filename.startswith(str(Path(__file__).parent))
    return own or bool(getattr(error, "__notes__", ())) or signature


@pytest.mark.parametrize("row", [row for row in TABLE if row.words], ids=lambda row: row.name)
@pytest.mark.filterwarnings(
    "ignore:lr_omega", "ignore:learn_to_remove", "ignore::FutureWarning", "ignore::DeprecationWarning"
)
def test_a_bad_call_is_refused_in_words(row, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Exception) as caught:
        row.call()
    said = "\n".join([str(caught.value), *getattr(caught.value, "__notes__", ())])
    missing = [words for words in row.words if words not in said]
    assert not missing, f"{missing} not in {type(caught.value).__name__}: {said}"
    assert is_told(caught.value), f"raw: {type(caught.value).__name__}: {said}"
    assert not isinstance(caught.value, AssertionError | TimeoutError)


@pytest.mark.parametrize("row", [row for row in TABLE if not row.words], ids=lambda row: row.name)
@pytest.mark.filterwarnings("ignore:lr_omega", "ignore:learn_to_remove")
def test_an_odd_call_is_accepted(row, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    row.call()


def test_every_public_function_is_in_the_tables():
    tried = {row.name.partition(":")[0] for row in TABLE if row.words}
    functions = {name for name in al.__all__ if inspect.isroutine(inspect.unwrap(getattr(al, name)))}
    functions |= {f"plot.{name}" for name in ("omegas", "sensitivity", "tradeoff", "breakdown", "curve", "save")}
    functions |= {"Task", "Call", "Column", "Recipe", "fit", "cosine"}
    assert not functions - tried


def test_the_tables_hold_as_many_as_was_asked_and_none_twice():
    names = [row.name for row in TABLE]
    assert sum(bool(row.words) for row in TABLE) >= 400
    assert not {name for name in names if names.count(name) > 1}
