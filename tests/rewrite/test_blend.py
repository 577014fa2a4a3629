"""The arithmetic of a switch: exact at both ends, right in between, in any dtype."""

import pytest
import torch
import torch.nn.functional as F

from archlab.rewrite.blend import blend, damp


def damped(a, b, w, drop):
    """``a + b`` as a switch runs it, with operand number `drop` damped."""
    return damp(a, w) + b if drop == 0 else a + damp(b, w)


DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def leaf(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Values of both signs, zeros among them."""
    x = torch.randn(*shape, dtype=torch.float64)
    x[..., :1] = 0
    return x.to(dtype).requires_grad_()


def omega(value: float) -> torch.Tensor:
    return torch.tensor(value, requires_grad=True)


def gradients(result: torch.Tensor, *of: torch.Tensor) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(1)
    return torch.autograd.grad(result, of, torch.randn(result.shape, generator=generator).to(result.dtype))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("value", [0.0, 1.0])
@pytest.mark.parametrize("act", [F.relu, F.gelu, torch.tanh])
def test_blend_is_the_original_at_0_and_the_target_at_1(act, value, dtype):
    x = leaf(3, 5, 7, dtype=dtype)
    wanted = act(x) if value == 0 else x * 1
    result = blend(act(x), x, omega(value))
    assert result.dtype == dtype
    assert torch.equal(result, wanted)
    assert torch.equal(*gradients(result, x), *gradients(wanted, x))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("value", [0.0, 1.0])
@pytest.mark.parametrize("drop", [0, 1])
def test_damp_is_the_sum_at_0_and_what_is_kept_at_1(drop, value, dtype):
    operands = leaf(3, 5, dtype=dtype), leaf(3, 5, dtype=dtype)
    result = damped(*operands, omega(value), drop)
    assert result.dtype == dtype
    assert torch.equal(result, sum(operands) if value == 0 else operands[1 - drop])
    wanted, found = gradients(sum(operands), *operands), gradients(result, *operands)
    assert torch.equal(found[1 - drop], wanted[1 - drop])
    assert torch.equal(found[drop], wanted[drop] * (1 - value))


@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
def test_gradients_are_those_of_the_formula(value):
    x, other, w = leaf(4, 6, dtype=torch.float64), leaf(4, 6, dtype=torch.float64), omega(value)
    (of_blend,) = gradients(blend(other, x, w), w)
    (of_damp,) = gradients(damped(x, other, w, 1), w)
    grad = torch.randn(4, 6, generator=torch.Generator().manual_seed(1)).double()
    torch.testing.assert_close(of_blend.double(), (grad * (x - other)).sum(), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(of_damp.double(), -(grad * other).sum(), rtol=1e-6, atol=1e-6)
    assert of_blend.dtype == of_damp.dtype == torch.float32 and of_blend.shape == of_damp.shape == ()


def test_second_derivatives_are_right():
    x, w = leaf(3, 4, dtype=torch.float64), torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    for function in (lambda x, w: blend(torch.tanh(x), x, w), lambda x, w: damped(x, torch.tanh(x), w, 1)):
        assert torch.autograd.gradgradcheck(function, (x, w))


def test_a_relu_blended_equals_prelu():
    x = leaf(2, 3, 4, 4)
    torch.testing.assert_close(blend(F.relu(x), x, omega(0.25)), F.prelu(x, torch.tensor([0.25])))


@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
def test_a_frozen_omega_is_a_number(value):
    x, y = leaf(3, 4), leaf(3, 4)
    assert torch.equal(blend(y, x, value), blend(y, x, omega(value)))
    assert torch.equal(damp(y, value), damp(y, omega(value)))


def test_the_blend_has_the_dtype_of_the_original():
    original, target = leaf(3, 4, dtype=torch.bfloat16), leaf(3, 4)
    assert blend(original, target, omega(0.5)).dtype == torch.bfloat16
    assert blend(target, original, omega(0.5)).dtype == torch.float32


@pytest.mark.parametrize("low", [0, 1])
@pytest.mark.parametrize("drop", [0, 1])
def test_damp_promotes_as_the_add_did(drop, low):
    """Under autocast one operand of a skip may be bfloat16 and the other float32."""
    operands = [leaf(3, 4), leaf(3, 4)]
    operands[low] = operands[low].detach().bfloat16().requires_grad_()
    result = damped(*operands, omega(0.0), drop)
    assert result.dtype == torch.float32
    assert torch.equal(result, operands[0] + operands[1])
    assert [g.dtype for g in gradients(result, *operands)] == [t.dtype for t in operands]


def test_under_autocast():
    layer, x, w = torch.nn.Linear(4, 4), leaf(2, 4), omega(0.5)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
        blended, total = blend(F.relu(y), y, w), damped(y, x, w, 1)
    assert (blended.dtype, total.dtype) == (torch.bfloat16, torch.float32)
    (blended.float().sum() + total.sum()).backward()
    assert w.grad.dtype == torch.float32 and w.grad.isfinite()


@pytest.mark.parametrize("function", [lambda x, w: blend(F.relu(x), x, w), lambda x, w: damped(x, F.relu(x), w, 0)])
def test_compiles_in_one_graph_and_exports(function):
    x, w = leaf(3, 4), omega(0.3)
    torch._dynamo.reset()
    compiled = torch.compile(function, fullgraph=True, backend="eager")
    assert torch.equal(compiled(x, w), function(x, w))
    for found, wanted in zip(gradients(compiled(x, w), x, w), gradients(function(x, w), x, w), strict=True):
        assert torch.equal(found, wanted)

    class Holds(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.omega = torch.nn.Parameter(w.detach().clone())

        def forward(self, x):
            return function(x, self.omega)

    exported = torch.export.export(Holds(), (x.detach(),)).module()
    assert torch.equal(exported(x.detach()), function(x, w))


@pytest.mark.parametrize("drop", [0, 1])
def test_the_memory_format_is_that_of_the_first_operand(drop):
    a = torch.randn(2, 4, 5, 5).to(memory_format=torch.channels_last)
    b = torch.randn(2, 4, 5, 5)
    for first, second in ((a, b), (b, a)):
        assert damped(first, second, omega(0.5), drop).stride() == (first + second).stride()
    assert blend(F.relu(a), a, omega(0.5)).stride() == a.stride()
