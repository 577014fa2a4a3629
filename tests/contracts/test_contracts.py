"""The contracts of the design, over every pass and every network of the zoo.

One `Case` is a network and the kinds that are switched in it; its switched and its thin model are
built once and shared by the tests of the case, which leave them as they are (they work on copies).
"""

import copy
import fnmatch
from collections import Counter
from collections.abc import Iterator
from functools import cached_property
from itertools import permutations
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

import archlab as al
from archlab.capture.example import moved, run_example, tensors_in
from studies.coverage.witness import overlooked, witness

from .zoo import ZOO, Entry
from .zoo_real import REAL

KINDS = ("activation", "skip", "branch", "block", "join", "gate", "concat")
TOGETHER = ("activation", "skip", "block")
applies = pytest.mark.applies  # see conftest.py


class Case:
    """One network with switches at all its sites of some kinds, and the same sites removed.

    `main` is one case of each network: what costs much and depends little on the kinds is tested there. Of a network
    that is not `cheap`, copies and other dtypes are tested there, too.
    """

    def __init__(self, entry: Entry, kinds: tuple[str, ...], *, main: bool, cheap: bool):
        self.entry, self.kinds, self.main, self.cheap = entry, kinds, main, cheap
        self.dtype = torch.float64 if entry.doubles else torch.float32
        self.tolerance = 1e-10 if entry.doubles else 1e-5

    @property
    def example(self) -> Any:
        return moved(self.entry.example(), dtype=self.dtype)

    @cached_property
    def never_run(self) -> nn.Module:
        return self.entry.build(self.dtype)

    @property
    def original(self) -> nn.Module:
        """Another one each time: some networks keep tensors of their last run."""
        return copy.deepcopy(self.never_run)

    @cached_property
    def given(self) -> nn.Module:
        """The very model that the passes are given; nothing else touches it."""
        return self.original

    @cached_property
    def before(self) -> dict[str, Any]:
        return fingerprint(self.given)

    @cached_property
    def soft(self) -> nn.Module:
        assert self.before
        return al.switch(self.given, self.example, kinds=self.kinds)

    @cached_property
    def thin(self) -> nn.Module:
        assert self.before
        return al.remove(self.given, self.example, kinds=self.kinds)

    @cached_property
    def sites(self) -> list:
        return [s for s in al.sites(self.original, self.example) if s.kind in self.kinds]

    def forget(self) -> None:
        for built in ("never_run", "given", "before", "soft", "thin", "sites"):
            self.__dict__.pop(built, None)


def _cases() -> Iterator[Any]:
    for name, entry in ZOO.items():
        present = [kind for kind in KINDS if entry.sites.get(kind, 0)]
        together = tuple(kind for kind in TOGETHER if kind in present)
        for kind in present:
            main = len(together) < 2 and kind == present[0]
            yield pytest.param(Case(entry, (kind,), main=main, cheap=True), id=f"{name}-{kind}")
        if len(together) > 1:
            yield pytest.param(Case(entry, together, main=True, cheap=True), id=f"{name}-together")
    for name, entry in REAL.items():
        linear = "vgg" in name or "densenet" in name  # no module of theirs keeps the shape of its input
        kinds = ("activation",) if linear else ("activation", "skip")
        yield pytest.param(Case(entry, kinds, main=True, cheap=False), id=f"{name}-together")
        if not linear:
            yield pytest.param(Case(entry, ("block",), main=False, cheap=False), id=f"{name}-block")


@pytest.fixture(scope="module", params=list(_cases()))
def case(request) -> Iterator[Case]:
    yield request.param
    request.param.forget()  # the next case needs the memory


@pytest.fixture(scope="module", params=[pytest.param(e, id=name) for name, e in (ZOO | REAL).items()])
def entry(request) -> Entry:
    return request.param


# --- helpers that assert ----------------------------------------------------------------------


