"""Supernets: equal to the model at first, to the chosen network at each path; what is not chosen is not touched."""

import copy
import functools

import pytest
import torch
from torch import nn

import archlab as al
from archlab.architectures.supernet import architecture_of
from archlab.training import fit


class Block(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv2d(width, width, 3, padding=1) for _ in range(2))
        self.norm = nn.BatchNorm2d(width)

    def forward(self, x):
        return x + self.conv2(torch.relu(self.norm(self.conv1(x))))


class Net(nn.Module):
    """Five blocks, of which the last two are one module; a convolution of its own kind, another form of padding."""

    def __init__(self):
        super().__init__()
        self.head = nn.Conv2d(3, 4, 3, padding="same", padding_mode="circular")
        self.blocks = nn.Sequential(*(Block(4) for _ in range(3)))
        self.again = Block(4)
        self.down = nn.ConvTranspose2d(4, 4, 4, stride=2, padding=1)
        self.tail = nn.Conv2d(4, 3, 3, padding=2, dilation=2, groups=1, bias=False)

    def forward(self, x):
        x = self.again(self.again(self.blocks(self.head(x))))
        return self.tail(self.down(x).tanh())


def tanh(module):
    return nn.Sequential(nn.Conv2d(4, 4, 1), nn.Tanh())


CHOICES = {
    "head": al.kernel(3, 5, weights="shared"),
    "blocks.*": al.optional(),
    "blocks.?.conv1": al.kernel(5, 3, 1),
    "blocks.1.conv2": al.either(tanh),
    "again": al.kernel(1, 3, 5, weights="shared"),
    "down": al.kernel(4, 6),
    "tail": al.kernel(3, 5, 1),
}


def small():
    return Net().eval(), torch.randn(2, 3, 6, 6), CHOICES


def resnet():
    from torchvision.models import resnet18

    choices = {
        "layer?.1": al.optional(),
        "layer?.1.conv1": al.kernel(3, 5),
        "layer1.0.conv1": al.width(16, 64),
    }
    return resnet18(num_classes=7).eval(), torch.randn(1, 3, 32, 32), choices


def vit():
    from timm.models.vision_transformer import VisionTransformer

    net = VisionTransformer(img_size=16, patch_size=4, embed_dim=16, depth=3, num_heads=2, num_classes=5)
    return net.eval(), torch.randn(1, 3, 16, 16), {"blocks.[12]": al.optional(), "blocks.?.mlp.fc1": al.width(16, 64)}


def bert():
    from transformers import BertConfig, BertModel

    net = BertModel(BertConfig(vocab_size=20, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
                               intermediate_size=32, max_position_embeddings=16))  # fmt: skip
    choices = {"encoder.layer.?": al.optional(), "encoder.layer.?.intermediate.dense": al.width(8, 32)}
    return net.eval(), {"input_ids": torch.randint(0, 20, (1, 6))}, choices


@functools.cache
def built(case):
    torch.manual_seed(0)
    model, example, choices = case()
    return model, example, al.supernet(model, example, choices=choices)


def made(case):
    """Model, example and supernet of a case: built once, and copied for each test."""
    return copy.deepcopy(built(case))


def run(model, example):
    with torch.no_grad():
        out = model(**example) if isinstance(example, dict) else model(example)
    return out if isinstance(out, torch.Tensor) else out[0]


@pytest.mark.parametrize("case", [small, resnet, vit, bert], ids=lambda case: case.__name__)
def test_a_supernet_equals_the_model_and_each_network_that_is_chosen(case, tmp_path):
    model, example, net = made(case)
    assert type(net) is type(model) and torch.equal(run(net, example), run(model, example))
    assert not {p.data_ptr() for p in net.parameters()} & {p.data_ptr() for p in model.parameters()}
    space = al.space(net)
    assert space.macs({}) == al.cost(model, example).macs
    assert space.params({}) == sum(p.numel() for p in model.parameters())
    for step in range(2):
        path = al.sample_(net, 1, step)
        plain = al.choose(net)
        assert torch.equal(run(net, example), run(plain, example))
        assert space.macs(path) == al.cost(plain, example).macs
        assert space.params(path) == sum(p.numel() for p in plain.parameters())
        assert al.recipe(plain).steps[-1].after["macs"] == space.macs(path)
    al.save(plain, tmp_path / "plain.safetensors")
    again = al.load(tmp_path / "plain.safetensors", lambda: case()[0], example, modules={"tanh": tanh})
    assert torch.equal(run(again.eval(), example), run(plain, example))
    assert al.recipe(again).steps[-1].options == al.recipe(plain).steps[-1].options


