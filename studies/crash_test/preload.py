"""Run once by the server from which the jobs' processes are forked: what is loaded at first use is loaded then."""

import tempfile
import warnings
from pathlib import Path

import torch

from .jobs import JOBS

torch.set_num_threads(1)
with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of so few steps
    for name, job in JOBS.items():
        job(Path(folder, name), "smoke")
