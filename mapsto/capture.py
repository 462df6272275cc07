"""One meta-step's loss and gradient as a flat list of kernels, without Python, autograd or vmap in between.

Recorded once a shape of tasks (some seconds) by running the step on tensors without data, then replayed: small networks
spend nearly all their time on calls, and most of those go away. Compiled, it is a single function (`mapsto.native`).
"""

import logging
import math
import warnings
from collections.abc import Callable, Sequence
from types import FunctionType
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, fx, nn
from torch._ops import OpOverload
from torch.func import functional_call, functionalize
from torch.fx.graph import CodeGen
from torch.jit._fuser import optimized_execution
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten

from mapsto import native
from mapsto.episode import Episode, Episodes
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
        compiled: make one function of the kernels, in C++ of our own where the network is small and plain
            (`mapsto.native`, some seconds), else by torch's inductor (minutes once; its cache outlives the process).

    Raises:
        CannotRecord: the message names the reason that torch gives.
    """

    def __init__(self, learner: MetaLearner, tasks: Episodes, how: str, compiled: bool) -> None:
        names = [name for name, p in learner.named_parameters() if p.requires_grad]
        every = names + [name for name, p in learner.named_parameters() if not p.requires_grad]
        every += [name for name, _ in learner.named_buffers()]
        self._slots = [_slot(learner, name) for name in every]
        run, reached, leaves = None, [], tree_leaves(tasks)
        if compiled and isinstance(tasks, Episode) and leaves[0].device.type == "cpu":
            one = tree_map(lambda leaf: leaf[:1].contiguous(), tasks)
            graph, _, reached = self._graph(learner, one, "loop", len(names), every, decomposed=True)
            run = native.function(graph, len(every))
        if run is None:
            graph, inputs, reached = self._graph(learner, tasks, how, len(names), every, decomposed=compiled)
            run = _compiled(graph, inputs) if compiled else _scripted(graph, inputs)
        self._run, self._learned = run, [self._slots[i] for i in reached]

    def _graph(
        self, learner: MetaLearner, tasks: Episodes, how: str, learned: int, every: list[str], decomposed: bool
    ) -> tuple[fx.GraphModule, list[Tensor], list[int]]:
        """The graph, what it was recorded on, and which of the learned parameters it gives gradients of."""
        from torch._inductor.decomposition import select_decomp_table
        from torch.fx.experimental.proxy_tensor import make_fx

        leaves, spec = tree_flatten(tasks)
        reached: list[int] = []

        def step(*tensors: Tensor) -> list[Tensor]:
            params = [t.detach().requires_grad_() for t in tensors[:learned]]
            state = dict(zip(every, [*params, *tensors[learned : len(every)]], strict=True))
            episodes = tree_unflatten(list(tensors[len(every) :]), spec)
            with torch.enable_grad():
                loss = functional_call(learner, state, (episodes,), {"how": how})
                grads = torch.autograd.grad(loss, params, allow_unused=True)
            reached[:] = [i for i, grad in enumerate(grads) if grad is not None]
            return [loss.detach(), *(grad for grad in grads if grad is not None)]

        inputs = [*(held[key].detach() for held, key in self._slots), *leaves]
        state = torch.get_rng_state()
        try:
            table = {**select_decomp_table(), aten.var_mean.correction: _var_mean} if decomposed else None
            graph = make_fx(step, decomposition_table=table, tracing_mode="fake")(*inputs)
            if any(isinstance(n.target, OpOverload) and n.target._schema.is_mutable for n in graph.graph.nodes):
                graph = make_fx(functionalize(graph), tracing_mode="fake")(*inputs)
        except Exception as error:  # whatever the learner does that has no meaning without data
            reason = str(error).partition("\n")[0]
            raise CannotRecord(f"{type(learner).__name__}'s step can't be recorded: {reason}") from error
        finally:
            torch.set_rng_state(state)
        graph.graph.set_codegen(CodeGen())
        _shorten(graph)
        return graph, inputs, reached

    def __call__(self, tasks: Episodes) -> tuple[Tensor, list[Tensor]]:
        """The loss, and its gradient with respect to `learned`."""
        loss, *grads = self._run(*[held[key] for held, key in self._slots], *_leaves(tasks)[0])
        return loss, grads

    @property
    def learned(self) -> list[nn.Parameter]:
        """The learner's parameters that the loss depends on, without the frozen ones."""
        return [held[key] for held, key in self._learned]