def test_how_many_things_a_network_finds_may_hang_on_what_is_chosen():
    class Finds(nn.Module):
        """As a detector: the places where its map is above a threshold."""

        def __init__(self):
            super().__init__()
            self.score = nn.Conv2d(3, 1, 3, padding=1)

        def forward(self, x):
            return self.score(x).flatten()[self.score(x).flatten() > 0]

    torch.manual_seed(0)
    net, x = Finds(), torch.randn(1, 3, 16, 16)
    searched = al.supernet(net, x, choices={"score": al.kernel(3, 5)})
    plain = al.choose(searched, {"score": 5})
    al.set_architecture_(searched, {"score": 5})
    assert plain(x).shape != net(x).shape and torch.equal(plain(x), searched(x))
    again = al.apply(al.recipe(plain), net, x)
    assert again.score.kernel_size == (5, 5)


def test_a_choice_that_changes_how_much_is_computed_elsewhere_is_refused():
    class Rows(nn.Module):
        """As a detector of two stages: a layer for each thing that was found."""

        def __init__(self):
            super().__init__()
            self.act, self.fc = nn.ReLU(), nn.Linear(4, 4)

        def forward(self, x):
            found = self.act(x)
            return self.fc(found[found.abs().sum(1) > 1.5]).mean(0)

    torch.manual_seed(0)
    with pytest.raises(ValueError, match=r"'plain_tanh'} costs .* what is computed elsewhere depends on"):
        al.supernet(Rows(), torch.randn(16, 4), choices={"act": al.either(plain_tanh)})  # both options cost nothing


def plain_tanh(module):
    return nn.Tanh()


def test_every_option_of_the_small_net_is_in_its_plain_network():
    _, x, net = made(small)
    options = al.space(net).options
    for number in range(3):
        path = {name: values[number % len(values)] for name, values in options.items() if name.count(".") != 1}
        plain = al.choose(net, path)
        al.set_architecture_(net, path)
        assert torch.equal(plain(x), net(x))
        al.set_architecture_(net, {})


def test_shared_kernels_begin_with_the_function_of_the_original():
    model, x, _ = made(small)
    net = al.supernet(model, x, choices={"head": al.kernel(1, 3, 5, weights="shared")})
    al.set_architecture_(net, {"head": 5})
    torch.testing.assert_close(net(x), model(x))
    al.set_architecture_(net, {"head": 1})
    torch.testing.assert_close(al.choose(net).head.weight, model.head.weight[:, :, 1:2, 1:2])


def test_what_is_not_chosen_gets_no_gradient_and_stays_bit_identical():
    _, x, net = made(small)
    net.train()
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.1, weight_decay=0.1)

    def step(path):
        al.set_architecture_(net, path)
        before = {name: value.clone() for name, value in net.state_dict().items()}
        optimizer.zero_grad(set_to_none=True)
        net(x).square().mean().backward()
        optimizer.step()
        own = {id(p) for p in net.parameters() if p.grad is not None}
        changed = {n for n, v in net.state_dict().items() if not torch.equal(v, before[n])}
        assert {n for n, p in net.named_parameters() if id(p) in own} >= {n for n in changed if "norm" not in n}
        return changed

    step({"head": 5, "blocks.0.conv1": 5, "again": 5})  # all have moments now
    changed = step({"head": 3, "blocks.0": "skip", "blocks.1.conv1": 1})
    assert {"head.rings.0", "blocks.1.options.0.conv1.options.2.weight"} <= changed
    assert not changed & {"head.rings.1", "again.conv1.rings.2", "blocks.1.options.0.conv1.options.0.weight"}
    assert not any(name.startswith("blocks.0") for name in changed)


def test_a_path_that_is_not_chosen_is_not_computed():
    _, x, net = made(small)
    called = []
    for name, module in net.named_modules():
        module.register_forward_hook(lambda module, args, out, name=name: called.append(name))
    al.set_architecture_(net, {"blocks.1": "skip", "blocks.0.conv1": 5})
    net(x)
    assert "blocks.1.options.1" in called and not any(name.startswith("blocks.1.options.0") for name in called)
    ran = {name for name in called if name.startswith("blocks.0.options.0.conv1.options")}
    assert len(ran) == 1


