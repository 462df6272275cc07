"""The nouns carry more than image classification: text, segmentation and reinforcement learning go through the same
learners, `fit` and `evaluate`, with no case of their own in the library."""

from collections.abc import Callable

import pytest
import torch
from torch import Generator, Tensor, nn
from torch.distributions import Normal
from torch.nn import functional as F
from torch.utils._pytree import tree_map

from mapsto import Episode, Examples, MetaLearner, evaluate, fit, stack
from mapsto.algorithms import MAML, ProtoNet
from mapsto.episode import Episodes, Tree, unstack

SEED = 0
TRAIN, TEST = 2 * SEED, 2 * SEED + 1  # sequences of tasks


def own(seed: int, i: int) -> Generator:
    """Task i's own random numbers."""
    return torch.Generator().manual_seed(seed * 1_000_003 + i)


class Made:
    """Episodes that a function of a random generator makes: a `Source` in a line."""

    def __init__(self, make: Callable[[Generator], Episode], seed: int) -> None:
        self.make, self.seed = make, seed

    def batch(self, start: int, size: int) -> Episodes:
        return stack([self.make(own(self.seed, i)) for i in range(start, start + size)])


def assert_inductive(learner: MetaLearner, episode: Episode) -> None:
    """Queries predicted one by one equal queries predicted together, whatever tree they are."""
    with torch.no_grad():
        fast = learner.eval().adapt(episode.support)
        together = learner.predict(fast, episode.query.x)
        singly = [tree_map(lambda leaf, i=i: leaf[i : i + 1], episode.query.x) for i in range(len(together))]
        alone = torch.cat([learner.predict(fast, x) for x in singly])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)


# ------------------------------------------------------------------------------------------------ text

WAY = 3
PAD, STOPS, WORDS, LENGTH = 0, 60, 160, 12  # tokens: 0 pads, 1 to 60 say nothing, 61 to 160 are content


def sentences(g: Generator) -> Episode:
    """New classes each task: a class is six content words; a sentence is three of its words among stop words."""
    keywords = (STOPS + 1 + torch.randperm(WORDS - STOPS, generator=g))[: 6 * WAY].view(WAY, 6)

    def examples(each: int) -> Examples:
        label = torch.arange(WAY).repeat_interleave(each)
        n = len(label)
        tokens = torch.randint(1, STOPS + 1, (n, LENGTH), generator=g)
        tokens[:, :3] = keywords[label[:, None], torch.randint(6, (n, 3), generator=g)]
        lengths = torch.randint(6, LENGTH + 1, (n, 1), generator=g)
        mask = torch.arange(LENGTH) < lengths
        return Examples({"tokens": tokens.where(mask, PAD), "mask": mask.long()}, F.one_hot(label, WAY).float())

    return Episode(examples(3), examples(8))


class Bag(nn.Module):
    """The mean embedding of a sentence's tokens; with a linear head where `outputs` are asked for."""

    def __init__(self, width: int, outputs: int | None = None) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS + 1, width)
        self.head = nn.Identity() if outputs is None else nn.Linear(width, outputs)

    def forward(self, x: dict[str, Tensor]) -> Tensor:
        mask = x["mask"].unsqueeze(-1)
        return self.head((self.words(x["tokens"]) * mask).sum(1) / mask.sum(1))


@pytest.mark.parametrize("name", ["ProtoNet", "MAML"])
def test_text(name: str) -> None:
    """`x` is a dict of tokens and mask; the encoder learns on other classes to hear past stop words."""
    torch.manual_seed(SEED)
    learner = ProtoNet(Bag(32)) if name == "ProtoNet" else MAML(Bag(32, WAY), lr=5.0, steps=3)
    before = evaluate(learner, Made(sentences, TEST), tasks=100).mean
    fit(learner, Made(sentences, TRAIN), torch.optim.Adam(learner.parameters(), 3e-2), steps=150, batch=4)
    after = evaluate(learner, Made(sentences, TEST), tasks=100).mean
    assert after > 0.75, "chance is 1/3"
    assert after > before + 0.05, "meta-training did not help"
    assert_inductive(learner, sentences(own(TEST, 0)))


# ------------------------------------------------------------------------------------------------ segmentation

SIDE = 12


def pictures(g: Generator) -> Episode:
    """New colours each task: smooth regions, each painted in its class's colour under much noise."""
    colours = F.normalize(torch.randn(WAY, 3, generator=g), dim=1)

    def examples(n: int) -> Examples:
        fields = F.interpolate(torch.randn(n, WAY, 4, 4, generator=g), (SIDE, SIDE), mode="bilinear")
        y = F.one_hot(fields.argmax(1), WAY).movedim(-1, 1).float()
        x = torch.einsum("nkhw,kc->nchw", y, colours) + 0.7 * torch.randn(n, 3, SIDE, SIDE, generator=g)
        return Examples(x, y)

    return Episode(examples(3), examples(3))


