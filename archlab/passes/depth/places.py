"""What a model keeps of how many blocks it has and of where each stands: counts, lists with an entry a block, indices.

Code slices its blocks by such a count and makes its cache by it (Hugging Face's configurations), and layers find their
place in the cache by an index of their own. Known by name and value, not by class: a count is a whole number that is
the number of blocks and is called so; an index is called so and is the block's place.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from .pattern import INDEX

_COUNT = re.compile(r"(num|n)_(\w+_)?(layers?|blocks?)|(encoder|decoder)_layers|depth|(num|n)_?(layers?|blocks?)")
_BY_STAGE = re.compile(r"depths|(num_)?(blocks|layers)|stage_depths|layer_depths")
_ROLES = ("encoder", "decoder")


@dataclass(frozen=True)
class Stack:
    """Blocks of a model in one container: where it is and how many there are."""

    model: nn.Module
    span: str
    have: int

    @property
    def owner(self) -> nn.Module:
        """The module that has the stack."""
        return self.model.get_submodule(self.span.rpartition(".")[0])

    def holders(self) -> Iterator[tuple[Any, bool]]:
        """What may know the number of blocks: the owner, and the configurations of all around; each once, and whether
        it is about this stack alone."""
        yield self.owner, True
        own = vars(self.owner).get("config")
        seen: list[Any] = []
        path, inside = self.span, True
        while inside:
            inside = bool(path)
            path = path.rpartition(".")[0]
            config = vars(self.model.get_submodule(path)).get("config")
            if hasattr(config, "__dict__") and not any(config is other for other in seen):
                seen.append(config)
        above = vars(self.model).get("config")
        for config in seen:
            yield config, config is own and config is not above

    def _counts(self) -> Iterator[tuple[Any, str]]:
        role = next((word for part in reversed(self.span.split(".")) for word in _ROLES if word in part), None)
        for holder, alone in self.holders():
            names = [n for n, v in vars(holder).items() if type(v) is int and v == self.have and _COUNT.fullmatch(n)]
            other = [word for word in _ROLES if word != role]
            names = [name for name in names if role is None or not any(word in name for word in other)]
            special = [name for name in names if role is not None and role in name]
            for name in names if alone or not special else special:
                yield holder, name

    def _lists(self) -> Iterator[tuple[Any, str]]:
        """Lists with an entry a block, where the count is kept beside them."""
        holders = list({id(holder): holder for holder, _ in self._counts()}.values())
        for holder in holders:
            for name, value in vars(holder).items():
                if type(value) in (list, tuple) and len(value) == self.have and "layer" in name:
                    yield holder, name

    def kinds(self) -> list[Any]:
        """What the configuration says of each block."""
        lists = [vars(holder)[name] for holder, name in self._lists()]
        return [tuple(map(repr, entry)) for entry in zip(*lists, strict=True)] if lists else []

    def resize_(self, count: int, sources: Sequence[int]) -> None:
        """Write down that there are `count` blocks now; entry for entry, a new one is like the block in `sources`."""
        counts, lists = list(self._counts()), list(self._lists())
        for holder, name in lists:
            old = vars(holder)[name]
            vars(holder)[name] = type(old)([*old[:count], *(old[i] for i in sources)])
        for holder, name in counts:
            vars(holder)[name] = count
        numbers = [int(part) for part in self.span.split(".") if part.isdigit()]
        for holder, _ in self.holders() if numbers else ():
            for name, value in vars(holder).items():
                stages = type(value) in (list, tuple) and all(type(v) is int for v in value)
                if stages and _BY_STAGE.fullmatch(name) and numbers[-1] < len(value):
                    if value[numbers[-1]] == self.have:
                        vars(holder)[name] = type(value)(count if i == numbers[-1] else v for i, v in enumerate(value))


def place_(block: nn.Module, old: int, new: int) -> None:
    """Let the layers of a block that stood at `old` know that it stands at `new`."""
    for module in block.modules():
        for name in _names(module):
            if vars(module)[name] == old:
                vars(module)[name] = new


def close_ranks_(model: nn.Module, before: nn.Module) -> list[tuple[nn.Module, str, int, int]]:
    """Let the layers of `model` that have a place take the first ones, where some that `before` had are gone.

    A cache asks its first entry how long the text is, and of a layer that is gone the entry stays empty. Entries may be
    of several kinds (windows): a layer takes the place of one of its kind. What was changed is given:
    the module, the attribute, and its places before and after.
    """
    changed: list[tuple[nn.Module, str, int, int]] = []
    for span in _containers(before):
        container = before.get_submodule(span)
        stack = Stack(before, span, sum(1 for _ in container.children()))
        kinds = dict(enumerate(stack.kinds()))
        groups: dict[tuple, list[tuple[int, nn.Module | None]]] = {}
        for name, block in container.named_children():
            for inner, module in block.named_modules():
                path = ".".join(part for part in (span, name, inner) if part)
                for attribute in _names(module):
                    place = vars(module)[attribute]
                    left = _at(model, path, attribute)
                    groups.setdefault((inner, attribute, kinds.get(place)), []).append((place, left))
        for (_, attribute, _), entries in groups.items():
            places = sorted(place for place, _ in entries)
            if all(module is not None for _, module in entries) or len(set(places)) < len(places):
                continue
            left = ((place, module) for place, module in entries if module is not None)
            for (old, module), new in zip(left, places, strict=False):
                if old != new:
                    changed.append((module, attribute, old, new))
                    vars(module)[attribute] = new
    return changed


def _containers(model: nn.Module) -> list[str]:
    return [path for path, m in model.named_modules() if isinstance(m, nn.Sequential | nn.ModuleList) and len(m) > 1]


def _at(model: nn.Module, path: str, attribute: str) -> nn.Module | None:
    """The module of `model` at `path`, where it is there and has the attribute."""
    try:
        module = model.get_submodule(path)
    except AttributeError:
        return None
    return module if attribute in vars(module) else None


def _names(module: nn.Module) -> list[str]:
    return [name for name, value in vars(module).items() if INDEX.fullmatch(name) and type(value) is int]
