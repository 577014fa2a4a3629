"""Supernets: one model that holds every architecture of a space, and computes one of them at a time."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..arguments import text, wrong
from ..capture.copies import copied
from ..capture.example import moved
from ..capture.record import Capture
from ..capture.recorder import capture
from ..names import closest, matches
from ..passes.choice.modules import CHOICES, Choice, SharedKernel
from ..passes.choice.options import KINDS, Modules, check_kernel, kernel_convolutions
from ..passes.switch_state import refuse_switched, weight_of
from ..rewrite.module_tree import put_modules_
from .choices import Options
from .compare import equal_as_computed
from .measured import measured, put_indices_
from .space import Place, Position, Space

_ATTRIBUTE = "_archlab_supernet"


@dataclass(frozen=True, eq=False)
class Supernet:
    """What a supernet knows of itself: its space, its example, and the recorded run of the model it was made of."""

    space: Space
    example: Any
    record: Capture
    factories: dict[str, Callable[[nn.Module], nn.Module]]
    dtype: torch.dtype  # of the weights then

    def __deepcopy__(self, memo: dict) -> "Supernet":
        return self


def supernet(model: nn.Module, example: Any, *, choices: Mapping[str, Options]) -> nn.Module:
    """A copy of `model` with a choice at every module that a glob names; it computes what `model` does.

    It holds the weights of all options, and runs those of one architecture: at first the original one, at which it
    equals `model` bit for bit (checked on `example`, with gradients), then that of `al.sample_` or
    `al.set_architecture_`. What is not chosen is not computed and gets no gradient (Guo et al. 2020, single path
    one-shot). `al.space` tells the options with their costs.

    Args:
        model: any module without switches; it is left untouched.
        example: what runs it once.
        choices: by glob on module paths, `al.kernel`, `al.optional`, `al.width` or `al.either`. A glob means the
            outermost of the modules that it matches and the example calls: "layer3.*" the blocks of layer3, not what
            is in them.

    Returns:
        The supernet, of the class of `model`. It draws fresh weights from the global random generators.

    Raises:
        ValueError: for a glob that matches no module, a choice that does not fit its module (a kernel on a linear
            layer, a block that changes shape left out), and two choices at one module.

    >>> from archlab import kernel, optional
    >>> net, image = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU()), torch.zeros(1, 1, 8, 8)
    >>> space(supernet(net, image, choices={"0": kernel(3, 5), "1": optional()}))
    position     kind option  original  macs  params
           0   kernel      3      True  2304      40
           0   kernel      5     False  6400     104
           1 optional   keep      True  2304      40
           1 optional   skip     False  2304      40
    2 positions, 4 architectures of 2,304 to 6,400 MACs
    """
    refuse_switched(model)
    if not isinstance(choices, Mapping) or not choices:
        raise TypeError(
            wrong("supernet: choices", "a dict of choices by glob, as {'layer1.*': al.optional()}", choices)
        )
    record = capture(model, example)
    asked = _asked(model, record, choices)
    positions = [
        Position(path, options.kind, options.values, options.original(model, path)) for path, options in asked.items()
    ]
    options_at = {p.name: _options_at(model, example, record, p, asked[p.name]) for p in positions}
    net, places = _assembled(model, options_at)
    equal_as_computed(model, net, example, what="at the original architecture")
    factories = {name: factory for options in asked.values() for name, factory in options.factories.items()}
    found = measured(net, example, Space(tuple(positions), tuple(places)))
    vars(net)[_ATTRIBUTE] = Supernet(found, example, record, factories, weight_of(net).dtype)
    return net


def supernet_of(net: nn.Module) -> tuple[nn.Module, Supernet]:
    """The supernet inside `net` (which may be compiled or wrapped), and what it knows of itself. Raises ValueError."""
    for inner in (net, getattr(net, "_orig_mod", None), getattr(net, "module", None)):
        state = vars(inner).get(_ATTRIBUTE) if isinstance(inner, nn.Module) else None
        if state is not None:
            assert isinstance(inner, nn.Module)
            return inner, state
    if not isinstance(net, nn.Module):
        raise TypeError(wrong("net", "a supernet, as al.supernet(model, example, choices=...) makes it", net))
    raise ValueError(
        f"this {type(net).__name__} is no supernet: make one with al.supernet(model, example, choices=...)"
    )


def space(net: nn.Module) -> Space:
    """The architectures of a supernet, with their costs; prints as a table of the options.

    Args:
        net: a supernet; it is left untouched.

    Raises:
        ValueError: for another model.

    >>> from archlab import either, supernet
    >>> def tanh(module):
    ...     return nn.Tanh()
    >>> net = supernet(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), torch.zeros(1, 4), choices={"1": either(tanh)})
    >>> space(net).options, space(net).macs({"1": "tanh"})
    ({'1': ('original', 'tanh')}, 16)
    """
    return supernet_of(net)[1].space


def set_architecture_(net: nn.Module, architecture: Mapping[str, Any]) -> None:
    """Let a supernet compute another architecture, in place; its weights stay as they are.

    Args:
        net: a supernet.
        architecture: by position the option; where it names none, the original one.

    Raises:
        ValueError: for another model, a position or an option that is not there.

    >>> from archlab import optional, supernet
    >>> net = supernet(nn.Sequential(nn.ReLU(), nn.Tanh()), torch.zeros(1, 4), choices={"0": optional()})
    >>> set_architecture_(net, {"0": "skip"})
    >>> net(torch.tensor([-100.0]))
    tensor([-1.])
    """
    inner, state = supernet_of(net)
    put_indices_(inner, state.space.indices(state.space.complete(architecture)))


def architecture_of(net: nn.Module) -> dict[str, Any]:
    """The architecture that a supernet computes now."""
    inner, state = supernet_of(net)
    now: dict[str, Any] = {}
    for position in state.space.positions:
        own = [place for place in state.space.places if place.position == position.name]
        at = [inner.get_submodule(place.path).now for place in own]
        fits = [o for o in position.options if [place.indices[o] for place in own] == at]
        now[position.name] = fits[0]
    return state.space.canonical(now)


@contextlib.contextmanager
def at_architecture(net: nn.Module, architecture: Mapping[str, Any]) -> Iterator[None]:
    """The supernet with another architecture while open."""
    inner, _ = supernet_of(net)
    before = {m: m.now for m in inner.modules() if isinstance(m, CHOICES)}
    set_architecture_(net, architecture)
    try:
        yield
    finally:
        for module, now in before.items():
            module.now = now


def example_of(net: nn.Module, state: Supernet) -> Any:
    """The example of a supernet, on the device where that is now and, if it was moved to another dtype, in that."""
    like = weight_of(net)
    return moved(state.example, device=like.device, dtype=None if like.dtype is state.dtype else like.dtype)


def plain_copy(net: nn.Module) -> nn.Module:
    """A copy of the network that a supernet computes now, without what it does not."""
    inner, _ = supernet_of(net)
    memo: dict[int, Any] = {}
    within = [(path, module) for path, module in inner.named_modules() if isinstance(module, CHOICES)]
    for _, module in sorted(within, key=lambda item: -item[0].count(".")):  # what is inside others first
        memo[id(module)] = copied(module.plain(), memo)
    plain = copied(inner, memo)
    vars(plain).pop(_ATTRIBUTE)
    put_modules_(plain, {})  # what was rewritten traces itself at the next run
    return plain


def _asked(model: nn.Module, record: Capture, choices: Mapping[str, Options]) -> dict[str, Options]:
    """The options at each path, in the order of the model. Raises ValueError for a glob without a module, or two at
    one."""
    everywhere = [path for path, _ in model.named_modules() if path]
    called = {call.module for call in record.calls}
    found: dict[str, tuple[str, Options]] = {}
    for glob, options in choices.items():
        text("supernet: a key of choices", glob, "a glob on module paths")
        if not isinstance(options, Options):
            rule = "al.kernel(...), al.optional(), al.width(...) or al.either(...)"
            raise TypeError(wrong(f"supernet: the choice at {glob!r}", rule, options))
        meant = [path for path in everywhere if matches([path], glob)]
        if not meant:
            raise ValueError(f"supernet: {glob!r} matches no module; {closest(glob, everywhere)}")
        run = [path for path in meant if path in called]
        if not run:
            raise ValueError(
                f"supernet: the example calls no module that matches {glob!r}; {closest(glob, called - {''})}"
            )
        for path in run:
            if any(path.startswith(f"{other}.") for other in run):
                continue
            if path in found:
                raise ValueError(
                    f"supernet: {path} is matched by {found[path][0]!r} and by {glob!r}; give it one choice"
                )
            found[path] = glob, options
    return {path: found[path][1] for path in everywhere if path in found}


def _options_at(
    model: nn.Module, example: Any, record: Capture, position: Position, options: Options
) -> dict[Any, Modules]:
    """By option, the modules that are others then; with shared weights, one module in all of them."""
    if options.weights == "shared":
        return _shared_kernels(model, position)
    make = KINDS[options.kind]
    others = [option for option in options.values if option != position.original]
    return {position.original: {}} | {
        option: make(model, example, record, position.name, option, options.factories) for option in others
    }


def _shared_kernels(model: nn.Module, position: Position) -> dict[Any, Modules]:
    others = [size for size in position.options if size != position.original]
    for size in others:
        check_kernel(model, position.name, size)
    shared: Modules = {}
    for path, conv in kernel_convolutions(model, position.name).items():
        if type(conv) not in (nn.Conv1d, nn.Conv2d, nn.Conv3d):
            rule = "a convolution of torch's own classes for weights='shared'"
            raise ValueError(wrong(f"kernel: {path}", rule, type(conv), "use weights='own'"))
        shared[path] = SharedKernel(copied(conv), [position.original, *others])
    return dict.fromkeys([position.original, *others], shared)


def _assembled(model: nn.Module, options_at: Mapping[str, Mapping[Any, Modules]]) -> tuple[nn.Module, list[Place]]:
    """A copy of `model` with a module that chooses wherever an option changes something, and these places."""
    chooser: dict[str, tuple[str, dict[Any, int], list[nn.Module]]] = {}  # by path: position, indices, other modules
    for position, modules in options_at.items():
        for path in dict.fromkeys(path for new in modules.values() for path in new):
            if path in chooser:
                raise ValueError(
                    f"supernet: the choices at {chooser[path][0]} and at {position} both change {path}; leave out one"
                )
            distinct = list({id(new[path]): new[path] for new in modules.values() if path in new}.values())
            indices = {o: distinct.index(new[path]) + 1 if path in new else 0 for o, new in modules.items()}
            if isinstance(distinct[0], SharedKernel):
                indices = {size: distinct[0].sizes.index(size) for size in modules}
            chooser[path] = position, indices, distinct
    net = copied(model)
    for path in sorted(chooser, key=lambda path: -path.count(".")):  # what is inside others first
        position, _, others = chooser[path]
        shared = isinstance(others[0], SharedKernel)
        put_modules_(net, {path: others[0] if shared else Choice([net.get_submodule(path), *others])})
    inside = {path: [p for p in chooser if path.startswith(f"{p}.")] for path in chooser}

    def now_at(path: str) -> str:
        for outer in sorted(inside[path], key=len, reverse=True):
            path = f"{outer}.options.0{path.removeprefix(outer)}"
        return path

    places = [
        Place(now_at(path), chooser[path][0], chooser[path][1], tuple(now_at(outer) for outer in inside[path]))
        for path in sorted(chooser, key=lambda path: path.count("."))
    ]
    return net, places
