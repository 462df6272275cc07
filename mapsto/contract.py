"""The contract that every meta-learner passes; run `check` on your own."""

import copy
import math

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.dropout import _DropoutNd
from torch.utils._pytree import tree_leaves, tree_map

from mapsto.applied import norm_of
from mapsto.axis import vmaps
from mapsto.episode import Episode, Examples, stack, unstack
from mapsto.evaluate import evaluate
from mapsto.learner import MetaLearner
from mapsto.train import fit


class ContractError(AssertionError):
    """A learner breaks its contract; the message says which clause, and by how much."""


def check(
    learner: MetaLearner,
    episodes: Episode | None = None,
    *,
    train_steps: int = 60,
    lr: float = 1e-2,
) -> dict[str, str]:
    """Hold a learner to the contract of `mapsto`. It works on copies: the learner itself is unchanged.

    Args:
        learner: the learner; what it claims of itself (`exact`, `ordered`, `sequential`, `steps`, `way`) decides which
            clauses apply.
        episodes: many-task episodes that suit it. By default, toy classification tasks of a shape guessed from its
            first layer.
        train_steps, lr: Adam steps, and their rate, after which accuracy on fresh tasks must be well above chance (for
            targets that are no classes, the loss clearly lower).

    Returns:
        What was found, clause by clause: "holds", or why the clause does not apply.

    Raises:
        ContractError: a clause that applies does not hold.
        ValueError: no toy task suits the learner; pass `episodes`.
    """
    if episodes is None:
        episodes = _toy(learner)
        way, shape = episodes.query.y.shape[-1], tuple(episodes.query.x.shape[2:])
        supply = [_clusters(way, shape, seed) for seed in range(1, train_steps + 1)]
    else:
        supply = [episodes] * train_steps
    precise = _double(learner)
    tasks = tree_map(lambda leaf: leaf.double() if leaf.is_floating_point() else leaf, episodes)
    return {
        "every meta-parameter receives a gradient": _gradients_arrive(precise, tasks),
        "loop equals vmap": _loop_equals_vmap(precise, tasks),
        "gradient equals finite differences": _finite_differences(precise, tasks),
        "evaluation changes nothing": _pure(precise, tasks),
        "support order does not matter": "not claimed" if learner.ordered else _order(precise, tasks),
        "queries do not see each other": _inductive(precise, tasks),
        "save and load": _saved(precise, tasks),
        "learns": _learns(learner, episodes, supply, lr),
    }


def _require(condition: bool, sentence: str) -> None:
    if not condition:
        raise ContractError(sentence)


def _double(learner: MetaLearner) -> MetaLearner:
    """A copy in float64 with dropout off: random masks would make equal computations differ."""
    twin = copy.deepcopy(learner).double().train()
    for module in twin.modules():
        if isinstance(module, _DropoutNd):
            module.eval()
    return twin


def _gradient(learner: MetaLearner, tasks: Episode, how: str) -> tuple[Tensor, dict[str, Tensor]]:
    twin = copy.deepcopy(learner)
    loss = twin(tasks, how=how)
    loss.backward()
    return loss.detach(), {n: p.grad for n, p in twin.named_parameters() if p.grad is not None}


def _gradients_arrive(learner: MetaLearner, tasks: Episode) -> str:
    loss, grads = _gradient(learner, tasks, "loop")
    _require(loss.ndim == 0 and bool(loss.isfinite()), f"the loss is not a finite scalar: {loss}")
    missing = [n for n, p in learner.named_parameters() if p.requires_grad and n not in grads]
    _require(not missing, f"no gradient reaches {', '.join(missing)}: freeze what is not meta-learned")
    bad = [n for n, g in grads.items() if not g.isfinite().all()]
    _require(not bad, f"the gradient of {', '.join(bad)} is not finite")
    return "holds"


def _loop_equals_vmap(learner: MetaLearner, tasks: Episode) -> str:
    try:
        vmaps(learner, tasks, "vmap")
    except ValueError as refusal:
        return str(refusal)
    (loop, loop_grads), (vmap, vmap_grads) = (_gradient(learner, tasks, how) for how in ("loop", "vmap"))
    gaps = [float((loop - vmap).abs())] + [float((loop_grads[n] - vmap_grads[n]).abs().max()) for n in loop_grads]
    scale = max([float(loop.abs())] + [float(g.abs().max()) for g in loop_grads.values()])
    _require(max(gaps) <= 1e-9 * max(scale, 1.0), f"loop and vmap differ by {max(gaps):.3g}")
    return "holds"


