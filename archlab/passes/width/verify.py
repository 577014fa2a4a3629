"""Whether channels were followed rightly: a narrowed or widened model against the whole one, on an example."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from ...capture.copies import copied
from ..checks import CLOSE, EXACT, compare, in_double
from .layers import EACH
from .resize import rewidthed, unread_


def mixed_channels(model: nn.Module, example: Any, layers: Mapping[str, Mapping[str, Any]]) -> str:
    """Whether the chosen channels do not belong together, which torch-pruning's indices do not always tell; empty where
    they do: the narrow network then is the whole one with the channels that go multiplied by zero, the wide one is it.

    Norms over channels are set to scale each channel by itself first, as they see other channels afterwards.
    """
    doubled = in_double(model, example)
    net, example = (copied(model), example) if doubled is None else doubled[:2]
    net.eval()
    for module in net.modules():
        if type(module) in EACH:
            module.__class__ = EACH[type(module)]
    whole = copied(net)
    with torch.no_grad():
        for name, sides in layers.items():
            if "in" in sides:
                unread_(whole.get_submodule(name), set(sides["in"]))
    try:
        narrow = rewidthed(net, example, layers, "preserve")
        difference = compare(whole, narrow, example)
    except (ValueError, RuntimeError) as error:
        return str(error).removeprefix("scale_width: ")
    allowed = EXACT if doubled is not None else 1e-3
    return (
        "" if difference <= allowed else f"the output differs by {difference:.2g} from that of the channels that stay"
    )


def preserved(model: nn.Module, new: nn.Module, example: Any, layers: dict[str, dict[str, Any]]) -> str:
    """How equal a widened model is, in evaluation mode. Raises ValueError where it is not."""
    doubled = in_double(model, example)
    pair = (copied(model).eval(), copied(new).eval()), example, CLOSE, "the model's own dtype"
    if doubled is not None:
        double, varied, _ = doubled
        pair = (double.eval(), rewidthed(double, varied, layers, "preserve").eval()), varied, EXACT, "float64"
    models, example, allowed, where = pair
    difference = compare(*models, example)
    if not difference <= allowed:
        raise ValueError(
            f"scale_width: init='preserve' cannot keep the function: with {', '.join(list(layers)[:6])} wider the "
            f"output differs by {difference:.2g} (a norm or a softmax over channels sees more of them); use another "
            "init, or where"
        )
    return f"equal within {difference:.2g} (relative) in {where}"
