"""The scheduler of a Dask cluster: how to reach it, what its workers have, and what became of a task there."""

import os
import sys
import warnings
from collections.abc import Iterable, Mapping
from importlib import util
from numbers import Real
from typing import TYPE_CHECKING, Any

from ...arguments import text, wrong
from ..processes import worker_environment

if TYPE_CHECKING:
    from distributed import Client, Future

CONNECT_S = 10.0  # that a scheduler may take to answer
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")  # Dask's nannies set them to 1


class NoScheduler(ConnectionError):
    """No scheduler answers."""


def check_installed() -> None:
    """Raise ModuleNotFoundError, with what to install, where Dask's distributed is not there."""
    if util.find_spec("distributed") is None:
        raise ModuleNotFoundError(
            "a scheduler needs the package distributed, which is not installed: pip install 'archlab[cluster]'"
        )


def check_address(what: str, address: Any) -> None:
    """Raise TypeError or ValueError for what is no address, nor None."""
    rule = "the address of a Dask scheduler, as tcp://host:8786, or None"
    if address is not None:
        text(what, address, rule)
    if address == "":
        raise ValueError(wrong(what, rule, address))


def checked_resources(what: str, found: Any) -> dict[str, float]:
    """What work takes of its worker. Raises ValueError where that is no dict of numbers."""
    if not isinstance(found, Mapping) or not all(isinstance(amount, Real) for amount in found.values()):
        raise ValueError(wrong(what, "a dict of numbers, as {'GPU': 1}", found))
    return dict(found)


def connected(address: str) -> "Client":
    """A client of the scheduler at that address. Raises NoScheduler where none answers."""
    from distributed import Client

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of other versions elsewhere, which the processes there do not see
            return Client(address, timeout=CONNECT_S, set_as_default=False, name="archlab")
    except (OSError, ValueError) as error:
        raise NoScheduler(
            f"scheduler: no Dask scheduler answers at {address} ({error}); start one with: dask scheduler"
        ) from error


def tell_what_lacks(client: "Client", what: str, takes: Iterable[Mapping[str, float]]) -> None:
    """Say what no worker has that some of the work takes: it waits until one comes."""
    there: list[Any] = [worker["resources"] for worker in client.scheduler_info(n_workers=-1)["workers"].values()]
    if not there:
        print(f"the scheduler has no workers yet; {what} wait for one: dask worker ADDRESS", file=sys.stderr)
        return
    for name, amount in {pair for resources in takes for pair in resources.items()}:
        if all(resources.get(name, 0) < amount for resources in there):
            print(
                f"no worker has {name}={amount:g} yet; {what} wait for one: dask worker ADDRESS --resources "
                f"'{name}={amount:g}'",
                file=sys.stderr,
            )


def outcome_of(future: "Future") -> Any:
    """What a task that is done returned; in words, why it returned nothing."""
    if future.status == "cancelled":
        return "failed: the scheduler gave it up, or is gone"
    try:
        return future.result(timeout=CONNECT_S)
    except Exception as error:  # whatever a worker raises: that it has no archlab, or was killed again and again
        return f"failed: {type(error).__name__}: {error}"


def process_environment(path: str, threads: int | str) -> dict[str, str]:
    """The environment of a process that a worker starts: it finds modules where the caller does, in `path`, too."""
    environment = worker_environment()
    environment["PYTHONPATH"] = os.pathsep.join([path, environment["PYTHONPATH"]])
    return environment | dict.fromkeys(THREADS, str(threads))