def convolutional(outputs: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, outputs, 1)
    )


def majority(prediction: Tensor, y: Tensor) -> Tensor:
    """The pixel accuracy of whoever knew the task's most frequent class."""
    return y.mean((0, 2, 3)).max()


@pytest.mark.parametrize("name", ["ProtoNet", "MAML"])
def test_segmentation(name: str) -> None:
    """`y` is a stack of one-hot masks `[n, way, h, w]`: every pixel is an example, for criterion and metric too."""
    torch.manual_seed(SEED)
    learner = ProtoNet(convolutional(16)) if name == "ProtoNet" else MAML(convolutional(WAY), lr=0.5, steps=3)
    fit(learner, Made(pictures, TRAIN), torch.optim.Adam(learner.parameters(), 3e-3), steps=100, batch=4)
    baseline = evaluate(learner, Made(pictures, TEST), majority, tasks=50).mean
    after = evaluate(learner, Made(pictures, TEST), tasks=50).mean
    assert after > baseline + 0.2, "no better than the most frequent class"
    assert_inductive(learner, pictures(own(TEST, 0)))


# ----------------------------------------------------------------------------------------------- reinforcement learning

HORIZON, STEP = 8, 0.1
STILL = -0.765 * HORIZON  # the mean return of standing still, the best there is for who does not know the goal
NOISE = 1.0  # the policy's standard deviation, in actions; an action moves the point by STEP times itself


def policy_gradient(prediction: Tensor, y: Tree) -> Tensor:
    """REINFORCE: the mean of -log N(action; prediction, NOISE^2) times the advantage."""
    # Some versions of torch cannot validate under vmap.
    log_prob = Normal(prediction, NOISE, validate_args=False).log_prob(y["action"]).sum(1)
    return -(log_prob * y["advantage"]).mean()


def mean_return(prediction: Tensor, y: Tree) -> Tensor:
    """A metric that looks only at what came of the actions."""
    return y["return"].mean()


class Navigation:
    """A point walks in the plane to a goal that only the reward knows: minus the distance to it.

    The source consults the learner: it explores with the initial policy, adapts it, and acts with the adapted one.
    Task i is a pure function of the seed, i and the learner.
    """

    def __init__(self, policy: nn.Module, learner: MetaLearner, seed: int, trajectories: int = 20) -> None:
        self.policy, self.learner, self.seed, self.trajectories = policy, learner, seed, trajectories

    @torch.no_grad()
    def batch(self, start: int, size: int) -> Episodes:
        return stack([self.task(own(self.seed, i)) for i in range(start, start + size)])

    def task(self, g: Generator) -> Episode:
        goal = 2 * torch.rand(2, generator=g) - 1
        support = self.walk(goal, self.policy, g)
        fast = self.learner.adapt(support)
        return Episode(support, self.walk(goal, lambda x: self.learner.predict(fast, x), g))

    def walk(self, goal: Tensor, act: Callable[[Tensor], Tensor], g: Generator) -> Examples:
        """All trajectories at once, each step an example."""
        state = torch.zeros(self.trajectories, 2)
        states, actions, rewards = [], [], []
        for _ in range(HORIZON):
            action = act(state) + NOISE * torch.randn(state.shape, generator=g)
            states.append(state)
            actions.append(action)
            state = state + STEP * action
            rewards.append(-(state - goal).norm(dim=1))
        reward = torch.stack(rewards)  # [time, trajectories]
        to_go = reward.flip(0).cumsum(0).flip(0)
        advantage = to_go - to_go.mean(1, keepdim=True)
        total = reward.sum(0).expand_as(reward)
        y = {"action": torch.cat(actions), "advantage": advantage.flatten(), "return": total.flatten()}
        return Examples(torch.cat(states), y)


def test_reinforcement_learning() -> None:
    """The episodes' source consults the learner and yields plain episodes; the policy gradient is a criterion.

    MAML takes one inner step, on trajectories of the policy that it adapts.
    """
    torch.manual_seed(SEED)
    policy = nn.Sequential(nn.Linear(2, 32), nn.Tanh(), nn.Linear(32, 2))
    learner = MAML(policy, lr=0.2, steps=1, criterion=policy_gradient)
    fresh = Navigation(policy, learner, TEST)

    def scores() -> list[float]:
        """The mean return before and after adaptation."""
        return [evaluate(learner, fresh, mean_return, tasks=100, steps=steps).mean for steps in (0, 1)]

    untrained = scores()
    torch.testing.assert_close(unstack(fresh.batch(2, 1))[0], unstack(fresh.batch(0, 4))[2], rtol=0, atol=0)
    fit(learner, Navigation(policy, learner, TRAIN), torch.optim.Adam(learner.parameters(), 1e-2), steps=80, batch=10)
    before, after = scores()
    assert after > before + 1.0, "adaptation did not help"
    assert after > STILL + 0.7, "no better than a policy that does not adapt"
    assert after > untrained[1] + 0.3, "meta-training did not help"
