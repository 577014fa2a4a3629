"""The front door: the names that scripts call, examples to each, and what importing them does not drag in."""

import inspect
import subprocess
import sys

import pytest

import archlab as al

DESIGN = (
    "Call Site Sites ACTIVATIONS KINDS sites cost Cost fvcore_cost sensitivity switch penalty omega_parameters "
    "project_ omegas set_omegas_ discard remove fold fold_upsampling hoist_padding share scale_resolution "
    "sweep_resolution sweep_width scale_width scale_depth replace learn_to_remove remove_greedily remove_at_random "
    "remove_to_merge scores compare trade_off lambda_path Removal Task recipe apply save load Recipe Step "
    "supernet space Space kernel optional width either sample_ set_architecture_ one_path estimate_norms_ choose "
    "search Search "
    "ssim psnr lpips lpips_network BackboneMissing interval table Column pareto hypervolume plot run Study speed Speed"
).split()
FUNCTIONS = [name for name in al.__all__ if inspect.isfunction(getattr(al, name))]
HEAVY = ("matplotlib", "lpips", "torchmetrics", "torchvision", "fvcore", "optuna", "skimage", "scipy")


def test_the_public_names_are_those_of_the_design():
    assert sorted(al.__all__) == sorted(DESIGN)
    assert all(getattr(al, name) is not None for name in al.__all__)


def test_no_public_name_is_the_name_of_a_module():
    modules = {name for name in sys.modules if name.startswith("archlab.")}
    assert not {f"archlab.{name}" for name in al.__all__} & modules


@pytest.mark.parametrize("name", FUNCTIONS)
def test_each_public_function_has_an_example_with_its_output(name):
    assert ">>> " in (inspect.getdoc(getattr(al, name)) or ""), f"{name} has no example"


def test_plot_is_the_module_of_figures():
    assert al.plot.sensitivity.__module__ == "archlab.report.plots"


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'archlab' has no attribute 'plots_'"):
        al.plots_  # type: ignore[attr-defined]  # noqa: B018


def test_importing_archlab_leaves_heavy_libraries_alone():
    code = f"import archlab, sys; print([name for name in {HEAVY} if name in sys.modules])"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[]"
