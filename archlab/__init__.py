"""archlab: which parts of my network does the task need, and what does each cost?

>>> import torch, torchvision, archlab as al
>>> net, image = torchvision.models.resnet18().eval(), torch.zeros(1, 3, 64, 64)
>>> found = al.sites(net, image)                      # every part that can be removed; prints as a table
>>> found.frame()["kind"].value_counts(sort=False).to_dict()
{'activation': 17, 'skip': 5, 'branch': 5, 'block': 5, 'join': 3}
>>> soft = al.switch(net, image, kinds="block")       # a learnable ω at each site; at 0 nothing has changed
>>> al.set_omegas_(soft, {"layer4/block.0": 0.9})     # what al.learn_to_remove learns
>>> thin = al.discard(soft, tau=0.5)                  # what has ω > τ is gone, with its parameters
>>> al.cost(net, image).params, al.cost(thin, image).params
(11689512, 6968872)
>>> al.recipe(thin).steps[-1].taken                   # kept with the weights by al.save, replayed by al.load
('layer4/block.0',)
"""

from typing import TYPE_CHECKING

from .architectures.choices import either, kernel, optional, width
from .architectures.choose import choose
from .architectures.norms import estimate_norms_
from .architectures.paths import one_path, sample_
from .architectures.search import Search, search
from .architectures.space import Space
from .architectures.supernet import set_architecture_, space, supernet
from .capture.example import Call
from .discovery.kinds import KINDS
from .discovery.ops import ACTIVATIONS
from .discovery.site import Site, Sites
from .experiments.runner import run
from .experiments.study import Study
from .measure.costs import Cost, cost
from .measure.environment import VERSION
from .measure.fvcore import fvcore_cost
from .measure.image_quality import BackboneMissing, lpips, lpips_network, psnr, ssim
from .measure.intervals import interval
from .measure.speed import Speed, speed
from .passes.depth.scale import scale_depth
from .passes.discard import discard, remove
from .passes.fold.fold import fold
from .passes.fold.hoist_padding import hoist_padding
from .passes.fold.upsampling import fold_upsampling
from .passes.recipe import Recipe, Step, recipe
from .passes.replace import replace
from .passes.replay import apply
from .passes.resolution.scale import scale_resolution, sweep_resolution
from .passes.serialization import load, save
from .passes.share import share
from .passes.survey import sites
from .passes.switch import switch
from .passes.switch_state import omega_parameters, omegas, penalty, project_, set_omegas_
from .passes.width.scale import scale_width, sweep_width
from .removal.curves.compare import compare
from .removal.curves.lambda_path import lambda_path
from .removal.curves.trade_off import trade_off
from .removal.greedy import remove_at_random, remove_greedily
from .removal.learn import Removal, learn_to_remove
from .removal.merge.remove_to_merge import remove_to_merge
from .removal.scores import scores
from .removal.sensitivity import sensitivity
from .report.fronts import hypervolume, pareto
from .report.tables import Column, table
from .training.task import Task

if TYPE_CHECKING:
    from .report import plots as plot

__version__ = VERSION

__all__ = [
    "ACTIVATIONS", "KINDS", "BackboneMissing", "Call", "Column", "Cost", "Recipe", "Removal", "Search", "Site", "Sites",
    "Space", "Speed", "Step", "Study", "Task", "apply", "choose", "compare", "cost", "discard", "either",
    "estimate_norms_", "fold", "fold_upsampling", "fvcore_cost", "hoist_padding", "hypervolume", "interval", "kernel",
    "lambda_path", "learn_to_remove", "load", "lpips", "lpips_network", "omega_parameters", "omegas", "one_path",
    "optional", "pareto", "penalty", "plot", "project_", "psnr", "recipe", "remove", "remove_at_random",
    "remove_greedily", "remove_to_merge", "replace", "run", "sample_", "save", "scale_depth", "scale_resolution",
    "scale_width", "scores", "search", "sensitivity", "set_architecture_", "set_omegas_", "share", "sites", "space",
    "speed", "ssim", "supernet", "sweep_resolution", "sweep_width", "switch", "table", "trade_off", "width",
]  # fmt: skip


def __getattr__(name: str):
    if name == "plot":  # at first use: matplotlib takes longer to import than all of archlab
        from .report import plots

        return plots
    told = f"module 'archlab' has no attribute {name!r}"
    if not name.startswith("_"):  # Python itself asks for some that are not there
        from .names import closest

        told += f"; {closest(name, __all__, most=3)}"
    raise AttributeError(told)