def test_a_position_inside_what_is_skipped_makes_no_other_architecture():
    *_, net = made(small)
    space = al.space(net)
    path = {"blocks.0": "skip", "blocks.0.conv1": 5}
    assert space.complete(path) == space.complete({"blocks.0": "skip"})
    assert al.choose(net, path).blocks[0](torch.ones(1)) == 1


def task(x):
    return al.Task(
        x,
        batches=lambda step: x + step % 3,
        loss=lambda net, x: net(x).square().mean(),
        quality=lambda net: {"size": net(x).square().mean().item()},
        measures={"size": "lower"},
    )


@pytest.mark.parametrize("prefetch", [0, 2])
def test_the_path_of_a_step_is_that_of_seed_and_step_also_after_a_resume(prefetch, tmp_path):
    wanted = [al.sample_(made(small)[2], 3, step, bins=4) for step in range(6)]

    def train(folder, limits):
        _, x, net = made(small)
        seen = []
        net.head.register_forward_hook(lambda *_: seen.append(architecture_of(net)))
        for limit in limits:
            went = fit(net, al.one_path(task(x), seed=3, bins=4), steps=6, folder=folder, lr=1e-3, progress=False,
                       prefetch=prefetch, time_limit_s=limit)  # fmt: skip
        assert went.finished and seen == wanted
        return net

    whole, resumed = train(tmp_path / "a", [None]), train(tmp_path / "b", [0, 0, None])
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))


def test_bins_cover_the_range_of_costs_and_a_range_is_kept_to():
    *_, net = made(small)
    space = al.space(net)
    low, high = space.macs_range

    def costs(**options):
        return [space.macs(al.sample_(net, 0, step, **options)) for step in range(200)]

    def emptiest(values):
        return min(torch.histc(torch.tensor(values, dtype=torch.float64), 5, low, high).tolist())

    assert emptiest(costs(bins=5)) > 15 > emptiest(costs())
    middle = (low + high) / 2
    assert all(low <= value <= middle for value in costs(macs=(low, middle)))


def test_statistics_of_norms_are_those_of_the_batches():
    _, x, net = made(small)
    al.set_architecture_(net, {"blocks.1": "skip"})
    skipped = net.blocks[1].options[0].norm.running_mean.clone()
    means = []
    hook = (
        net.blocks[0].options[0].norm.register_forward_pre_hook(lambda m, args: means.append(args[0].mean((0, 2, 3))))
    )
    al.estimate_norms_(net, task(x), batches=3)
    hook.remove()
    norm = net.blocks[0].options[0].norm
    torch.testing.assert_close(norm.running_mean, torch.stack(means).mean(0))
    assert norm.momentum == 0.1 and not norm.training
    assert torch.equal(net.blocks[1].options[0].norm.running_mean, skipped)


@pytest.mark.parametrize("kind", [nn.BatchNorm2d, nn.InstanceNorm2d])
def test_statistics_are_a_mean_over_the_batches_of_every_kind_of_norm(kind):
    norm = kind(2, momentum=0.3, track_running_stats=True)
    batches = torch.randn(3, 4, 2, 5, 5, generator=torch.Generator().manual_seed(0)) + 3
    judged = al.Task(batches[0], lambda step: batches[step], lambda net, x: net(x).sum(), lambda net: {"sum": 0.0})
    al.estimate_norms_(norm, judged, batches=3)
    torch.testing.assert_close(norm.running_mean, batches.mean((0, 1, 3, 4)))
    assert norm.momentum == 0.3


