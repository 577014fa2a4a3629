"""Rules for what computes with each element by itself or over dimensions; and the table of all rules."""

from .axes import Axis, Dims, fixed, piece
from .flow import Rule, Use
from .layer_rules import KEPT, LAYERS, together
from .move_rules import APART, MOVES, named


def elementwise(u: Use) -> list[Dims]:
    """Each element by itself, of one tensor or of several of one shape."""
    for tensor in u.given:
        u.copies(tensor)
    return [together(u, [u.dims(t) for t in u.given])] * len(u.made)


def like_first(u: Use) -> list[Dims]:
    """What it makes has the dimensions of its first tensor, whatever else it is given."""
    u.copies(u.given[0])
    return [u.dims(u.given[0])] * len(u.made)


def created(u: Use) -> list[Dims]:
    """Every element the same: as wide as needed, if the code asks for it by a size that changes."""
    return [[Axis(n) if n > 1 else fixed(1, KEPT) for n in t.shape] for t in u.made]


def over_positions(u: Use) -> list[Dims]:
    """Pooling, resampling: batch and channels stay, all behind are positions."""
    x = u.given[0]
    digit = next((int(c) for c in reversed(u.name) if c.isdigit()), 0)
    keep = x.dim() - digit if digit else 2
    u.freeze(u.dims(x)[keep:], KEPT)
    for other in u.given[1:]:
        u.freeze(u.dims(other), KEPT)
    return [[*u.dims(x)[:keep], *(fixed(n, KEPT) for n in t.shape[keep:])] for t in u.made]


def regions(u: Use) -> list[Dims]:
    """roi_align and its kin: patches of a map at given boxes."""
    x = u.given[0]
    u.freeze(u.dims(x)[2:], KEPT)
    return [[fixed(u.shape[0], KEPT), u.dims(x)[1], *(fixed(n, KEPT) for n in u.shape[2:])]]


def reduced(u: Use) -> list[Dims]:
    """A statistic over dimensions: mean, sum, largest value, norm."""
    x = u.given[0]
    if len(u.given) > 1:
        return elementwise(u)  # max and min of two tensors
    at = 2 if u.name in ("norm", "quantile", "renorm") else 1
    dim, keep = u.get(at, "dim", u.kwargs.get("axis")), u.get(at + 1, "keepdim", False)
    over = range(x.dim()) if dim is None or dim == () else [dim] if isinstance(dim, int) else list(dim)
    over = {d % x.dim() for d in over} if x.dim() else set()
    for d in over:
        if u.name in ("mean", "var", "std", "var_mean", "std_mean"):
            u.flow.uniform.append((u.dims(x)[d], f"is averaged over in {u.path}, which sees copies"))
        elif u.name not in ("amax", "amin", "max", "min", "any", "all"):
            u.flow.unpreservable.append((u.dims(x)[d], f"is summed over in {u.path}"))
    if u.name in ("argmax", "argmin"):
        u.freeze([u.dims(x)[d] for d in over], APART)
    whole = len(u.shape) == x.dim()
    made = [fixed(1, KEPT) if d in over else e for d, e in enumerate(u.dims(x)) if whole or keep or d not in over]
    return [made] * len(u.made)


def along(u: Use) -> list[Dims]:
    """A function of all positions of one dimension together: softmax, cumulated sums, sorting."""
    x, dim = u.given[0], u.get(1, "dim", -1)
    for d in [dim] if isinstance(dim, int) else range(x.dim()) if dim is None else dim:
        u.freeze([u.dims(x)[d]], f"goes through {u.name} in {u.path or 'the model itself'}, which sees all of them")
    return [[e if e.size == n else fixed(n, APART) for e, n in zip(u.dims(x), t.shape, strict=True)] for t in u.made]


def scaled_to_one(u: Use) -> list[Dims]:
    """F.normalize: any width will do, but copies change the norm."""
    x, dim = u.given[0], u.get(2, "dim", 1)
    u.flow.unpreservable.append((u.dims(x)[dim], f"is normalised over in {u.path}"))
    return [u.dims(x)]


def gated(u: Use) -> list[Dims]:
    """glu: one half gates the other."""
    x, dim = u.given[0], u.get(1, "dim", -1)
    dims = list(u.dims(x))
    half = dims[dim].size // 2
    first, second = piece(dims[dim], 0, half, u.why), piece(dims[dim], half, 2 * half, u.why)
    u.unify(first, second)
    dims[dim] = first
    return [dims]


def transformed(u: Use) -> list[Dims]:
    """A Fourier transform: over the last dimensions, or those given."""
    x = u.given[0]
    dim = u.get(2, "dim", (-2, -1) if u.name.endswith("2") else -1)
    over = {d % x.dim() for d in ([dim] if isinstance(dim, int) else dim or range(x.dim()))}
    u.freeze([u.dims(x)[d] for d in over])
    return [[fixed(u.shape[d], KEPT) if d in over else e for d, e in enumerate(u.dims(x))]]


ELEMENTWISE = """
    add sub rsub mul div true_divide floor_divide pow radd rmul rdiv rtruediv truediv rpow iadd isub imul
    itruediv idiv floordiv mod fmod remainder neg pos abs exp log log2 log1p expm1 sqrt rsqrt square reciprocal
    sin cos tan tanh sigmoid relu relu6 gelu silu elu selu celu leaky_relu hardtanh hardswish hardsigmoid
    softplus softsign mish logsigmoid hardshrink softshrink tanhshrink threshold rrelu erf erfc clamp clip
    clamp_min clamp_max floor ceil round sign where masked_fill lerp addcmul addcdiv maximum minimum fmax fmin
    atan2 logaddexp eq ne lt le gt ge and or xor rand ror rxor invert not logical_not logical_and logical_or
    bitwise_and bitwise_or bitwise_not isnan isinf nan_to_num dropout dropout1d dropout2d dropout3d
    alpha_dropout feature_alpha_dropout feature_dropout copy float double half bfloat16 long int bool type
    contiguous clone detach requires_grad fill zero bernoulli uniform normal weight_norm real imag conj angle
    complex polar sinc logit special_expm1 mse_loss l1_loss smooth_l1_loss data
"""
RULES: dict[str, Rule] = {
    **named(ELEMENTWISE, elementwise),
    **named("to type_as tril triu zeros_like ones_like empty_like full_like rand_like randn_like", like_first),
    **named("zeros ones empty full new_zeros new_ones new_empty new_full", created),
    **named(
        "max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d "
        "adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d lp_pool1d lp_pool2d "
        "boolean_dispatch interpolate upsample grid_sample _max_pool2d max_pool2d_with_indices",
        over_positions,
    ),
    **named(
        "mean sum var std var_mean std_mean amax amin max min norm logsumexp prod any all argmax argmin nansum nanmean",
        reduced,
    ),
    **named("softmax log_softmax softmin cumsum cumprod sort topk gumbel_softmax flip logcumsumexp", along),
    **named("roi_align roi_pool", regions),
    **named("normalize", scaled_to_one),
    **named("glu", gated),
    **named("fft ifft rfft irfft hfft fft2 ifft2 rfft2 irfft2 fftn ifftn fft_fft fft_ifft fft_rfft fft_irfft fft_fft2 "
             "fft_ifft2 fft_rfft2 fft_irfft2", transformed),
    **MOVES,
    **LAYERS,
}  # fmt: skip
