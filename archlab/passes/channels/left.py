"""What is left of activations that work on some of their channels alone, as recipes hold it."""

from collections.abc import Iterable, Mapping
from typing import Any, TypedDict

import torch
from torch import Tensor

from ...arguments import wrong
from ...discovery.kinds import Kind
from ...discovery.site import Site
from .dims import told


class Channels(TypedDict):
    """What is left of a site that goes in part, as a recipe holds it: its positions `kept` along the dimension `dim`,
    which is counted from the last: -3 of an image."""

    dim: int
    kept: list[int]


def checked_dims(name: str, dims: Any, taken: Iterable[Site]) -> dict[str, int]:
    """What a recipe says of the dimensions of channels. Raises ValueError for what does not fit these sites."""
    sites = {site.id: site for site in taken}
    if not isinstance(dims, Mapping):
        raise TypeError(wrong(name, "a dict of dimensions by site", dims))
    for site, dim in dims.items():
        if site not in sites or sites[site].kind is not Kind.ACTIVATION:
            raise ValueError(wrong(name, "a dict of dimensions by activation that is taken", site))
        if type(dim) is not int or not -len(sites[site].shape) <= dim < 0:
            raise ValueError(
                wrong(f"{name} of {site}", f"a dimension of its {told(sites[site].shape)}, from -1 down", dim)
            )
    return dict(dims)


def checked_channels(site: Site, value: Any) -> Channels:
    """What a recipe says is left of a site. Raises ValueError for what does not fit it."""
    name = f"discard: channels of {site.id}"
    if not (isinstance(value, Mapping) and set(value) == {"dim", "kept"}):
        raise ValueError(wrong(name, "an object of dim and kept", value))
    (dim,) = checked_dims(name, {site.id: value["dim"]}, [site]).values()
    kept, size = value["kept"], site.shape[dim]
    right = isinstance(kept, list) and all(type(n) is int and 0 <= n < size for n in kept)
    if not (right and 0 < len(kept) < size and kept == sorted(set(kept))):
        raise ValueError(wrong(f"{name}: kept", f"some of its {size} channels, in their order", kept))
    return {"dim": dim, "kept": kept}


def omegas_of(sites: Iterable[Site], name: str, left: Channels) -> Tensor:
    """The omegas of the site of this name with which it works on the channels that are `left` of it alone."""
    size = next(site.shape[left["dim"]] for site in sites if site.id == name)
    return torch.ones(size).index_fill(0, torch.tensor(left["kept"]), 0.0)