@pytest.mark.parametrize(
    ("choices", "error"),
    [
        ({"layer*": al.optional()}, "'layer.' matches no module; there are head, valid, blocks"),
        ({}, "choices must be a dict of choices by glob"),
        ({"head": "skip"}, "the choice at 'head' must be al.kernel"),
        ({"fc": al.kernel(3, 5)}, "kernel: fc must be a convolution, or hold one, got Linear"),
        ({"head": al.kernel(5, 7)}, "the kernel must be those that head has among its options, 3, got .5, 7.; add 3"),
        ({"head": al.kernel(3, 4)}, "the size at head must be odd, as 3, which it has, got 4"),
        ({"valid": al.kernel(3, 1)}, "valid has the kernel 3 and the padding .0, 0.; a kernel of 1 gives no output"),
        ({"head": al.optional()}, "head must give the shape and dtype that it gets.*gets .1, 3, 6, 6. and gives"),
        ({"blocks": al.optional(), "bl*": al.optional()}, "blocks is matched by 'blocks' and by 'bl.'; give it one"),
        ({"unused": al.optional()}, "the example calls no module that matches 'unused'"),
        ({"head": al.width(4, 8), "blocks.0.0": al.width(4, 8)}, "head cannot change|both change blocks"),
        ({"blocks.0.0": al.kernel(1, 3), "blocks.0": al.kernel(1, 3)}, "choices at .* both change blocks.0.0"),
    ],
)
def test_what_does_not_fit_is_refused(choices, error):
    class Other(nn.Module):
        def __init__(self):
            super().__init__()
            self.head, self.valid = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3)
            self.blocks = nn.Sequential(nn.Sequential(nn.Conv2d(4, 4, 3, padding=1)))
            self.fc, self.unused = nn.Linear(4, 4), nn.ReLU()

        def forward(self, x):
            x = self.head(x)
            return self.fc(self.valid(x + self.blocks(x)).mean((2, 3)))

    with pytest.raises((ValueError, TypeError), match=error):
        al.supernet(Other(), torch.randn(1, 3, 6, 6), choices=choices)


def wide(module):
    return nn.Conv2d(4, 8, 1)


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda: al.kernel(3), "sizes must be two options or more, each once, got .3,"),
        (lambda: al.kernel(3, 3), "each once"),
        (lambda: al.kernel(3, 5, weights="none"), "weights must be one of 'own', 'shared'"),
        (lambda: al.kernel(3, "5"), "a size must be a whole number.*without quotes"),
        (lambda: al.width(0, 8), "a count must be a whole number of at least 1"),
        (lambda: al.either(), "two options or more"),
        (lambda: al.either(lambda m: m), "a function with a name"),
        (lambda: al.either(nn.ReLU()), "a function with a name"),
        (lambda: al.either(nn.Linear), "a function of the module that stands there, got Linear"),
        (lambda: al.space(nn.ReLU()), "this ReLU is no supernet"),
        (lambda: al.sample_(made(small)[2], 0, macs=(1, 2)), "a range that meets"),
        (lambda: al.set_architecture_(made(small)[2], {"head": 9}), "the option at head must be one of 3, 5, got 9"),
        (lambda: al.set_architecture_(made(small)[2], {"heat": 3}), "no choice at 'heat'; there are head"),
        (lambda: al.remove(made(small)[2], torch.ones(1, 3, 6, 6), kinds="branch"), "is a supernet: choose"),
        (lambda: al.save(made(small)[2], "net.safetensors"), "is a supernet: choose"),
        (lambda: al.supernet(Net(), torch.ones(1, 3, 6, 6), choices={"blocks": al.either(wide)}), "'wide' at blocks"),
    ],
)
def test_wrong_calls_say_what_is_wrong(call, error):
    with pytest.raises((ValueError, TypeError), match=error):
        call()


@pytest.mark.parametrize(
    "chosen",
    [
        '{"no.such": {"kernel": 5}}',
        '{"head": {"exec": 5}}',
        '{"head": {"kernel": 1000000}}',
        '{"head": {"kernel": "5"}}',
        '{"head": {"kernel": 5, "width": 4}}',
        '{"head": {"width": 99999999}}',
        '{"head": 5}',
        "[]",
        '{"blocks.1": {"either": "system"}}',
        '{"blocks.1": {"optional": []}}',
        '{"": {"optional": "skip"}}',
    ],
)
def test_a_recipe_from_elsewhere_is_refused_where_it_does_not_fit(chosen):
    text = f'{{"model": "Net", "steps": [{{"name": "choose", "options": {{"chosen": {chosen}}}}}]}}'
    with pytest.raises(ValueError, match=r"choose|recipe"):
        al.apply(al.Recipe.from_json(text), Net(), torch.zeros(1, 3, 6, 6))