def _finite_differences(learner: MetaLearner, tasks: Episode) -> str:
    if not learner.exact:
        return "not claimed: the gradient is an approximation by design"
    _, grads = _gradient(learner, tasks, "loop")
    generator = torch.Generator().manual_seed(0)
    direction = {n: torch.randn(g.shape, generator=generator, dtype=g.dtype).to(g.device) for n, g in grads.items()}
    length = float(sum(d.square().sum() for d in direction.values())) ** 0.5
    direction = {n: d / length for n, d in direction.items()}

    def along(distance: float) -> float:
        twin = copy.deepcopy(learner)
        with torch.no_grad():
            for name, p in twin.named_parameters():
                if name in direction:
                    p.add_(direction[name], alpha=distance)
        return float(twin(tasks, how="loop").detach())

    exact = float(sum((grads[n] * direction[n]).sum() for n in grads))
    # With ReLU or max-pooling inside the inner loop the objective jumps at kinks, so one step that meets none will do;
    # a wrong derivative fits no step.
    numerics = [(along(h) - along(-h)) / (2 * h) for h in (1e-5, 1e-6, 1e-7)]
    _require(
        any(math.isclose(exact, numeric, rel_tol=1e-5, abs_tol=1e-7) for numeric in numerics),
        f"the gradient along a random direction is {exact:.8g}, but finite differences say {numerics}",
    )
    return "holds"


def _pure(learner: MetaLearner, tasks: Episode) -> str:
    before = {n: t.clone() for n, t in learner.state_dict().items()}
    state = torch.get_rng_state()
    first = evaluate(learner, [tasks], _surrogate(learner), how="loop").values
    changed = [n for n, t in learner.state_dict().items() if not torch.equal(t, before[n])]
    _require(not changed, f"evaluation changed {', '.join(changed)}")
    _require(torch.equal(state, torch.get_rng_state()), "evaluation changed the random state")
    twin = copy.deepcopy(learner).eval()  # evaluate() puts buffers back, so look without it as well
    _outputs(twin, unstack(tasks)[0])
    changed = [n for n, t in twin.state_dict().items() if not torch.equal(t, before[n])]
    _require(not changed, f"adapt or predict changes {', '.join(changed)}, though in eval mode")
    parts = unstack(tasks)[::-1]
    again = evaluate(learner, [stack(parts)], _surrogate(learner), how="loop").values.flip(0)
    _require(torch.equal(first, again), "a task's score depends on the tasks before it")
    return "holds"


def _surrogate(learner: MetaLearner):  # noqa: ANN202
    return lambda prediction, y: learner.criterion(prediction, y).double()


def _outputs(learner: MetaLearner, episode: Episode) -> Tensor:
    with torch.no_grad():
        return learner.predict(learner.adapt(episode.support), episode.query.x)


def _order(learner: MetaLearner, tasks: Episode) -> str:
    twin, episode = copy.deepcopy(learner).eval(), unstack(tasks)[0]
    n = tree_leaves(episode.support.x)[0].shape[0]
    order = torch.randperm(n, generator=torch.Generator().manual_seed(1))
    shuffled = episode._replace(support=tree_map(lambda leaf: leaf[order.to(leaf.device)], episode.support))
    gap = float((_outputs(twin, episode) - _outputs(twin, shuffled)).abs().max())
    _require(gap < 1e-8, f"a shuffled support set changes predictions by {gap:.3g}; if it should, set ordered = True")
    return "holds"


def _inductive(learner: MetaLearner, tasks: Episode) -> str:
    twin, episode = copy.deepcopy(learner).eval(), unstack(tasks)[0]
    if norm_of(twin) == "transductive":
        return "not claimed: its predictions are transductive, and every score says so"
    with torch.no_grad():
        fast = twin.adapt(episode.support)
        together = twin.predict(fast, episode.query.x)
        n = tree_leaves(episode.query.x)[0].shape[0]
        alone = [twin.predict(fast, tree_map(lambda leaf, i=i: leaf[i : i + 1], episode.query.x)) for i in range(n)]
    gap = float((together - torch.cat(alone)).abs().max())
    _require(gap < 1e-8, f"a query's prediction changes by {gap:.3g} with the other queries")
    return "holds"


