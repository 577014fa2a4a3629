"""Depth: the blocks of a Sequential or ModuleList repeated or dropped, to a given count."""

import copy
from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import nn

from ..arguments import choice, text, whole
from ..capture.copies import copied
from ..capture.example import Call, fresh, run_example, tensors_in, varied
from ..capture.record import Capture
from ..capture.recorder import capture
from ..discovery.find import find
from ..discovery.kinds import Kind
from ..discovery.site import Site
from ..rewrite.module_tree import renew_methods_, with_modules
from .checks import compared, finish, observe
from .recipe import Equality
from .switch_state import refuse_switched

MOST_BLOCKS = 10_000  # more cannot be meant: a copy, and a run, of each is made


def scale_depth(
    model: nn.Module, example: Any, *, span: str, count: int, init: Literal["fresh", "preserve"] = "fresh"
) -> nn.Module:
    """A copy of `model` with `count` blocks in the Sequential or ModuleList at `span`.

    Dropped blocks are the last ones. New ones follow the last and are made like it, with weights of their own.

    Args:
        model: any module without switches; it is left untouched.
        example: what runs it once.
        span: path of the container; "" is the model itself.
        count: how many blocks it is to have.
        init: "fresh", as the layers initialise themselves; "preserve", as identities, which leaves the output of the
            model bit for bit as it is: the last layer of each residual branch is zero (as in Fixup, Zhang et al. 2019,
            and Net2Net's deeper nets, Chen et al. 2016).

    Raises:
        ValueError: for a span that is no such container, a count that changes nothing or is below 1, blocks that the
            model does not call, and where blocks cannot start as identities.

    >>> scale_depth(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), torch.zeros(1, 4), span="", count=3)
    Sequential(
      (0): Linear(in_features=4, out_features=4, bias=True)
      (1): Linear(in_features=4, out_features=4, bias=True)
      (2): Linear(in_features=4, out_features=4, bias=True)
    )
    """
    refuse_switched(model)
    text("scale_depth: span", span, "the path of a Sequential or ModuleList")
    blocks = dict(model.named_modules()).get(span)
    if not isinstance(blocks, nn.Sequential | nn.ModuleList):
        there = [p for p, m in model.named_modules() if isinstance(m, nn.Sequential | nn.ModuleList) and len(m)]
        what = "no module of this model" if blocks is None else f"a {type(blocks).__name__}"
        raise ValueError(f"scale_depth: span={span!r} is {what}, not a Sequential or ModuleList: {', '.join(there)}")
    have = len(blocks)
    if not have:
        raise ValueError(f"scale_depth: {span!r} holds no block to drop or to repeat")
    whole("scale_depth: count", count, least=1, most=MOST_BLOCKS)
    if count == have:
        raise ValueError(f"scale_depth: count must be another than {have}, which {span!r} has; nothing would change")
    choice("scale_depth: init", init, ("fresh", "preserve"))
    record = capture(model, example)
    made = copied(model)
    grown = made.get_submodule(span)
    names = list(grown._modules)
    skipped: dict[str, str] = {}
    for name in names[count:]:
        del grown._modules[name]
    new = _names(names, count - have)
    if new:
        last = next((n for n in reversed(names) if any(True for _ in grown._modules[n].parameters())), names[-1])  # type: ignore[union-attr]
        path = f"{span}.{last}" if span else last
        block = copied(grown._modules[last])  # type: ignore[arg-type]
        if init == "preserve":
            skipped = {f"{path}.{name}": "new blocks begin with a copy of it" for name in _reset_(block, model)}
            _start_as_identity_(block, _call_of(model, path, varied(example)), path)
        else:
            same = _reset_(block, model)
            if same:
                raise ValueError(
                    f"scale_depth: {path}.{same[0]} would be a copy in the new blocks: its module has no "
                    "reset_parameters(), and the model no _init_weights(); init='preserve' does not ask for one"
                )
        for location, name in enumerate(new, have):
            grown.add_module(name, _numbered(_anew(block, model, init), names.index(last), location))
    renew_methods_(made)
    try:
        made = with_modules(made, {})
        after = capture(made, example)
    except (RuntimeError, IndexError, KeyError, AttributeError, TypeError) as error:
        raise ValueError(f"scale_depth: with {count} blocks in {span!r} the model does not run: {error}") from error
    prefix = f"{span}." if span else ""
    uncalled = [prefix + name for name in new if prefix + name not in after.reached()[0]]
    if uncalled:
        raise ValueError(
            f"scale_depth: {uncalled[0]} is not called: the code around {span!r} names the blocks it calls"
        )
    if after.output_shapes != record.output_shapes:
        raise ValueError(
            f"scale_depth: with {count} blocks the outputs have the shapes {after.output_shapes}, not "
            f"{record.output_shapes}"
        )
    equality, checked = Equality.NONE, "blocks were dropped" if count < have else "the new blocks are fresh"
    if new and init == "preserve":
        # In evaluation mode: dropout of the new blocks would draw other numbers.
        old, deep = (observe(copied(m).eval(), varied(example)) for m in (model, made))
        equality, checked = Equality.EXACT, f"equal within {compared(old, deep, allowed=0.0, what='deepened')}"
    changed = [prefix + name for name in new or names[count:]]
    return finish(
        made, model, name="scale_depth", options={"span": span, "count": count, "init": init}, before=record,
        after=after, equality=equality, checked=checked, found=[prefix + n for n in [*names, *new]], taken=changed,
        skipped=skipped,
    )  # fmt: skip


