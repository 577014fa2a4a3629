"""Multiply-adds of what runs: a dispatch mode that sees every op of aten, and counts it by a formula.

The formulas are torch's own (`torch.utils.flop_counter`, halved, with those that are registered there for custom ops)
and, for what torch has none for, those of `formulas`. What multiplies and has no formula is named instead (a Fourier
transform, an inverse, a custom op); all else is element-wise and counts nothing.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._ops import HigherOrderOperator, OpOverload
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from .formulas import FORMULAS, elements
from .recurrent import RECURRENT, recurrent_macs

# Functions that are counted as a whole, as aten does by element-wise ops what is a product, or step by step.
_WHOLE: dict[Callable, Callable[..., int]] = {
    **dict.fromkeys([torch.outer, torch.ger, Tensor.outer, Tensor.ger], elements),
    torch.linalg.vecdot: lambda out, a, b, **_: torch.broadcast_shapes(a.shape, b.shape).numel(),
}
# Words in the names of ops that multiply, and in those of ops that do not all the same.
_HEAVY = frozenset(
    "mm addmm bmm matmul linear conv conv1d conv2d conv3d convolution attention rnn lstm gru fft linalg cholesky geqrf "
    "ormqr orgqr lu solve spsolve svd pdist".split()
)
_LIGHT = frozenset(
    "norm cross diagonal check prepack pack unpack convert flatten reorder upsample search cache".split()
)
_OF_TORCH = frozenset("aten prims prim torchvision mkldnn mkl onednn quantized sparse inductor _quantized".split())


def _is_heavy(name: str) -> bool:
    space, _, op = name.partition("::")
    words = set(op.strip("_").split("_"))
    return space not in _OF_TORCH or bool(words & _HEAVY and not words & _LIGHT)


class Counter(TorchDispatchMode):
    """Counts while it is open. `macs` and `uncounted` grow; who asks what one op cost takes differences.

    ``issue(op, call, args, kwargs)`` is asked for the result of each op: it is to call ``call(*args, **kwargs)``.
    """

    supports_higher_order_operators = True

    def __init__(self, issue: Callable[[Callable, Callable, tuple, dict], Any]):
        super().__init__()
        self.macs = 0
        self.uncounted: list[str] = []
        self._issue = issue

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if any(t.__torch_dispatch__ is not Tensor.__torch_dispatch__ for t in types):  # type: ignore
            return NotImplemented  # a class that does ops in its own way, by others, which come here next

        def call(*args: Any, **kwargs: Any) -> Any:
            return self._counted(func, args, kwargs)

        return self._issue(func, call, args, kwargs or {})

    def _counted(self, op: Any, args: tuple, kwargs: dict) -> Any:
        if isinstance(op, OpOverload):
            with self:  # under inference mode composed ops come whole
                result = op.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        result = op(*args, **kwargs)
        name = op._schema.name if isinstance(op, OpOverload) else op.name()
        macs = _macs(op, name, result, args, kwargs)
        if macs is None:
            self.uncounted.append(name.removeprefix("aten::"))
        else:
            self.macs += macs
        return result


def _macs(op: OpOverload | HigherOrderOperator, name: str, result: Any, args: tuple, kwargs: dict) -> int | None:
    """Multiply-adds of one op; None for one that multiplies and has no formula."""
    if formula := FORMULAS.get(name.removesuffix("_")):
        return formula(result, *args, **kwargs)
    registered = flop_registry.get(op.overloadpacket if isinstance(op, OpOverload) else op)
    if registered is not None:
        return int(registered(*args, **kwargs, out_val=result)) // 2
    return None if isinstance(op, HigherOrderOperator) or _is_heavy(name) else 0


def macs_as_a_whole(function: Callable, result: Any, args: tuple, kwargs: dict) -> int | None:
    """Multiply-adds of a call of `function`, for one that is not counted by what it consists of; else None."""
    if function in RECURRENT:
        return recurrent_macs(function, args)
    return _WHOLE[function](result, *args, **kwargs) if function in _WHOLE else None
