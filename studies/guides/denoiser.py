"""A network of one's own and its task, for the README and the guides: residual blocks that take noise off a photo.

It is trained on the left part of one photo and evaluated on the right; a step takes about 10 ms on one CPU core.
"""

import torch
from skimage.data import camera
from torch import nn

import archlab as al
from archlab.training import cosine, fit

SIDE = 24  # pixels of a crop
NOISE = 0.1  # its standard deviation, of a range of 1
PHOTO = torch.tensor(camera() / 255, dtype=torch.float32)  # 512 x 512
LEFT, RIGHT = PHOTO[:, :320], PHOTO[:, 320:]


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x):
        return x + self.conv2(self.conv1(x).relu())


def denoiser(width=8, blocks=6):
    first, last = nn.Conv2d(1, width, 3, padding=1), nn.Conv2d(width, 1, 3, padding=1)
    return nn.Sequential(first, *(Block(width) for _ in range(blocks)), last)


def crops(step, photo=LEFT, count=4):
    """Noisy and clean crops, count x 1 x SIDE x SIDE each; the step seeds them."""
    random = torch.Generator().manual_seed(step)
    corners = torch.rand(count, 2, generator=random) * (torch.tensor(photo.shape) - SIDE)
    clean = torch.stack([photo[None, y : y + SIDE, x : x + SIDE] for y, x in corners.int().tolist()])
    return clean + NOISE * torch.randn(clean.shape, generator=random), clean


HELD_OUT = crops(0, RIGHT, count=64)


def loss(net, batch):
    noisy, clean = batch
    return (net(noisy) - clean).square().mean()


@torch.no_grad()
def quality(net):
    return {"PSNR [dB]": -10 * loss(net, HELD_OUT).log10().item()}


task = al.Task(HELD_OUT[0][:1], batches=crops, loss=loss, quality=quality, measures={"PSNR [dB]": "higher"})


def trained(steps=800):
    """The network, trained, and its task: what the commands `archlab scores` and `archlab remove` ask for."""
    torch.manual_seed(3)
    net = denoiser()
    fit(net, task, steps=steps, lr=5e-3, schedule=cosine(steps), progress=False)
    return net, task
