"""One meta-step's loss and gradient as a flat list of kernels, without Python, autograd or vmap in between.

Recorded once a shape of tasks (some seconds) by running the step on tensors without data, then replayed: small networks
spend nearly all their time on calls, and half of those go away. Compiled, the kernels are fused as well.
"""

import logging
import warnings
from collections.abc import Callable
from types import FunctionType
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, fx, nn
from torch.func import functional_call
from torch.fx.graph import CodeGen
from torch.jit._fuser import optimized_execution
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from mapsto.episode import Episodes
from mapsto.learner import MetaLearner

aten = torch.ops.aten

OFTEN = 5
"""Recordings of one learner after which its settings are taken to change all the time."""

_RECORDED: WeakKeyDictionary[MetaLearner, dict[Any, "Recording"]] = WeakKeyDictionary()


class CannotRecord(ValueError):
    """The step depends on the values of its tensors, or on other things that a recording would freeze."""


class Recording:
    """The step of one learner in its present settings, for tasks of one shape.

    Args:
        learner: in the mode and with the settings in which it is to be recorded.
        tasks: many tasks of the shape wanted, or one.
        how: "vmap" or "loop", how the tasks recorded go together.
        compiled: fuse the kernels with torch's inductor (minutes once; its cache outlives the process).

    Raises:
        CannotRecord: the message names the reason that torch gives.
    """

    def __init__(self, learner: MetaLearner, tasks: Episodes, how: str, compiled: bool) -> None:
        from torch._inductor.decomposition import select_decomp_table
        from torch.fx.experimental.proxy_tensor import make_fx

        leaves, spec = tree_flatten(tasks)
        names = [name for name, p in learner.named_parameters() if p.requires_grad]
        every = names + [name for name, p in learner.named_parameters() if not p.requires_grad]
        every += [name for name, _ in learner.named_buffers()]
        self._slots = [_slot(learner, name) for name in every]
        self._reached: list[bool] = []

        def step(*tensors: Tensor) -> list[Tensor]:
            params = [t.detach().requires_grad_() for t in tensors[: len(names)]]
            state = dict(zip(every, [*params, *tensors[len(names) : len(every)]], strict=True))
            episodes = tree_unflatten(list(tensors[len(every) :]), spec)
            with torch.enable_grad():
                loss = functional_call(learner, state, (episodes,), {"how": how})
                grads = torch.autograd.grad(loss, params, allow_unused=True)
            self._reached = [grad is not None for grad in grads]
            return [loss.detach(), *(grad for grad in grads if grad is not None)]

        inputs = [*(held[key].detach() for held, key in self._slots), *leaves]
        state = torch.get_rng_state()
        try:
            graph = make_fx(
                step, decomposition_table=select_decomp_table() if compiled else None, tracing_mode="fake"
            )(*inputs)  # fmt: skip
        except Exception as error:  # whatever the learner does that has no meaning without data
            reason = str(error).partition("\n")[0]
            raise CannotRecord(f"{type(learner).__name__}'s step can't be recorded: {reason}") from error
        finally:
            torch.set_rng_state(state)
        graph.graph.set_codegen(CodeGen())
        _shorten(graph)
        self._run: Callable[..., Any] = _compiled(graph, inputs) if compiled else _scripted(graph, inputs)

    def __call__(self, tasks: Episodes) -> tuple[Tensor, list[Tensor | None]]:
        """The loss, and its gradient with respect to the learner's unfrozen parameters (None where there is none)."""
        loss, *found = self._run(*(held[key] for held, key in self._slots), *tree_leaves(tasks))
        grads = iter(found)
        return loss, [next(grads) if reached else None for reached in self._reached]


def known(learner: MetaLearner, tasks: Episodes, how: str, compiled: bool) -> Recording | None:
    """The recording that fits, where there is one already."""
    return _RECORDED.get(learner, {}).get(_key(learner, tasks, how, compiled))


