"""jax-meta 1.0.3: its MAML over a haiku model, the gradient of `batch_outer_loss` jitted, as its `train_step` is."""

# pyright: reportMissingImports=false

from typing import Any

import numpy as np
import torch

from benchmarks.contest import Entry, NotOffered
from benchmarks.gradients import outcome
from benchmarks.works import PlainConv4, Work, weights
from mapsto.losses import mse


def jax_meta(work: Work, device: str) -> Entry:
    import haiku as hk
    import jax
    import jax.numpy as jnp
    from jax_meta.datasets.base import Dataset
    from jax_meta.metalearners import MAML

    if not work.steps:
        raise NotOffered("no prototypical networks")
    if work.first_order:
        raise NotOffered("no first order")
    if device == "cpu" and work.flops > 1e8:
        raise NotOffered("XLA's vmapped convolutions take minutes on a CPU")
    if device == "cuda" and jax.default_backend() != "gpu":
        raise NotOffered("jax is the CPU's build")

    class Regression(MAML):
        def loss(self, params: Any, state: Any, inputs: Any, targets: Any, args: Any) -> Any:
            out, state = self.model.apply(params, state, inputs, *args)
            loss = jnp.mean((out - targets) ** 2)
            return loss, (state, {"loss": loss})

    regression = work.criterion is mse
    plain = work.plain()
    forward = _mlp if regression else _conv4(plain)
    model = hk.without_apply_rng(hk.transform_with_state(forward))
    maml = (Regression if regression else MAML)(model, num_steps=work.steps, alpha=work.lr)
    train, test = (
        Dataset(jnp.asarray(_last(x.numpy())), jnp.asarray(y.numpy() if regression else y.argmax(2).numpy()), None)
        for x, y in work.tasks()
    )
    drawn, state = maml.meta_init(jax.random.PRNGKey(0), train.inputs[0])
    # Haiku sorts its modules by name, and each module's parameters: bias before weight, offset before scale.
    names = [(m, n) for m in drawn for n in sorted(drawn[m], reverse=True)]
    params: dict = {m: {} for m in drawn}
    for (m, n), w in zip(names, weights(work), strict=True):
        params[m][n] = jnp.asarray(_transposed(w).numpy()).reshape(drawn[m][n].shape)
    gradient = jax.jit(jax.value_and_grad(maml.batch_outer_loss, has_aux=True), static_argnums=(4,))
    last: list = []

    def step() -> None:
        (loss, _), grads = gradient(params, state, train, test, ())
        last[:] = [float(loss), jax.block_until_ready(grads)]

    def result() -> dict[str, np.ndarray]:
        grads = [_transposed(torch.from_numpy(np.array(last[1][m][n])), back=True) for m, n in names]
        return outcome(last[0], grads)

    return Entry(step, result)


def _mlp(x: Any) -> Any:
    import haiku as hk

    return hk.nets.MLP([40, 40, 1])(x)


def _conv4(plain: Any) -> Any:
    import haiku as hk
    import jax

    assert isinstance(plain, PlainConv4)
    convolution, outputs = plain.body[0], plain.head.out_features

    def forward(x: Any) -> Any:
        for i in range(4):
            x = hk.Conv2D(
                convolution.out_channels, 3, convolution.stride, with_bias=False, name=f"layer{i}a",
                padding=[(1, 1), (1, 1)],  # torch's; haiku's SAME pads a stride of two on one side
            )(x)  # fmt: skip
            x = hk.BatchNorm(True, True, 0.9, name=f"layer{i}b")(x, True)
            x = jax.nn.relu(x)
            if plain.down == "pool":
                x = hk.max_pool(x, 2, 2, padding="VALID")
        x = x.mean((1, 2)) if plain.down == "stride" else x.transpose(0, 3, 1, 2).reshape(len(x), -1)
        return hk.Linear(outputs, name="layer4")(x)

    return forward


def _last(x: np.ndarray) -> np.ndarray:
    """Images with their channels last; other inputs as they are."""
    return np.moveaxis(x, 2, -1) if x.ndim == 5 else x


def _transposed(w: torch.Tensor, back: bool = False) -> torch.Tensor:
    """Torch's weights `[out, in, ...]` as haiku's `[..., in, out]`, or back."""
    if w.ndim == 2:
        return w.T
    if w.ndim == 4:
        # A norm's parameters are [1, 1, 1, channels] in haiku, and stay a row.
        if back and w.shape[:3] == (1, 1, 1):
            return w
        return w.permute(3, 2, 0, 1) if back else w.permute(2, 3, 1, 0)
    return w