def fingerprint(model: nn.Module) -> dict[str, Any]:
    """What a pass may not change in its input, by module and tensor name."""
    seen: dict[str, Any] = {}
    for path, module in model.named_modules():
        hooks = [len(v) for k, v in sorted(vars(module).items()) if k.endswith("_hooks")]
        seen[path] = (type(module), module.training, hooks, sorted(vars(module)))
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        seen["tensor " + name] = (id(tensor), tensor._version, tensor.requires_grad, tensor.grad is None)
    return seen


def storages(model: nn.Module) -> set[int]:
    tensors = [*model.parameters(), *model.buffers()]
    return {t.untyped_storage().data_ptr() for t in tensors if t.numel()}


def outputs(model: nn.Module, example: Any) -> list[Tensor]:
    torch.manual_seed(3)
    return tensors_in(run_example(copy.deepcopy(model), example))


def gradients(model: nn.Module, example: Any) -> dict[str, Tensor | None]:
    """Gradient of a fixed random projection of all outputs, by parameter."""
    net = copy.deepcopy(model)
    torch.manual_seed(3)
    generator = torch.Generator().manual_seed(5)
    made = [t for t in tensors_in(run_example(net, example)) if t.requires_grad]
    for t in made:
        t.backward(torch.randn(t.shape, generator=generator).to(t.dtype), retain_graph=True)
    return {name: p.grad for name, p in net.named_parameters()}


def assert_same(actual: list[Tensor], wanted: list[Tensor]) -> None:
    """Bit for bit where finite."""
    assert [t.shape for t in actual] == [t.shape for t in wanted]
    for i, (a, b) in enumerate(zip(actual, wanted, strict=True)):
        assert a.dtype == b.dtype
        same = torch.equal(a.nan_to_num(), b.nan_to_num())
        assert same, f"output {i} differs by up to {(a.double() - b.double()).abs().max():.3g}"


def assert_close(actual: list[Tensor], wanted: list[Tensor], relative: float) -> None:
    """Within `relative` of the largest finite value, tensor by tensor; the same places are not finite."""
    assert [t.shape for t in actual] == [t.shape for t in wanted]
    for i, (a, b) in enumerate(zip(actual, wanted, strict=True)):
        finite = b.isfinite()
        assert torch.equal(finite, a.isfinite()), f"output {i} is not finite in other places"
        if finite.any():
            difference = (a.double() - b.double())[finite].abs().max().item()
            scale = b.double()[finite].abs().max().item()
            assert difference <= relative * max(scale, 1e-12), f"output {i} differs by {difference:.3g} at {scale:.3g}"


