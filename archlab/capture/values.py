"""The tensors of a recorded run, by number: so a record says what was computed from what, and keeps none alive."""

from typing import Any

from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from .example import tensors_in
from .record import Op


class Values:
    """The numbers: a new tensor gets the next, and so does one that was changed in place, with all on its storage."""

    def __init__(self, model: nn.Module):
        self.values: WeakIdKeyDictionary = WeakIdKeyDictionary()
        self.aliases: dict[int, WeakIdKeyDictionary] = {}  # address of a storage -> the living tensors on it
        self.storage_at: dict[int, int] = {}  # address of a storage -> number of the one that lies there now
        self.storage: dict[int, int] = {}
        self.storage_bytes: list[int] = []
        self.producer: dict[int, Op] = {}
        self.constants: dict[int, str] = {}
        self.next_value = 0
        named = list(model.named_parameters()) + list(model.named_buffers())
        self.names = {id(tensor): name for name, tensor in named}
        self.kept = [tensor for _, tensor in named]

    def value_of(self, tensor: Tensor) -> int:
        """The number of a tensor as it is now; a new one where it was not met."""
        value = self.values.get(tensor)
        if value is None:
            value = self.number(tensor)
            if id(tensor) in self.names:
                self.constants[value] = self.names[id(tensor)]
        return value

    def values_of(self, tree: Any) -> tuple[int, ...]:
        """The numbers of all tensors in a tree."""
        return tuple(self.value_of(tensor) for tensor in tensors_in(tree))

    def number(self, tensor: Tensor) -> int:
        """Give a tensor a new number: it is new, or was changed in place."""
        self.next_value += 1
        self.values[tensor] = self.next_value
        address = _storage(tensor)
        if address is not None:
            aliases = self.aliases.setdefault(address, WeakIdKeyDictionary())
            if not len(aliases):  # a new storage, perhaps where one lay that is gone
                self.storage_at[address] = len(self.storage_bytes)
                self.storage_bytes.append(tensor.untyped_storage().nbytes())
            aliases[tensor] = None
            self.storage[self.next_value] = self.storage_at[address]
        return self.next_value

    def renumber_aliases(self, tensor: Tensor, op: Op) -> None:
        """After `op` changed `tensor` in place, every tensor on its storage is a new value made by `op`."""
        address = _storage(tensor)
        aliases = [tensor] if address is None else list(self.aliases.get(address, [tensor]))
        for alias in aliases:
            self.producer[self.number(alias)] = op


def version_of(tensor: Tensor) -> int:
    """How often a tensor was changed in place; -1 under inference mode, which does not count."""
    return -1 if tensor.is_inference() else tensor._version


def _storage(tensor: Tensor) -> int | None:
    try:
        return tensor.untyped_storage()._cdata
    except (NotImplementedError, RuntimeError):  # sparse tensors have none
        return None
