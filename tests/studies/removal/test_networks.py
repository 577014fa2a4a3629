"""The data of the study's own networks: the same for a seed, another for another, and held out where they say so."""

import numpy as np
import pytest
import torch
from PIL import Image

import archlab as al
from studies.removal import keywords, language, super_resolution, textures, vdsr
from studies.removal.edsr import EDSR

TASKS = {"words": keywords.task, "photographs": textures.task, "characters": language.task}
NETWORKS = {
    "words": keywords.WordNetwork, "photographs": textures.VisionTransformer, "characters": language.LanguageModel
}  # fmt: skip


@pytest.mark.parametrize("name", TASKS)
def test_batches_hang_on_seed_and_step_alone(name):
    def first(seed, step):
        batch = TASKS[name](seed=seed, batch=2, evaluated=2).batches(step)
        return batch if isinstance(batch, torch.Tensor) else batch[0]

    assert torch.equal(first(0, 3), first(0, 3))
    assert not torch.equal(first(0, 3), first(0, 4)) and not torch.equal(first(0, 3), first(1, 3))


@pytest.mark.parametrize("name", TASKS)
def test_the_loss_of_an_untrained_network_is_that_of_guessing(name):
    torch.manual_seed(0)
    net, task = NETWORKS[name](), TASKS[name](seed=0, batch=4, evaluated=32)
    classes = net.head.out_features
    assert task.quality(net)["loss"] == pytest.approx(np.log(classes), rel=0.15)


def test_a_language_model_sees_no_later_character():
    torch.manual_seed(0)
    net, x = language.LanguageModel().eval(), torch.zeros(1, 8, dtype=torch.long)
    changed = x.clone()
    changed[0, 5] = 7
    before, after = net(x), net(changed)
    assert torch.equal(before[:, :5], after[:, :5]) and not torch.allclose(before[:, 5:], after[:, 5:])


def test_words_and_photographs_are_evaluated_on_what_training_does_not_give():
    left, right = textures.parts()
    assert all(a.shape[1] > b.shape[1] and len(a) == len(b) for a, b in zip(left, right, strict=True))
    train, held_out = language.texts()
    assert len(train) > 2 * len(held_out) > 0
    assert not torch.equal(keywords.task(seed=0, batch=2, evaluated=2).batches(0)[0], keywords.waveforms(2, 0)[0])


def test_a_picture_s_pair_is_its_luminance_and_a_smoother_one():
    noise = np.random.default_rng(0).integers(0, 256, (21, 30, 3), dtype=np.uint8)
    given, wanted = super_resolution.interpolated(Image.fromarray(noise))
    assert given.shape == wanted.shape == (1, 20, 30)
    assert given.std() < wanted.std() and 16 / 255 <= wanted.min() and wanted.max() <= 235 / 255
    assert super_resolution.luminance(torch.ones(3, 2, 2)) == pytest.approx(np.full((1, 2, 2), 235 / 255))


def test_in_colour_a_network_is_given_a_picture_of_half_the_side():
    noise = np.random.default_rng(0).integers(0, 256, (21, 30, 3), dtype=np.uint8)
    given, wanted = super_resolution.in_colour(Image.fromarray(noise))
    assert given.shape == (3, 10, 15) and wanted.shape == (3, 20, 30) and wanted.dtype == torch.uint8
    assert torch.equal(wanted, torch.from_numpy(noise[:20]).permute(2, 0, 1))


@pytest.mark.parametrize("scale", [1, 2])
def test_patches_are_cut_alike_of_both_pictures(scale):
    picture = torch.rand(3, 40, 50, generator=torch.Generator().manual_seed(0))
    large = picture.repeat_interleave(scale, 1).repeat_interleave(scale, 2)
    given, wanted = super_resolution.patches([(picture, large + 1)], 5, 16, seed=2)
    assert given.shape == (5, 3, 16, 16) and torch.allclose(given + 1, wanted[..., ::scale, ::scale])


def test_y_psnr_of_a_picture_that_is_off_by_a_known_amount():
    picture = torch.rand(3, 20, 20, generator=torch.Generator().manual_seed(0)) / 2
    wanted = picture + 0.1
    wanted[..., :4] = 0  # the border does not count
    in_y = super_resolution.luminance(picture), super_resolution.luminance(wanted)
    for pair in ((picture, wanted), in_y):
        net = torch.nn.Conv2d(len(pair[0]), len(pair[0]), 1)
        torch.nn.init.dirac_(net.weight)
        torch.nn.init.zeros_(net.bias)
        known = -20 * np.log10(0.1 * sum(super_resolution.TO_Y))
        assert super_resolution.psnr(net, pair) == pytest.approx(known, abs=1e-3)


@pytest.mark.parametrize("scale", [1, 2])
def test_the_middle_is_the_same_part_of_both_pictures(scale):
    picture = torch.rand(3, 20, 28, generator=torch.Generator().manual_seed(0))
    large = picture.repeat_interleave(scale, 1).repeat_interleave(scale, 2)
    given, wanted = super_resolution.centre((picture, large), 8)
    assert wanted.shape == (3, 8, 8) and torch.equal(given, wanted[:, ::scale, ::scale])
    cut = 8 // scale
    assert torch.equal(given, picture[:, (20 - cut) // 2 : (20 + cut) // 2, (28 - cut) // 2 : (28 + cut) // 2])


def test_an_edsr_grows_a_picture_and_every_block_can_go():
    torch.manual_seed(0)
    net, x = EDSR(width=4, blocks=3).eval(), torch.rand(1, 3, 8, 10)
    assert net(x).shape == (1, 3, 16, 20)
    assert [site.module for site in al.sites(net, x, kinds="block")] == ["blocks.0", "blocks.1", "blocks.2"]


def test_a_vdsr_is_read_from_its_weights(tmp_path):
    torch.manual_seed(0)
    net = vdsr.VDSR(width=4, layers=3)
    torch.save(net.state_dict(), tmp_path / "net.pth")
    again, x = vdsr.load_vdsr(tmp_path / "net.pth"), torch.rand(1, 1, 8, 8)
    assert torch.equal(again(x), net(x))
    assert len(al.sites(again, x, kinds="activation")) == 4  # one after each convolution but the last