def frozen_norms(model: nn.Module) -> nn.Module:
    """`model` with its batch norms in evaluation mode: a map of one pixel has no statistics of its own."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
    return model


def at_one(soft: nn.Module) -> nn.Module:
    decided = copy.deepcopy(soft)
    al.set_omegas_(decided, 1.0)
    return decided


def omega_names(model: nn.Module) -> list[str]:
    return [name for name, _ in model.named_parameters() if "omega" in name.rsplit(".", 1)[-1]]


# --- 1: the input is untouched, the output is its own ------------------------------------------


def test_1_the_input_is_untouched_and_shares_nothing(case):
    values = copy.deepcopy(case.given.state_dict())
    soft, thin = case.soft, case.thin
    assert fingerprint(case.given) == case.before
    for name, value in case.given.state_dict().items():
        assert torch.equal(value, values[name]), f"{name} has changed"
    for made in (soft, thin):
        assert not storages(made) & storages(case.given), "the output shares storage with the input"
        assert not any(m.training for m in made.modules()), "the mode has changed"


@applies(lambda case: case.main or case.cheap)
def test_1_discard_leaves_the_switched_model_as_it_is(case):
    decided = at_one(case.soft)
    before = fingerprint(decided)
    thin = al.discard(decided)
    assert fingerprint(decided) == before
    assert not storages(thin) & storages(decided)
    assert_same(outputs(thin, case.example), outputs(case.thin, case.example))


@applies(lambda case: case.main and case.entry.trains)
def test_1_a_model_in_training_stays_there(case):
    model = frozen_norms(case.original.train())
    before, modes = fingerprint(model), [m.training for m in model.modules()]
    soft = al.switch(model, case.example, kinds=case.kinds)
    assert fingerprint(model) == before
    assert [m.training for m in soft.modules()] == modes
    assert al.remove(model, case.example, kinds=case.kinds).training


# --- 2: at omega = 0 nothing has changed --------------------------------------------------------


@applies(lambda case, training: case.entry.trains or not training)
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_2_equal_at_zero(case, training):
    model, soft = case.original.train(training), copy.deepcopy(case.soft).train(training)
    if training:
        model, soft = frozen_norms(model), frozen_norms(soft)
    assert_same(outputs(soft, case.example), outputs(model, case.example))


def test_2_gradients_equal_at_zero(case):
    wanted, found = gradients(case.original, case.example), gradients(case.soft, case.example)
    for name, gradient in wanted.items():
        assert name in found, f"{name} is gone"
        if gradient is None:
            assert found[name] is None or not found[name].any(), f"{name} has a gradient now"
        else:
            assert found[name] is not None, f"{name} has lost its gradient"
            assert_close([found[name]], [gradient], 1e-9 if case.entry.doubles else 1e-4)


# --- 3: at omega = 1 the site is gone ------------------------------------------------------------


def test_3_equal_to_removed_at_one(case):
    assert_close(outputs(at_one(case.soft), case.example), outputs(case.thin, case.example), case.tolerance)


def test_3_removal_changes_the_output(case):
    changed = outputs(case.thin, case.example), outputs(case.original, case.example)
    assert not all(torch.equal(a, b) for a, b in zip(*changed, strict=True))


@applies(lambda case, precision: case.main and (case.entry.halves or precision != "bf16"))
@pytest.mark.parametrize("precision", ["fp32", "autocast", "bf16"])
def test_3_equal_to_removed_in_other_precisions(case, precision):
    entry, kinds = case.entry, case.kinds
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    example, model = moved(entry.example(), dtype=dtype), entry.build(dtype)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "autocast"):
        soft = al.switch(model, example, kinds=kinds)
        assert_same(outputs(soft, example), outputs(entry.build(dtype), example))
        decided = at_one(soft)
        wanted = outputs(al.discard(decided), example)
        assert_close(outputs(decided, example), wanted, 2 * 2**-7 if entry.rounds and precision != "fp32" else 1e-5)
    assert all(omega.dtype == torch.float32 for omega in al.omega_parameters(soft))


# --- 4: gradients, parameters, ops ---------------------------------------------------------------


def test_4_a_gradient_reaches_every_omega(case):
    net = copy.deepcopy(case.soft)
    made = [t for t in tensors_in(run_example(net, case.example)) if t.requires_grad]
    generator = torch.Generator().manual_seed(5)
    sum((t * torch.randn(t.shape, generator=generator).to(t.dtype)).sum() for t in made).backward()
    reachable = {site.id for site in case.sites if site.grad}
    for site, omega in zip(al.omegas(net)["site"], al.omega_parameters(net), strict=True):
        if site in reachable:
            assert omega.grad is not None and omega.grad.isfinite(), f"no gradient reaches the omega of {site}"


def test_4_every_parameter_name_is_accounted_for(case):
    before = set(dict(case.original.named_parameters()))
    soft = dict(case.soft.named_parameters())
    new = set(soft) - before
    assert before <= set(soft), f"lost by the switches: {before - set(soft)}"
    assert new == set(omega_names(case.soft)) and len(new) == len(al.omega_parameters(case.soft))
    assert set(dict(case.thin.named_parameters())) <= before, "a thin model has parameters of its own"
    assert not omega_names(case.thin)


def test_4_a_thin_model_has_no_dead_parameters_but_those_it_names(case):
    used = gradients(case.original, case.example)
    kept = gradients(case.thin, case.example)
    dead = {name for name, gradient in kept.items() if gradient is None and used[name] is not None}
    idle = set(al.recipe(case.thin).steps[-1].idle)
    assert dead <= idle, f"no output of the thin model depends on {sorted(dead - idle)}"
    assert all(kept[name] is None for name in idle), "named as idle, but an output depends on it"


def test_4_a_fresh_look_at_the_thin_model_finds_the_sites_gone(case):
    before, after = _ops(case.original, case.example), _ops(case.thin, case.example)
    for op in {s.op for s in case.sites}:
        gone = sum(s.calls for s in case.sites if s.op == op and s.grad and s.kind != "block")
        if op in before and gone:
            assert after[op] <= max(0, before[op] - gone), f"{before[op]} {op}, {gone} removed, {after[op]} left"
    taken = {s.id for s in case.sites}
    try:
        still = al.sites(case.thin, case.example)
    except ValueError:
        return
    for kind in case.kinds:
        count = sum(s.kind == kind for s in still)
        assert count == 0 or kind in ("block", "join"), f"{count} {kind} sites left of {len(taken)}"


def _ops(model: nn.Module, example: Any) -> Counter:
    return witness(copy.deepcopy(model), example)


# --- 5: what else is done to a model --------------------------------------------------------------


@applies(lambda case: case.main or case.cheap)
@pytest.mark.parametrize("made", ["soft", "thin"])
def test_5_copies_and_state_dicts(case, made):
    model = getattr(case, made)
    wanted = outputs(model, case.example)
    twin = copy.deepcopy(model)
    assert type(twin) is type(model)
    assert isinstance(twin, type(case.original)) or isinstance(case.original, fx.GraphModule)  # whose graph is void now
    with torch.no_grad():
        for p in twin.parameters():
            p.zero_()
    twin.load_state_dict(model.state_dict(), strict=True)
    assert not storages(twin) & storages(model)
    assert_same(outputs(twin, case.example), wanted)
    assert_same(outputs(twin.train().eval(), case.example), wanted)


@applies(lambda case: case.main or case.cheap)
@pytest.mark.parametrize("made", ["soft", "thin"])
def test_5_moves_to_another_dtype_and_format(case, made):
    model = copy.deepcopy(getattr(case, made)).to(torch.float32)
    example = moved(case.entry.example(), dtype=torch.float32)
    wanted = outputs(model, example)
    assert all(omega.is_leaf and omega.dtype == torch.float32 for omega in _omegas(model))
    if not case.entry.steady:
        return
    reference = outputs(getattr(case, made), case.example)
    assert_close([t.to(r.dtype) for t, r in zip(wanted, reference, strict=True)], reference, 1e-3)
    assert_close(outputs(model.to(memory_format=torch.channels_last), example), wanted, 1e-4)


def _omegas(model: nn.Module) -> list[nn.Parameter]:
    return [dict(model.named_parameters())[name] for name in omega_names(model)]


@applies(lambda case: case.main and case.entry.compiles)
@pytest.mark.parametrize("made", ["soft", "thin"])
def test_5_compiles_where_the_original_does(case, made):
    model = copy.deepcopy(getattr(case, made))
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    assert_close(tensors_in(run_example(compiled, case.example)), outputs(model, case.example), 1e-9)


@applies(lambda case: case.main and case.entry.exports)
@pytest.mark.parametrize("made", ["soft", "thin"])
def test_5_exports_where_the_original_does(case, made):
    model, example = copy.deepcopy(getattr(case, made)), case.example
    args = example if isinstance(example, tuple) else () if isinstance(example, dict) else (example,)
    kwargs = example if isinstance(example, dict) else {}
    exported = torch.export.export(model, args, kwargs).module()
    assert_close(tensors_in(exported(*args, **kwargs)), outputs(model, example), 1e-9)


# --- 6, 7, 8: what a pass says ---------------------------------------------------------------------


def test_6_the_step_states_what_was_checked(case):
    assert al.recipe(case.soft).steps[-1].checked
    step = al.recipe(case.thin).steps[-1]
    assert "equal to omega = 1" in step.checked, step.checked


@applies(lambda case: case.main)
def test_7_a_pattern_without_a_site_raises_and_names_the_sites(case):
    for act in (al.switch, al.remove):
        with pytest.raises(ValueError, match=r"no site|matches no") as error:
            act(case.original, case.example, kinds=case.kinds, where="no.such.module")
        assert case.sites[0].id in str(error.value) or len(list(al.sites(case.original, case.example))) > 12


@applies(lambda case: case.main)
def test_8_found_is_taken_or_left_with_a_reason(case):
    first = case.sites[0]
    thin = al.remove(case.original, case.example, kinds=case.kinds, where=lambda site: site.id == first.id)
    step = al.recipe(thin).steps[-1]
    assert set(step.found) == {s.id for s in case.sites}
    assert set(step.taken) == {first.id}
    assert set(step.skipped) == set(step.found) - set(step.taken)
    assert all(isinstance(why, str) and why for why in step.skipped.values())
    assert set(step.how) == set(step.taken)
    assert set(step.how.values()) <= {"local", "module", "intercepted", "bypassed"}
    assert step.before.keys() == step.after.keys() == {"params", "macs"}
    assert step.after["params"] == sum(p.numel() for p in thin.parameters()) <= step.before["params"]
    assert step.after["macs"] <= step.before["macs"]


@applies(lambda case: case.main)
def test_8_a_recipe_rebuilds_the_thin_model(case):
    text = al.recipe(case.thin).to_json()
    again = al.apply(type(al.recipe(case.thin)).from_json(text), case.original, case.example)
    assert_same(outputs(again, case.example), outputs(case.thin, case.example))
    step, wanted = al.recipe(again).steps[-1], al.recipe(case.thin).steps[-1]
    assert (step.taken, step.skipped, step.options) == (wanted.taken, wanted.skipped, wanted.options)


COMPOSED = [
    pytest.param(entry, *order, id=f"{name}-{order[0]}-{order[1]}")
    for name, entry in ZOO.items()
    for order in permutations([kind for kind in TOGETHER if entry.sites.get(kind, 0)], 2)
]


@pytest.mark.parametrize(("entry", "first", "second"), COMPOSED)
def test_8_passes_compose_and_their_recipe_replays_them(entry, first, second):
    dtype = torch.float64 if entry.doubles else torch.float32
    example = moved(entry.example(), dtype=dtype)
    once = al.remove(entry.build(dtype), example, kinds=first)
    if not any(site.kind == second for site in al.sites(once, example)):
        return  # they went with what was removed first
    twice = al.remove(once, example, kinds=second)
    together = al.remove(entry.build(dtype), example, kinds=(first, second))
    assert_close(outputs(twice, example), outputs(together, example), 1e-10 if entry.doubles else 1e-5)
    steps = al.recipe(twice).steps
    assert [step.name for step in steps] == ["discard", "discard"] and all(step.taken for step in steps)
    assert_same(outputs(al.apply(al.recipe(twice), entry.build(dtype), example), example), outputs(twice, example))


# --- 9: completeness against another witness ------------------------------------------------------


def test_9_the_autograd_graph_shows_nothing_else(entry):
    dtype = torch.float64 if entry.doubles else torch.float32
    sites = al.sites(entry.build(dtype), moved(entry.example(), dtype=dtype))
    seen = witness(entry.build(dtype), moved(entry.example(), dtype=dtype))
    missed = overlooked(seen, sites)
    assert not missed, f"in the autograd graph, but neither a site nor left with a reason: {dict(missed)}"


@applies(lambda entry: entry.sites)
def test_9_the_sites_are_those_counted_by_hand(entry):
    sites = al.sites(entry.build(), entry.example())
    counts = Counter(site.kind for site in sites)
    assert {kind: counts[kind] for kind in entry.sites} == entry.sites
    assert len({site.id for site in sites}) == len(sites), "two sites have one id"
    for site in sites:
        assert fnmatch.fnmatchcase(site.id, f"{site.path}/{site.kind}.*" if site.path else f"{site.kind}.*")