def _saved(learner: MetaLearner, tasks: Episode) -> str:
    from safetensors.torch import load, save

    twin, episode = copy.deepcopy(learner).eval(), unstack(tasks)[0]
    other = copy.deepcopy(twin)
    with torch.no_grad():
        for p in other.parameters():
            p.zero_()
    other.load_state_dict(load(save({n: t.clone().contiguous() for n, t in twin.state_dict().items()})))
    _require(torch.equal(_outputs(twin, episode), _outputs(other, episode)), "predictions differ after save and load")
    return "holds"


def _learns(learner: MetaLearner, episodes: Episode, supply: list[Episode], lr: float) -> str:
    twin = copy.deepcopy(learner)
    before = _score(twin, episodes)
    optimizer = torch.optim.Adam([p for p in twin.parameters() if p.requires_grad], lr)
    with torch.random.fork_rng():
        fit(twin, supply, optimizer, steps=len(supply))
    after = _score(twin, episodes)
    text = f"loss {before[0]:.3g} before, {after[0]:.3g} after {len(supply)} meta-steps"
    good = after[0] < before[0] - 0.05 * abs(before[0])
    if after[1] is not None:
        # Here a lower loss is no proof: a model that never adapts lowers it by being less sure of itself.
        chance = 1 / episodes.query.y.shape[2]
        text += f", accuracy {after[1]:.3f}"
        good = after[1] > chance + 0.25 * (1 - chance)
    _require(good, f"it does not learn: {text}")
    return f"holds: {text}"


def _score(learner: MetaLearner, episodes: Episode) -> tuple[float, float | None]:
    """The mean criterion, and the accuracy where the targets are one-hot classes."""
    loss = evaluate(learner, [episodes], _surrogate(learner)).mean
    y = episodes.query.y
    if (
        not isinstance(y, Tensor)
        or y.ndim != 3
        or y.shape[2] < 2
        or not torch.equal(y.sum(2), torch.ones_like(y[..., 0]))
    ):
        return loss, None
    return loss, evaluate(learner, [episodes]).mean


# ------------------------------------------------------------------------------------------------ toy tasks


def _toy(learner: MetaLearner) -> Episode:
    """Tasks of Gaussian clusters, in a shape that the learner takes."""
    first = next((m for m in learner.modules() if isinstance(m, (nn.Linear, _ConvNd))), None)
    if first is None:
        raise ValueError("no toy task suits this learner (no linear or convolutional layer): pass episodes=...")
    if isinstance(first, _ConvNd):
        shape = (first.in_channels, *[28] * len(first.kernel_size))
    else:
        shape = (first.in_features,)
    heads = [m.out_features for m in learner.modules() if isinstance(m, nn.Linear)]
    for way in [learner.way] if learner.way else dict.fromkeys([5, *heads[::-1], 2]):
        tasks = _clusters(way, shape, seed=0)
        try:
            with torch.no_grad():
                copy.deepcopy(learner)(tasks, how="loop")
        except (RuntimeError, ValueError):
            continue
        return tasks
    raise ValueError(f"no toy task suits this learner (tried Gaussian clusters of shape {shape}): pass episodes=...")


def _clusters(way: int, shape: tuple[int, ...], seed: int, tasks: int = 4, shot: int = 3, query: int = 5) -> Episode:
    generator = torch.Generator().manual_seed(seed)
    made = []
    for _ in range(tasks):
        centres = torch.randn(way, *shape, generator=generator)

        def examples(each: int, centres: Tensor = centres) -> Examples:
            x = centres.repeat_interleave(each, 0)
            x = x + 0.7 * torch.randn(x.shape, generator=generator)
            return Examples(x, torch.eye(way).repeat_interleave(each, 0))

        made.append(Episode(examples(shot), examples(query)))
    episodes = stack(made)
    assert isinstance(episodes, Episode)
    return episodes
