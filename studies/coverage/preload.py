"""Imported once by the server from which the sweep's processes are forked: they start with the libraries loaded."""

import timm  # noqa: F401
import torch
import torchvision  # noqa: F401
import transformers  # noqa: F401

from . import checks, witness  # noqa: F401

torch.set_num_threads(1)
