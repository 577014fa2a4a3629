"""What a model is made of, and what becomes of that in a copy and in a file."""

import threading
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import archlab as al

from .judge import Calls, equal


class Extra(nn.Linear):
    """Its state dict holds something else than tensors."""

    def __init__(self):
        super().__init__(4, 4)
        self.n = 3

    def forward(self, input: Tensor) -> Tensor:
        return F.relu(super().forward(input))

    def get_extra_state(self) -> Any:
        return {"n": self.n}

    def set_extra_state(self, state: Any) -> None:
        self.n = state["n"]


def saved_extra_state() -> str:
    """14. Saving a model whose state dict holds something else than tensors."""
    make, x = lambda: nn.Sequential(Extra(), Extra()), torch.randn(2, 4)
    thin = al.remove(make(), x, kinds="activation", where="0*")
    return _saved_and_loaded(thin, make, x)


def _saved_and_loaded(thin: nn.Module, make: Callable[[], nn.Module], x: Tensor) -> str:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "thin.safetensors"
        al.save(thin, path)
        return equal(al.load(path, make, x)(x), thin(x), "saved and loaded", 0.0)


def lock_on_a_module() -> str:
    """15. A model holds what cannot be copied (a lock)."""

    def forward(self: Any, x: Tensor) -> Tensor:
        with self.lock:
            return F.relu(self.l(x))

    found = al.sites(Calls(forward, l=nn.Linear(4, 4), lock=threading.Lock()), torch.randn(1, 4))
    assert len(found) == 1, f"{len(found)} sites"
    return "its site is found"


def flex_attention() -> str:
    """16a. flex_attention, which runs under no mode of torch's."""
    from torch.nn.attention.flex_attention import flex_attention as attend

    def forward(self: Any, x: Tensor) -> Tensor:
        q, k, v = self.q(x).view(2, 128, 3, 2, 8).permute(2, 0, 3, 1, 4)
        return F.relu(self.h(attend(q, k, v)))

    net, x = Calls(forward, q=nn.Linear(16, 48), h=nn.Linear(8, 2)), torch.randn(2, 128, 16)
    found = al.sites(net, x)
    assert [site.op for site in found] == ["relu"], f"sites {[site.id for site in found]}"
    return "its site is found"


def nested_tensors() -> str:
    """16b. A jagged nested tensor as input."""
    x = torch.nested.nested_tensor([torch.randn(3, 8), torch.randn(5, 8)], layout=torch.jagged)
    found = al.sites(nn.Sequential(nn.Linear(8, 8), nn.ReLU()), x)
    assert [site.op for site in found] == ["relu"], f"sites {[site.id for site in found]}"
    return "its site is found"


def lazy_modules() -> str:
    """19. A model that is not yet initialized."""
    found = al.sites(nn.Sequential(nn.LazyConv2d(8, 3), nn.ReLU()), torch.randn(2, 3, 6, 6))
    assert len(found) == 1, f"{len(found)} sites"
    return "its site is found"


def exported_graph() -> str:
    """21. A graph of aten ops, as torch.export makes."""
    net, x = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3)).eval(), torch.randn(1, 3, 8, 8)
    graph = torch.export.export(net, (x,)).module()
    assert len(al.sites(graph, x)) == 1, f"{len(al.sites(graph, x))} sites"
    thin = al.remove(graph, x, kinds="activation")
    return equal(thin(x), net[2](net[0](x)), "the removed activation")


def quantized_parts() -> str:
    """25. Saving a dynamically quantized model."""
    from torch.ao.quantization import quantize_dynamic

    def make() -> nn.Module:
        whole = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8)).eval()
        return quantize_dynamic(whole, {nn.Linear}, dtype=torch.qint8)

    x = torch.randn(2, 8)
    return _saved_and_loaded(al.remove(make(), x, kinds="activation"), make, x)
