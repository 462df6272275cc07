"""ResNet-12: the same function as the network written plainly in torch.nn; right under vmap; shapes and mistakes."""

import pytest
import torch
from conftest import Maker
from torch import Tensor, nn

from mapsto.algorithms import MAML
from mapsto.models.resnet12 import ResNet12


class Plain(nn.Module):
    """One block, as the reference implementation writes it."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.conv3 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(after)
        self.conv0 = nn.Conv2d(before, after, 1, bias=False)
        self.bn0 = nn.BatchNorm2d(after)
        self.relu = nn.LeakyReLU(0.1)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out)) + self.bn0(self.conv0(x))
        return nn.functional.max_pool2d(self.relu(out), 2)


@pytest.mark.parametrize("size", [32, 84])
def test_equals_the_network_written_in_torch(size: int) -> None:
    ours = ResNet12(7, filters=(4, 5, 6, 8), stats="running", size=size).double()
    plain = nn.Sequential(Plain(3, 4), Plain(4, 5), Plain(5, 6), Plain(6, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    theirs = nn.Sequential(plain, nn.Linear(8, 7)).double()
    with torch.no_grad():
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            b.copy_(a.add_(0.1 * torch.randn_like(a)))
    x = torch.randn(4, 3, size, size, dtype=torch.float64)
    results = []
    for model in (ours, theirs):
        trained = model.train()(x)
        gradients = torch.autograd.grad(trained.sin().sum(), list(model.parameters()))
        results.append([trained, model.eval()(x), *gradients])
    assert (results[0][0] - results[0][1]).abs().max() > 0.1  # so the running statistics are another case
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_number_of_weights() -> None:
    # The standard network is known to have 12.4 million; a block has 10 a b + 18 b^2 of convolution and 8 b of norm.
    for filters, count in (((64, 160, 320, 640), 12_424_320), ((64, 128, 256, 512), 7_996_800)):
        model = ResNet12(filters=filters)
        blocks = zip((3, *filters[:-1]), filters, strict=True)
        assert count == sum(10 * a * b + 18 * b * b + 8 * b for a, b in blocks)
        assert sum(p.numel() for p in model.parameters()) == count and model.features == filters[-1]


def test_initial_signal_keeps_its_scale() -> None:
    weight = ResNet12(filters=(64, 8, 8, 8)).body[0].main[3].weight  # pyright: ignore
    assert abs(weight.std().item() / (2 / (64 * 9)) ** 0.5 - 1) < 0.02


@pytest.mark.parametrize(("size", "channels"), [(16, 1), (28, 1), (32, 3), (84, 3)])
def test_embeds_images_of_any_size(size: int, channels: int) -> None:
    model = ResNet12(channels=channels, filters=(2, 3, 4, 5), size=size)
    assert model(torch.rand(2, channels, size, size)).shape == (2, 5)
    assert ResNet12(6, channels, [2, 3, 4, 5], size=size)(torch.rand(2, channels, size, size)).shape == (2, 6)


@pytest.mark.parametrize("stats", ["transductive", "support"])
def test_vmapped_meta_gradients_are_those_of_the_loop(stats: str, make_episodes: Maker) -> None:
    model = ResNet12(3, 1, (2, 2, 3, 3), stats, size=16)  # pyright: ignore[reportArgumentType]
    learner, episodes = MAML(model, 0.1, 1).double(), make_episodes((1, 16, 16), tasks=2)
    found = []
    for how in ("loop", "vmap"):
        learner.zero_grad()
        learner(episodes, how=how).backward()
        found.append([p.grad.clone() for p in learner.parameters() if p.grad is not None])
    assert len(found[0]) > 30 and all(g.abs().max() > 0 for g in found[0])
    for loop, vmap in zip(*found, strict=True):
        torch.testing.assert_close(loop, vmap, rtol=1e-7, atol=1e-9)


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match="four numbers"):
        ResNet12(filters=(64, 64))
    with pytest.raises(ValueError, match="12x12"):
        ResNet12(size=12)
    with pytest.raises(ValueError, match="batch"):
        ResNet12(filters=(1, 1, 1, 1), stats="batch")  # pyright: ignore[reportArgumentType]