def _names(names: list[str], more: int) -> list[str]:
    """Names for so many new blocks behind those of `names`."""
    if names[-1].isdigit():
        return [str(int(names[-1]) + 1 + i) for i in range(more)]
    return [f"{names[-1]}_{i}" for i in range(2, 2 + more)]


def _anew(block: nn.Module, model: nn.Module, init: str) -> nn.Module:
    block = copy.deepcopy(block)
    if init == "fresh":
        _reset_(block, model)
    return block


def _numbered(block: nn.Module, old: int, new: int) -> nn.Module:
    """`block`, whose modules may keep its number in the stack (Hugging Face's cache asks for it), with its own."""
    for module in block.modules():
        if vars(module).get("layer_idx") == old:
            module.layer_idx = new  # type: ignore[assignment]
    return block


def _reset_(block: nn.Module, model: nn.Module) -> list[str]:
    """Initialise every layer of `block` anew, as the layers or the model do; the parameters that nothing does."""
    own = getattr(model, "_init_weights", None)
    unknown = []
    for path, module in block.named_modules():
        reset = getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)
        before = {name: p.detach().clone() for name, p in module._parameters.items() if p is not None}
        if callable(reset):
            reset()
        elif before and callable(own):
            own(module)
            same = [name for name, p in before.items() if p.dim() > 1 and torch.equal(p, getattr(module, name))]
            unknown += [f"{path}.{name}" if path else name for name in same]
        else:
            unknown += [f"{path}.{name}" if path else name for name in before]
    return unknown


class _Seen(Exception):
    pass


def _call_of(model: nn.Module, path: str, example: Any) -> Call:
    """The arguments that the module at `path` gets when `model` runs the example, as an example of its own."""
    probe = copied(model)
    seen: list[tuple[tuple, dict]] = []

    def note(module: nn.Module, args: tuple, kwargs: dict) -> None:
        seen.append((args, kwargs))
        raise _Seen

    probe.get_submodule(path).register_forward_pre_hook(note, with_kwargs=True)
    try:
        with torch.no_grad():
            run_example(probe, fresh(example))
    except _Seen:
        pass
    if not seen:
        raise ValueError(f"scale_depth: {path} is not called by the example")
    return Call(lambda module, *args, **kwargs: module(*args, **kwargs), *seen[0][0], **seen[0][1])


def _start_as_identity_(block: nn.Module, call: Call, path: str) -> None:
    """Set the last layer of each residual branch of `block` to zero, so that it hands its input on."""
    record = capture(block, call)
    adds = [site for site in find(record, modules=dict(block.named_modules())) if site.kind is Kind.BRANCH]
    held = dict(block.named_parameters())
    with torch.no_grad():
        for site in adds:
            for name in _ends(record, site):
                held[name].zero_()
        given = tensors_in((call.args, call.kwargs))[0].clone()
        out = tensors_in(run_example(copied(block).eval(), fresh(call)))
    if not adds or not out or out[0].shape != given.shape or not torch.equal(out[0], given):
        raise ValueError(
            f"scale_depth: a {type(block).__name__} like {path} cannot start as an identity: its "
            f"{len(adds)} residual branches do not all end in a layer that can be zero, or something follows them"
        )


def _ends(record: Capture, site: Site) -> Iterator[str]:
    """The parameters of the last layer on the way that the add at `site` drops."""
    target = site.target
    add = next(
        op
        for op in record.ops
        if op.execution.entry is target.entry and target.location in (op.location, op.location.every)
    )
    value = next(v for v in (add.inputs[k] for k in target.dropped) if v not in record.constants)
    while (op := record.producer.get(value)) is not None:
        if op.params:
            yield from (name for name in op.params if name in record.params)
            return
        data = [v for v in op.inputs if record.producer.get(v) is None or not _is_constant(record, v)]
        data = [v for v in data if v not in record.constants]
        if len(data) != 1:
            return
        (value,) = data


def _is_constant(record: Capture, value: int) -> bool:
    """Whether `value` is made of parameters alone, such as a reshaped scale."""
    op = record.producer.get(value)
    return op is not None and all(v in record.constants or _is_constant(record, v) for v in op.inputs)
