"""One recorded run of a model: which op ran where, on which values, inside which module call.

Everything archlab knows about a network it knows from this record, never from class names. A run
works for any Python control flow, is one forward pass long and sees functional ops as well as
modules. What a scripted or traced part runs is recorded by the ops of aten that it issues.

Where an op or a module call was issued is said by `location`; the module whose method it is part of
is its *container*. What is recorded is in `record`.
"""

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.fx
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from .copies import devices_of, structural_copy
from .example import Call, fresh, moved, run_example, tensors_in
from .frames import asks_for_a_model, defines, is_module_call, is_of_switch, is_plumbing, method_called
from .functions import applied_by, function_of
from .location import ORIGINS, Location, call_stack, model_frames
from .macs.attention import inside_of
from .macs.counter import Counter, macs_as_a_whole
from .macs.recurrent import on_meta
from .misfit import misfits_told, refuse_half_without_data
from .modes import failed_in, no_fused_layers, random_states_kept, under_autocast
from .record import Capture, Execution, ModuleCall, Op, Stopped, Watch
from .values import Values, version_of

# Calls and properties that mostly ask a tensor something; they are most of what a mode sees.
_QUESTIONS = frozenset({"__get__", "size", "dim", "numel", "stride", "is_floating_point", "is_complex", "element_size"})
_OF_KIND = frozenset({"dim", "ndim", "is_floating_point", "is_complex", "element_size", "dtype", "device", "is_cuda",
                      "requires_grad", "layout", "is_meta", "names", "grad", "grad_fn", "is_leaf"})  # fmt: skip
# Whether a function of this name works in place.
_INPLACE = re.compile(r".*[^_]_").fullmatch
# What torch keeps on a module.
_TABLES = frozenset(vars(nn.Module()))
# The location and origin of code that archlab generated for no op of the original.
_GENERATED = (None, (None, "<archlab>", None))


def capture(model: nn.Module, example: Any, watch: Watch | None = None) -> Capture:
    """Run `example` once and record it. `model`, its buffers and the random state are left as they were.

    `watch` is called after each op, with what it was given and made: tensors are not kept in the record.
    """
    with torch.inference_mode(False):  # in which no tensor tells how often it was changed in place
        probe = structural_copy(model)
        refuse_half_without_data(probe, example)
        with random_states_kept(devices_of(probe)):
            return _record(probe, example, watch)


def capture_meta(model: nn.Module, example: Any, watch: Watch | None = None) -> Capture:
    """As `capture`, on the meta device: shapes only, no arithmetic and no memory.

    Raises whatever the model raises there: data-dependent control flow cannot run without data.
    """
    with torch.inference_mode(False), random_states_kept(()):
        return _record(structural_copy(model, "meta"), moved(example, device="meta"), watch)


def _record(probe: nn.Module, example: Any, watch: Watch | None) -> Capture:
    recorder = _Recorder(probe, watch)
    used = fresh(example)
    given = (used.args, used.kwargs) if isinstance(used, Call) else used
    try:
        with ExitStack() as stack:
            inputs = recorder.values_of(given)
            stack.enter_context(no_fused_layers())
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))  # the same ops on every device
            stack.enter_context(torch.enable_grad())
            stack.enter_context(recorder.module_calls())
            stack.enter_context(applied_by(recorder.apply_function))
            stack.enter_context(recorder.counter)
            stack.enter_context(recorder)
            output = run_example(probe, used)
    except Stopped:
        raise
    except (Exception, SystemExit) as error:
        if isinstance(error, Exception) and _runs_by_itself(probe, example):
            told = str(error).strip().split("\n")[0]
            raise TypeError(
                f"{failed_in(error)} runs by itself, but not in the modes of torch in which archlab records a run "
                f"({type(error).__name__}: {told}): record it with what it calls there in plain functions of torch"
            ) from error
        with misfits_told(probe, example, "archlab ran the model once"):
            raise
    recorder.note_what_is_held(given)
    return Capture(
        ops=recorder.ops,
        calls=recorder.calls,
        inputs=inputs,
        outputs=recorder.values_of(output),
        output_shapes=tuple(tuple(t.shape) for t in tensors_in(output)),
        constants=recorder.constants,
        producer=recorder.producer,
        params={name: p.numel() for name, p in probe.named_parameters()},
        param_bytes=sum(p.numel() * p.element_size() for p in probe.parameters()),
        buffer_bytes=sum(b.numel() * b.element_size() for b in probe.buffers()),
        storage=recorder.storage,
        storage_bytes=recorder.storage_bytes,
        asked=recorder.asked,
        spared=recorder.spared,
    )


