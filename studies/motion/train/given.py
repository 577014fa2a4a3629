"""Weights that were trained elsewhere, with their facts: ``--weights FOLDER`` takes them instead of training.

FOLDER holds ``<network>.safetensors`` and beside it ``<network>.json``, an object with `FACTS` and whatever else is
known of the training.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_model, save_model

from ..network.models import MagnificationNet

# What must be known of a training: updates, samples an update, the curve of the loss (numbers, or pairs of step and
# number), data, hardware, time.
FACTS = ("steps", "batch", "losses", "source", "device", "seconds")


@dataclass(frozen=True)
class Given:
    """A training's weights and its facts."""

    file: Path
    facts: Mapping[str, Any]

    def load_(self, net: MagnificationNet) -> None:
        """Put the weights into `net`. Raises ValueError where they are no weights, or another network's."""
        try:
            load_model(net, self.file)
        except (SafetensorError, RuntimeError) as error:
            raise ValueError(f"{self.file} does not hold the weights of this network: {error}") from error

    def taken(self, net: MagnificationNet, into: Path) -> dict[str, Any]:
        """Put the weights into `net` and the file `into`: what a row says that was to train `net`."""
        self.load_(net)
        save_model(net, str(into))
        losses = [entry[1] if isinstance(entry, list) else entry for entry in self.facts["losses"]]
        return {"steps": self.facts["steps"], "loss": losses[-1], "losses": losses, "facts": dict(self.facts)}


def given(folder: Path | None, network: str) -> Given | None:
    """The weights of `network` in `folder`; None where there are none.

    Raises ValueError, naming the file, where their facts are not there or not complete.
    """
    file = None if folder is None else folder / f"{network}.safetensors"
    if file is None or not file.is_file():
        return None
    beside = file.with_suffix(".json")
    try:
        facts = json.loads(beside.read_bytes())
    except FileNotFoundError as error:
        raise ValueError(f"{file} has no facts: {beside.name} must say {', '.join(FACTS)}") from error
    except ValueError as error:
        raise ValueError(f"{beside} is not JSON: {error}") from error
    missing = [name for name in FACTS if not isinstance(facts, dict) or name not in facts]
    if missing:
        raise ValueError(f"{beside} must be an object that says {', '.join(FACTS)}; it does not say {missing[0]!r}")
    if type(facts["steps"]) is not int or facts["steps"] < 1:
        raise ValueError(f"{beside}: steps must be a whole number of at least 1, got {facts['steps']!r}")
    if not isinstance(facts["losses"], list) or not facts["losses"]:
        raise ValueError(f"{beside}: losses must be a list of at least one number, got {facts['losses']!r}")
    return Given(file, facts)


def fingerprint(folder: Path, network: str) -> str | None:
    """What identifies the weights of `network` in `folder` and their facts; None where there are none."""
    found = given(folder, network)
    if found is None:
        return None
    return hashlib.sha256(found.file.read_bytes() + found.file.with_suffix(".json").read_bytes()).hexdigest()[:16]


def curve(row: Mapping[str, Any]) -> list[tuple[float, float]]:
    """(step, loss) of the training of a `row`: as its facts say, or else evenly over its steps."""
    facts = row.get("facts")
    losses = facts["losses"] if isinstance(facts, Mapping) else row["losses"]
    if isinstance(losses[0], list):
        return [(float(step), float(loss)) for step, loss in losses]
    return [(row["steps"] * (place + 0.5) / len(losses), loss) for place, loss in enumerate(losses)]


def told(row: Mapping[str, Any]) -> str:
    """How the network of a `row` was trained, in a sentence; empty where the row itself trained it."""
    facts = row.get("facts")
    if not isinstance(facts, Mapping):
        return ""
    more = [str(facts[name]) for name in ("optimizer", "precision", "augmentation") if name in facts]
    return (
        f"Trained elsewhere and given by --weights: {facts['steps']:,} steps of {facts['batch']} samples, "
        f"{facts['seconds'] / 60:.0f} minutes on {facts['device']}; {facts['source']}"
        + "".join(f"; {words}" for words in more)
        + "."
    )
