"""Samples rendered once: the frames of the generator, there whole or not at all, and drawn anew by the step."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from archlab.experiments import Scratch
from studies.motion.data.generator import Generator
from studies.motion.data.rendered_set import FRAMES, RenderedSet, rendered_set
from studies.motion.data.sources import find_sources
from studies.motion.network.models import Config
from studies.motion.train import training
from studies.motion.train.averaging import AveragedAdam


@pytest.fixture(scope="module")
def generator():
    return Generator(find_sources(None, "train"), 40, seed=3)


@pytest.fixture(scope="module")
def made(generator, tmp_path_factory) -> RenderedSet:
    return rendered_set(generator, 7, tmp_path_factory.mktemp("sets"), pictures="some")


def test_it_holds_the_frames_of_the_generator(generator, made):
    frames = generator.frames(range(7))
    assert made.frames.shape == (7, 3, 3, 40, 40) and made.frames.dtype == np.uint8
    assert isinstance(made.frames, np.memmap)
    assert (abs(made.frames.astype(int) - frames.pixels.numpy()) > 1).sum() == 0
    np.testing.assert_allclose(made.factors, frames.factor.numpy())


def test_it_is_rendered_once_and_known_by_what_it_hangs_on(generator, tmp_path, monkeypatch):
    def put(generator=generator, count=2, pictures="some"):
        rendered_set(generator, count, tmp_path, pictures=pictures)
        return len(list(tmp_path.iterdir()))

    assert put() == put() == 1
    assert put(count=3) == 2
    assert put(pictures="others") == 3
    assert put(replace(generator, seed=4)) == 4
    monkeypatch.setattr(Generator, "frames", lambda *_: pytest.fail("it is there already"))
    put()


def test_what_was_cut_short_is_not_there(generator, tmp_path, monkeypatch):
    def cut(self, indices):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Generator, "frames", cut)
        rendered_set(generator, 2, tmp_path, pictures="some")
    assert list(tmp_path.iterdir()) == []
    assert len(rendered_set(generator, 2, tmp_path, pictures="some").frames) == 2


def test_the_faster_of_two_workers_is_kept(generator, tmp_path, monkeypatch):
    frames = Generator.frames

    def slow(self, indices):
        monkeypatch.setattr(Generator, "frames", frames)
        rendered_set(generator, 2, tmp_path, pictures="some")
        return frames(self, indices)

    monkeypatch.setattr(Generator, "frames", slow)
    assert len(rendered_set(generator, 2, tmp_path, pictures="some").frames) == 2
    assert [path.name[0] for path in tmp_path.iterdir()] == ["2"] and list(tmp_path.glob(f"*/{FRAMES}"))


def test_patches_are_of_one_sample_and_place_and_drawn_by_number_alone(made):
    one, again, other = (made.batch(np.random.default_rng(seed), 30, patch=16) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True)) and not torch.equal(one.a, other.a)
    assert one.a.shape == (30, 3, 16, 16)
    windows = np.lib.stride_tricks.sliding_window_view(made.frames[:, 1], (16, 16), axis=(2, 3))  # of clean B
    kinds = set()
    for patch, factor in zip(one.clean_b, one.factor, strict=True):
        sample = int(np.flatnonzero(made.factors == factor.numpy())[0])
        pixels = ((patch + 1) * 127.5).round().byte().numpy()
        for kind in range(8):
            turned = pixels.swapaxes(-1, -2) if kind & 1 else pixels
            turned = turned[..., :: -1 if kind & 2 else 1, :: -1 if kind & 4 else 1]
            if (windows[sample].transpose(1, 2, 0, 3, 4) == turned).all(axis=(2, 3, 4)).any():
                kinds.add(kind)
                break
        else:
            pytest.fail("a patch that is of no sample")
    assert len(kinds) >= 6, "mirrored and transposed"


def test_colours_and_noise_are_fresh(made):
    batch = made.batch(np.random.default_rng(0), 20, patch=None)
    shift = (batch.b - batch.clean_b).flatten(2).median(dim=2).values
    assert shift.abs().max() <= 0.27 and shift.std() > 0.05
    clean = (made.frames[:, 0].reshape(7, 3, -1) / 127.5 - 1).mean()
    assert batch.a.shape == (20, 3, 40, 40) and batch.a.mean().item() == pytest.approx(clean, abs=0.5)


def test_adam_keeps_the_mean_of_the_weights_through_a_checkpoint():
    def steps(p, optimizer, count):
        for _ in range(count):
            p.grad = p.detach() - 3
            optimizer.step()

    whole, p = torch.nn.Parameter(torch.zeros(4)), torch.nn.Parameter(torch.zeros(4))
    straight, first = (AveragedAdam([{"params": [q], "lr": 0.1}], decay=0.9) for q in (whole, p))
    steps(whole, straight, 12)
    steps(p, first, 5)
    second = AveragedAdam([{"params": [p], "lr": 0.1}], decay=0.9)
    second.load_state_dict(first.state_dict())
    steps(p, second, 7)
    assert torch.equal(whole, p)
    for optimizer in (straight, second):
        optimizer.use_means_()
    assert torch.equal(whole, p) and 0 < p[0] < 1.2, "the mean lags behind"


def test_the_mean_of_a_weight_that_gets_its_first_gradient_late_begins_there():
    late, never = torch.nn.Parameter(torch.zeros(2)), torch.nn.Parameter(torch.ones(2))
    optimizer = AveragedAdam([late, never], decay=0.9)
    optimizer.step()
    late.grad = torch.ones(2)
    optimizer.step()
    first = late.detach().clone()
    optimizer.use_means_()
    assert torch.equal(late, first) and late[0] != 0 and torch.equal(never, torch.ones(2))


def test_a_training_draws_from_the_set_and_ends_with_the_mean(tmp_path):
    budget = training.Budget(size=40, batch=2, steps=4, lr=1e-3, precision="fp32", patch=16, rendered=5, average=0.9)
    scratch = Scratch(tmp_path / "cell", shared=tmp_path / "shared")
    task = training.task_for(scratch, budget, seed=0)
    assert len(list((tmp_path / "shared" / "rendered").iterdir())) == 1
    batch = task.batches(1)
    assert batch.a.shape == (2, 3, 16, 16) and torch.equal(batch.a, task.batches(1).a)
    later = training.task_for(scratch, budget, seed=0, first=1)
    assert torch.equal(later.batches(0).a, batch.a), "`first` counts batches"
    net = training.new_network(Config(width=4), seed=0)
    values = training.train_(net, task, budget, scratch, title="small")
    assert values["steps"] == 4 and len(values["losses"]) == 4
    again = training.new_network(Config(width=4), seed=0)
    training.train_(again, task, budget, scratch, title="small")
    raw = training.new_network(Config(width=4), seed=0)
    training.train_(raw, task, replace(budget, average=None), Scratch(tmp_path / "other"), title="small")
    one, two, three = (q.decoder.conv2.weight for q in (net, again, raw))
    assert torch.equal(one, two), "of a finished training, too"
    assert not torch.equal(one, three)