def _runs_by_itself(model: nn.Module, example: Any) -> bool:
    """Whether `model`, which failed while it was recorded, runs when it is not."""
    try:
        with torch.no_grad():
            run_example(model, fresh(example))
    except Exception:  # whatever the model raises
        return False
    return True


class _Recorder(Values, TorchFunctionMode):
    """Sees every call of a torch function while it is active, and every module call by global hooks."""

    def __init__(self, model: nn.Module, watch: Watch | None):
        Values.__init__(self, model)
        TorchFunctionMode.__init__(self)
        self.counter, self.watch = Counter(self.issue), watch
        self.paths = {id(module): path for path, module in model.named_modules()}
        self.methods = {path: method_called(module) for path, module in model.named_modules()}
        self.model = model  # keeps the ids in `paths` valid
        self.ops: list[Op] = []
        self.calls: list[ModuleCall] = []
        self.stack: list[ModuleCall] = []
        self.inside_op = False
        self.left: dict[str, ModuleCall] = {}  # path -> the call of the module there that ended last
        self.executions: list[dict[Any, Execution]] = [{}]  # per running module call, by entry frame
        self.asked: set[int] = set()
        self.spared: set[int] = set()

    # locations

    def _entry(self, frames: list) -> tuple[Any, str, str]:
        """Entry frame, module path and method of the container that `frames` (innermost first) work for.

        It is the innermost module one of whose methods is running; its entry is the outermost of
        these methods: the one that a call runs when it was called, else the method entered directly.
        """
        entry, owner = None, None
        for frame in frames:
            module = self._method_of(frame)
            if module is None:
                continue
            if owner is not None and module is not owner:
                break
            owner, entry = module, frame
        top = self.stack[-1].module if self.stack else None
        if top is not None and (owner is None or self.paths[id(owner)] == top):
            return frames[-1], top, self.methods[top]
        if entry is not None:
            return entry, self.paths[id(owner)], entry.f_code.co_name
        return frames[-1], "", "<outside>"

    def _method_of(self, frame: Any) -> nn.Module | None:
        """The module of this model whose method `frame` runs."""
        code = frame.f_code
        if not code.co_argcount:
            return None
        first = frame.f_locals.get(code.co_varnames[0])
        if not isinstance(first, nn.Module) or id(first) not in self.paths:
            return None
        return first if defines(type(first), code) else None

    def locate(self, frame: Any) -> tuple[Execution, Location]:
        frames = model_frames(frame, lambda f: is_module_call(f) or f.f_code is run_example.__code__)
        running = self.executions[-1]
        if not frames:  # an op issued by torch itself around a module call
            top = self.stack[-1].module if self.stack else ""
            return running.setdefault(None, Execution(top, "<torch>", None)), Location((), 0)
        if frames[0].f_code in ORIGINS:
            return self._original(frames[0])
        if is_of_switch(frame):  # of an op that is intercepted
            top = self.stack[-1].module if self.stack else ""
            return running.setdefault("<archlab>", Execution(top, "<archlab>", None)), Location((), 0)
        entry, path, method = self._entry(frames)
        method = self._foreign(frames[-1]) or method
        execution = running.setdefault(entry, Execution(path, method, entry.f_code))
        stack = call_stack(frames, entry)
        occurrence = execution.occurrences[stack] = execution.occurrences.get(stack, -1) + 1
        return execution, Location(stack, occurrence)

    def _foreign(self, frame: Any) -> str:
        """What `frame`, which a module call began, runs where that is no code of the module that is running: a hook of
        one whose own code has ended, or a module that is no part of the model."""
        while frame is not None and not is_module_call(frame):
            frame = frame.f_back
        if frame is None or not self.stack:
            return ""
        path = self.paths.get(id(frame.f_locals["self"]))
        return "<unregistered>" if path is None else "" if path == self.stack[-1].module else "<hook>"

    def _original(self, frame: Any) -> tuple[Execution, Location]:
        location, (path, method, entry) = ORIGINS[frame.f_code].get(frame.f_lineno, _GENERATED)
        path = path if path is not None else self.stack[-1].module if self.stack else ""
        running = self.executions[-1].setdefault((frame, method), Execution(path, method, entry))
        return running, location or Location((), 0)

    # ops

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if self.inside_op:
            return func(*args, **kwargs)
        # 1. A question, whose answer is no tensor, is noted and is no op.
        name = getattr(func, "__name__", "")
        if name in _QUESTIONS:
            answer = self._whole(func, args, kwargs)
            if not isinstance(answer, Tensor):
                self._note_question(getattr(func, "__self__", func), args, sys._getframe(1))
                return answer
        return self._recorded(func, func, args, kwargs, sys._getframe(1))

    def _whole(self, call: Callable, args: tuple, kwargs: dict) -> Any:
        """The result of ``call(*args, **kwargs)``: what runs inside is no op of its own."""
        self.inside_op = True
        try:
            return call(*args, **kwargs)
        finally:
            self.inside_op = False

    def _recorded(
        self, func: Callable, call: Callable, args: tuple, kwargs: dict, frame: Any, scripted: bool = False
    ) -> Any:
        """The result of ``call(*args, **kwargs)``, issued at `frame`; noted as an op of the function `func`."""
        # 2. The call itself, with what it was given noted before: it may change that in place.
        given = tensors_in((args, kwargs))
        versions = [version_of(t) for t in given]
        inputs = tuple(self.value_of(t) for t in given)
        shapes = tuple(tuple(t.shape) for t in given)
        function, macs, uncounted = function_of(func), self.counter.macs, len(self.counter.uncounted)
        result = self._whole(on_meta(function, args) or call, args, kwargs)
        # 3. What it made and changed. A call that did neither was a question after all, or handed its input through.
        made = tensors_in(result)
        changed = [t for t, v in zip(given, versions, strict=True) if version_of(t) != v]
        if not changed and _INPLACE(getattr(function, "__name__", "")):
            changed = [t for t in made if t.is_inference()]  # these have no version
        if not made and not changed:
            self._note_question(func, args, frame)
            return result
        if made and not changed and all(any(m is g for g in given) for m in made):
            if "dropout" in getattr(function, "__name__", "") and kwargs.get("p", (*args, None, None)[1]) != 0:
                self.spared.update(inputs)
            self.locate(frame)  # whoever edits the code meets this call, too
            return result  # handed through: .to() of the same device, .contiguous() of a contiguous tensor
        # 4. The op: where it was issued, what it read, and new numbers for what it wrote.
        execution, location = self.locate(frame)
        if scripted:  # wherever its Python frames are: those of a module, of a function, or none
            key = "<scripted>", execution.module
            execution = self.executions[-1].setdefault(key, Execution(execution.module, "<scripted>", None))
        op = Op(len(self.ops), function, execution, location, self.stack[-1] if self.stack else None)
        op.inputs, op.in_shapes, op.in_dtypes = inputs, shapes, tuple(t.dtype for t in given)
        op.names = tuple(map(self.constants.get, inputs))
        op.options = {k: v for k, v in kwargs.items() if not tensors_in(v)}
        op.positional = tuple(None if isinstance(a, Tensor) else a for a in args)
        whole = macs_as_a_whole(function, result, args, kwargs)
        op.macs = self.counter.macs - macs if whole is None else whole
        op.uncounted = tuple(self.counter.uncounted[uncounted:]) if whole is None else ()
        op.inside, op.scripted = inside_of(function, args, kwargs), scripted
        written = made or changed
        op.grad = torch.is_grad_enabled() and op.name not in ("detach", "detach_", "__set__")
        op.autocast = under_autocast(written[0])
        op.mutated = tuple(self.values[t] for t in changed)
        for tensor in changed:
            self.renumber_aliases(tensor, op)
        for tensor in made:
            if not any(tensor is c for c in changed):
                self.producer[self.number(tensor)] = op
        op.outputs = tuple(self.values[t] for t in written)
        op.out_shapes = tuple(tuple(t.shape) for t in written)
        op.elements = sum((t.values() if t.layout is torch.jagged else t).numel() for t in written)
        op.dtype = written[0].dtype
        read = {self.storage.get(v) for v in inputs} - {None}
        op.view = not changed and any(self.storage.get(v) in read for v in op.outputs)
        self.ops.append(op)
        if self.watch is not None:
            self._whole(self.watch, (op, args, kwargs, result), {})  # what a watcher computes is no op
        return result

    def apply_function(self, apply: Callable, args: tuple, kwargs: dict) -> Any:
        """A custom autograd function, as one op: what runs inside is not recorded."""
        if self.inside_op:
            return apply(*args, **kwargs)
        return self._recorded(apply, apply, args, kwargs, sys._getframe(1))

    def issue(self, op: Callable, call: Callable, args: tuple, kwargs: dict) -> Any:
        """An op of aten: part of a function that runs, or else of a scripted part, of which no more is seen."""
        if self.inside_op:
            return call(*args, **kwargs)
        return self._recorded(op, call, args, kwargs, sys._getframe(1), scripted=True)

    def _note_question(self, func: Any, args: tuple, frame: Any) -> None:
        """The model's own code asked a tensor for more than its kind: its shape, or what it holds."""
        if getattr(func, "__name__", "") not in _OF_KIND and asks_for_a_model(frame):
            self.asked |= {value for t in args if isinstance(t, Tensor) and (value := self.values.get(t)) is not None}

    def note_what_is_held(self, given: Any) -> None:
        """What the model's code has put on a module (``self.features = h``) or into what it was given
        (``features.append(h)``), somebody may look at afterwards."""
        held = [given, *(v for m in self.model.modules() for name, v in vars(m).items() if name not in _TABLES)]
        numbers = (self.values.get(tensor) for value in held for tensor in tensors_in(value))
        self.asked |= {number for number in numbers if number is not None and number in self.producer}

    # module calls

    @contextmanager
    def module_calls(self) -> Iterator[None]:
        """Global hooks, so that the model's own hook tables stay as they are."""
        hooks = nn.modules.module
        handles = [
            hooks.register_module_forward_pre_hook(self._enter),  # type: ignore[attr-defined]
            hooks.register_module_forward_hook(self._leave, with_kwargs=True),  # type: ignore[attr-defined]
        ]
        for module in self.model.modules():  # global hooks run before its own, which may change what it gets and gives
            if module._forward_pre_hooks:
                handles.append(module.register_forward_pre_hook(self._prepared))
            if module._forward_hooks:
                handles.append(module.register_forward_hook(self._returned))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
                # torch forgets to, and every module call then takes the slow path (seen in torch 2.14)
                hooks._global_forward_hooks_with_kwargs.pop(handle.id, None)

    def _enter(self, module: nn.Module, args: tuple) -> None:
        path = self.paths.get(id(module))
        if path is None:
            return
        frame = sys._getframe(1)
        while frame is not None and frame.f_code.co_filename == nn.modules.module.__file__:
            frame = frame.f_back
        execution, location = None, None
        if self.stack or frame is None or not is_plumbing(frame):
            execution, location = self.locate(frame)
        call = ModuleCall(path, execution, location, self.stack[-1] if self.stack else None, len(self.ops))
        call.scripted = isinstance(module, torch.jit.ScriptModule)
        call.hooked = bool(module._backward_hooks or module._backward_pre_hooks)  # what these do is not seen here
        given = tensors_in(args)
        call.inputs = tuple(self.value_of(t) for t in given)
        call.in_shapes = tuple(tuple(t.shape) for t in given)
        call.dtypes = (given[0].dtype if given else None, None)
        self.calls.append(call)
        self.stack.append(call)
        self.executions.append({})

    def _leave(self, module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
        path = self.paths.get(id(module))
        if path is None:
            return
        call = self.stack.pop()
        self.executions.pop()
        call.last = len(self.ops)
        before = call.inputs
        now = self.values_of(args)
        extra = [t for t in tensors_in(kwargs)]
        call.inputs = before + tuple(self.value_of(t) for t in extra)
        call.in_shapes += tuple(tuple(t.shape) for t in extra)
        if call.dtypes[0] is None and extra:
            call.dtypes = (extra[0].dtype, None)
        changed_inside = any(self.producer[v].index >= call.first for v in call.inputs if v in self.producer)
        changed = now != before and not call.hooked  # of a keyword only the value it has now is known
        call.mutates_input = changed or changed_inside
        first = next(iter(tensors_in((args, kwargs))), None)
        call.direct = any(first is given for given in (*args, *kwargs.values()))
        call.returns_input = isinstance(output, Tensor) and output is first
        self._note_output(call, output)
        self.left[path] = call

    def _note_output(self, call: ModuleCall, output: Any) -> None:
        made = tensors_in(output)
        call.outputs = tuple(self.value_of(t) for t in made)
        call.out_shapes = tuple(tuple(t.shape) for t in made)
        call.dtypes = (call.dtypes[0], made[0].dtype if made else None)
        call.tensor_out = isinstance(output, Tensor)

    def _prepared(self, module: nn.Module, args: tuple) -> None:
        """After the pre-hooks of `module`."""
        call = self.stack[-1]
        call.hooked |= bool(module._forward_pre_hooks_with_kwargs) or self.values_of(args) != call.inputs

    def _returned(self, module: nn.Module, args: tuple, output: Any) -> None:
        """After the hooks of `module`."""
        call = self.left[self.paths[id(module)]]
        if self.values_of(output) != call.outputs:
            call.hooked = True
            self._note_output(call, output)
