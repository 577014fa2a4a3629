"""The search spaces of Fig. 13: what their networks cost, what a choice does, and how an architecture is told."""

import pytest
import torch

import archlab as al
from studies.motion.network.example import SIDE, example_for, streamed
from studies.motion.network.searched import BOUNDS, STACKS, TO_G, allowed_macs, macs_g, supernet, told, whole


@pytest.fixture(scope="module")
def net():
    return supernet("a", seed=0)


@pytest.mark.parametrize(("name", "macs"), [("a", 8.65), ("b", 10.44), ("c", 17.07), ("d", 9.04)])
def test_networks_with_all_blocks_cost_what_the_bounds_were_checked_with(name, macs):
    made = whole(BOUNDS[name])
    assert al.cost(made, streamed(made, SIDE, SIDE)).macs * TO_G == pytest.approx(macs, abs=0.005)
    blocks = [len(made.get_submodule(path)) for path in STACKS]
    assert sum(blocks[:3]) == 7 and blocks[3] == (18 if name == "d" else 9)


def test_a_set_of_bounds_that_is_none_is_named():
    with pytest.raises(ValueError, match="one of the sets of bounds a, b, c, d, got 'e'"):
        supernet("e", seed=0)


def test_a_space_reaches_from_no_block_to_kernels_of_seven(net):
    space = al.space(net)
    assert [macs * TO_G for macs in space.macs_range] == pytest.approx([4.53, 26.96], abs=0.005)
    assert len(space.positions) == 2 * 16
    least, most = allowed_macs("a", net)
    assert (least, most * TO_G) == (space.macs_range[0], pytest.approx(10.0))


def test_an_architecture_within_the_bound_is_a_plain_network_of_its_cost(net):
    path = al.sample_(net, 0, 1, macs=allowed_macs("a", net))
    plain = al.choose(net, path)
    assert al.cost(plain, streamed(plain)).macs / 1e9 == pytest.approx(macs_g(net, path)) and macs_g(net, path) <= 10
    with torch.no_grad():
        assert plain(*example_for(plain)).shape == (1, 3, SIDE, SIDE)


def test_a_supernet_is_fixed_by_its_seed_and_is_nobody_else_s(net):
    again = supernet("a", seed=0)
    for one, other in zip(net.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other) and one.data_ptr() != other.data_ptr()


def test_an_architecture_is_told_by_the_kernels_of_the_blocks_that_it_keeps(net):
    assert told(al.space(net).original) == {"encoder": " ".join("3" * 7), "decoder": " ".join("3" * 9)}
    none = {name: "skip" for name, options in al.space(net).options.items() if "skip" in options}
    bare = al.space(net).complete(none)
    assert told(bare) == {"encoder": "–", "decoder": "–"}
    some = bare | {"encoder.shape.1": "keep", "encoder.shape.1.0": 7, "decoder.blocks.8": "keep"}
    assert told(some) == {"encoder": "7", "decoder": "3"}