def recorded(learner: MetaLearner, tasks: Episodes, how: str, compiled: bool) -> Recording:
    """The recording that fits, made where there is none yet.

    Raises:
        CannotRecord: see `Recording`; also where the learner's settings change all the time.
    """
    key, made = _key(learner, tasks, how, compiled), _RECORDED.setdefault(learner, {})
    if key not in made:
        if len(made) >= OFTEN:
            raise CannotRecord(f"{type(learner).__name__}'s settings change from step to step")
        made[key] = Recording(learner, tasks, how, compiled)
    return made[key]


def _key(learner: MetaLearner, tasks: Episodes, how: str, compiled: bool) -> Any:
    """What a recording is made for."""
    leaves, spec = tree_flatten(tasks)
    shapes = tuple((leaf.shape, leaf.dtype, leaf.device) for leaf in leaves)
    return shapes, spec, how, compiled, torch.is_autocast_enabled("cpu"), _settings(learner)


def _slot(learner: nn.Module, name: str) -> tuple[dict[str, Any], str]:
    """Where a parameter or a buffer is kept."""
    path, _, last = name.rpartition(".")
    owner = learner.get_submodule(path)
    return (owner._parameters if last in owner._parameters else owner._buffers), last


_OWN = set(nn.Module().__dict__) - {"training"}
_PLAIN = (bool, int, float, str, tuple, type(None), FunctionType)


def _settings(learner: nn.Module) -> tuple:
    """What a recording freezes: the modes, numbers and functions that the modules hold."""
    found: list[Any] = []
    for module in learner.modules():
        found.append(id(module))
        for name, value in module.__dict__.items():
            if name not in _OWN:
                found.append(value if isinstance(value, _PLAIN) else repr(value) if type(value) in (list, dict) else 0)
        found.extend(p.requires_grad for p in module._parameters.values() if p is not None)
    return tuple(found)


def _shorten(module: fx.GraphModule) -> None:
    """Take out what is there for autograd and vmap only, or can be had with fewer kernels."""
    from torch._functorch.compile_utils import fx_graph_cse
    from torch.fx.passes.fake_tensor_prop import FakeTensorProp

    _each(module, _skip)
    _each(module, _merge)
    inputs = [node.meta["val"] for node in module.graph.find_nodes(op="placeholder")]
    FakeTensorProp(module, inputs[0].fake_mode).propagate_dont_convert_inputs(*inputs)  # what is laid out anew
    _each(module, _skip)
    module.graph = fx_graph_cse(module.graph)
    module.recompile()


def _each(module: fx.GraphModule, rule: Callable[[fx.Node], None]) -> None:
    for node in list(module.graph.nodes):
        if node.op == "call_function":
            rule(node)
    module.graph.eliminate_dead_code()


def _merge(node: fx.Node) -> None:
    """a - c g and -c g in one kernel, no sum with 0, no product with 1, and products whose transpose is wanted."""
    one: Any = node.args[0] if node.args else None
    other: Any = node.args[1] if len(node.args) > 1 else None
    if node.target is aten.sub.Tensor and _times(other) and len(node.args) == 2 and not node.kwargs:
        node.args, node.kwargs = (one, other.args[0]), {"alpha": other.args[1]}
    elif _times(node) and _is(one, aten.neg.default):
        node.args = (one.args[0], -other)
    elif node.target is aten.add.Tensor and not node.kwargs:
        for zeros, rest in ((one, other), (other, one)):
            if _is(zeros, aten.zeros_like.default) and _can_be(node, rest):
                node.replace_all_uses_with(rest)
    elif node.target is aten.mul.Tensor and _is(_origin(other), aten.ones_like.default) and _can_be(node, one):
        node.replace_all_uses_with(one)
    elif node.target in _SWAPS and _is(one, aten.bmm.default, aten.mm.default) and len(one.users) == 1:
        with node.graph.inserting_before(node):
            swapped = [_call(node, node.target, (factor, *node.args[1:])) for factor in reversed(one.args)]
            node.replace_all_uses_with(product := _call(node, one.target, tuple(swapped)))
            product.meta["val"] = node.meta["val"].contiguous()