def _var_mean(x: Tensor, dim: list[int] | None = None, correction: float | None = None, keepdim: bool = False) -> Any:
    dim = dim or list(range(x.dim()))
    mean, left = x.mean(dim, keepdim=True), 1 if correction is None else correction
    square = (x - mean).square().sum(dim, keepdim=keepdim)
    return square / (math.prod(x.shape[d] for d in dim) - left), mean if keepdim else mean.squeeze(dim)


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
    leaves, spec = _leaves(tasks)
    shapes = tuple([(leaf.shape, leaf.dtype, leaf.device) for leaf in leaves])
    return shapes, spec, how, compiled, torch.is_autocast_enabled("cpu"), _settings(learner)


def _leaves(tasks: Episodes) -> tuple[Sequence[Tensor], Any]:
    """`tree_flatten`, ten times as fast for plain tasks."""
    if isinstance(tasks, Episode):
        leaves = (*tasks.support, *tasks.query)
        if all([type(leaf) is Tensor for leaf in leaves]):
            return leaves, None
    return tree_flatten(tasks)


def _slot(learner: nn.Module, name: str) -> tuple[dict[str, Any], str]:
    """Where a parameter or a buffer is kept."""
    path, _, last = name.rpartition(".")
    owner = learner.get_submodule(path)
    return (owner._parameters if last in owner._parameters else owner._buffers), last


_OWN = set(nn.Module().__dict__) - {"training"}
_PLAIN = (bool, int, float, str, tuple, type(None), FunctionType)


class _Settings:
    """What a recording freezes: the modes, numbers and functions that the modules hold.

    Attributes:
        found: all of it, to be compared by value.
    """

    def __init__(self, learner: nn.Module) -> None:
        found: list[Any] = []
        self._seen: list[tuple[Callable[[str], Any], str, Any]] = []
        self._dicts: list[dict[str, Any]] = []
        self._params: list[nn.Parameter] = []
        for module in learner.modules():
            own = [(name, value) for name, value in module.__dict__.items() if name not in _OWN]
            found += [
                id(module),
                *[repr(v) if type(v) in (list, dict) else v if isinstance(v, _PLAIN) else 0 for _, v in own],
            ]
            for held, items in ((module.__dict__, own), (module._modules, module._modules.items())):
                self._dicts.append(held)
                self._seen += [(held.get, name, value) for name, value in items]
            self._params += [p for p in module._parameters.values() if p is not None]
        self._sizes, self._learned = self._measured()
        self._inside = any(type(value) in (list, dict) for _, _, value in self._seen)
        self.found = (*found, *self._learned)

    def _measured(self) -> tuple[list[int], list[bool]]:
        return [len(held) for held in self._dicts], [p.requires_grad for p in self._params]

    def stand(self) -> bool:
        """Whether nothing was set since: by identity, which is ten times as fast as to look through it all."""
        same = all([get(name) is value for get, name, value in self._seen])
        return same and not self._inside and self._measured() == (self._sizes, self._learned)


_SETTINGS: WeakKeyDictionary[nn.Module, _Settings] = WeakKeyDictionary()


def _settings(learner: nn.Module) -> tuple:
    """What a recording freezes (see `_Settings`)."""
    seen = _SETTINGS.get(learner)
    if seen is None or not seen.stand():
        seen = _SETTINGS[learner] = _Settings(learner)
    return seen.found


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