def _skip(node: fx.Node) -> None:
    """Detaching, views that change nothing, factors of 1, and two transpositions."""
    source: Any = node.args[0] if node.args else None
    if not isinstance(source, fx.Node):
        return
    if node.target in _VIEWS and source.target in _VIEWS:
        shown: Any = source.args[0]
        node.replace_input_with(source, shown)
        source = shown
    same = node.target in _ALIASES and _layout(node) == _layout(source)
    one = node.target in (aten.mul.Scalar, aten.pow.Tensor_Scalar) and node.args[1] == 1
    if node.target is aten.detach.default or same or one:
        node.replace_all_uses_with(source)
        node.graph.erase_node(node)
    elif node.target in _SWAPS and source.target is node.target and set(node.args[1:]) == set(source.args[1:]):
        origin: Any = source.args[0]
        node.replace_all_uses_with(origin)
        node.graph.erase_node(node)


def _is(node: Any, *targets: Any) -> bool:
    return isinstance(node, fx.Node) and node.target in targets


def _times(node: Any) -> bool:
    """Whether it is a tensor times a number."""
    return _is(node, aten.mul.Tensor) and isinstance(node.args[1], float)


def _origin(node: Any) -> Any:
    """What a view of any shape shows."""
    while _is(node, *_ALIASES, aten.unsqueeze.default):
        node = node.args[0]
    return node


def _can_be(node: fx.Node, other: Any) -> bool:
    """Whether the other can take its place: of its shape and type, and so in memory that all views of it are there."""
    if not isinstance(other, fx.Node):
        return False
    here, there = node.meta["val"], other.meta["val"]
    return here.shape == there.shape and here.dtype == there.dtype and there.is_contiguous()


def _call(like: fx.Node, target: Any, args: tuple) -> fx.Node:
    made = like.graph.call_function(target, args)
    made.meta["val"] = target(*(arg.meta["val"] if isinstance(arg, fx.Node) else arg for arg in args))
    return made


_VIEWS = (aten.view.default, aten._unsafe_view.default)
_ALIASES = (*_VIEWS, aten.expand.default, aten.permute.default, aten.slice.Tensor)
_SWAPS = (aten.t.default, aten.transpose.int)


def _layout(node: fx.Node) -> Any:
    value = node.meta["val"]
    return value.shape, value.stride()


def _scripted(graph: fx.GraphModule, inputs: list[Tensor]) -> Callable:
    """The same kernels, called by TorchScript's interpreter: half of a small network's time is Python's calls."""
    state = torch.get_rng_state()
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a trace depends on shapes and constants, as a recording does anyway
            copies = tuple(t.clone() for t in inputs)  # tracing runs it once
            traced = torch.jit.trace(lambda *tensors: tuple(graph(*tensors)), copies, check_trace=False)
    except RuntimeError:  # an operation that TorchScript has no form for
        return torch.no_grad()(graph)
    finally:
        torch.set_rng_state(state)
    script: Callable[..., Any] = traced  # type: ignore[assignment]

    def run(*tensors: Tensor) -> list[Tensor]:
        with torch.inference_mode(), optimized_execution(False):
            found = script(*tensors)
        return [t.clone() for t in found]  # which may be changed in place again

    return run


def _compiled(graph: fx.GraphModule, inputs: list[Tensor]) -> Callable:
    from torch._inductor.compile_fx import compile_fx_inner

    logging.getLogger("mapsto").warning(
        "compiling a graph of %d operations: up to some minutes the first time, seconds when it is in torch's cache",
        len(graph.graph.nodes),
    )
    run = compile_fx_inner(graph, inputs)
    return torch.no_grad()(lambda *tensors: run(list(tensors)))
