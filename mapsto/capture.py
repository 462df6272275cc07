"""One meta-step's loss and gradient as a flat list of kernels, without Python, autograd or vmap in between.

Recorded once a shape of tasks (some seconds) by running the step on tensors without data, then replayed: small networks
spend nearly all their time on calls, and most of those go away. Compiled, it is a single function (`mapsto.native`).
"""

import logging
import math
import warnings
from collections.abc import Callable, Sequence
from types import FunctionType
from typing import Any, Literal
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
from mapsto.passes import fuse, shorten

aten = torch.ops.aten

Way = Literal["captured", "native", "compiled"]

OFTEN = 5
"""Recordings of one learner after which its settings are taken to change all the time."""

_RECORDED: WeakKeyDictionary[MetaLearner, dict[Any, "Recording | str"]] = WeakKeyDictionary()


class CannotRecord(ValueError):
    """The step depends on the values of its tensors, or on other things that a recording would freeze."""


class Recording:
    """The step of one learner in its present settings, for tasks of one shape.

    Args:
        learner: in the mode and with the settings in which it is to be recorded.
        tasks: many tasks of the shape wanted, or one.
        how: "vmap" or "loop", how the tasks recorded go together.
        way: what becomes of the recording. "captured": its kernels are called one after the other. "native": they are
            one function in C++, for any number of tasks (`mapsto.native`; some seconds). "compiled": they are fused by
            torch's inductor (minutes once; its cache outlives the process).

    Raises:
        CannotRecord: the message names the reason that torch gives.
    """

    def __init__(self, learner: MetaLearner, tasks: Episodes, how: str, way: Way) -> None:
        names = [name for name, p in learner.named_parameters() if p.requires_grad]
        every = names + [name for name, p in learner.named_parameters() if not p.requires_grad]
        every += [name for name, _ in learner.named_buffers()]
        self._slots = [_slot(learner, name) for name in every]
        if way == "native":  # for one task
            tasks, how = tree_map(lambda leaf: leaf[:1].contiguous(), tasks), "loop"
        graph, inputs, reached = self._graph(learner, tasks, how, len(names), every, decomposed=way != "captured")
        self._learned = [self._slots[i] for i in reached]
        if way == "native":
            try:
                self._run = native.function(graph, len(every))
            except native.Unsupported as error:
                raise CannotRecord(f"{type(learner).__name__}'s step is not made into C++: {error}") from error
        else:
            self._run = _compiled(graph, inputs) if way == "compiled" else _scripted(graph, inputs)

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
        shorten(graph)
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


def known(learner: MetaLearner, tasks: Episodes, how: str, way: Way) -> Recording | None:
    """The recording that fits, where there is one already."""
    found = _RECORDED.get(learner, {}).get(_key(learner, tasks, how, way))
    return found if isinstance(found, Recording) else None


def recorded(learner: MetaLearner, tasks: Episodes, how: str, way: Way) -> Recording:
    """The recording that fits, made where there is none yet.

    Raises:
        CannotRecord: see `Recording`; also where the learner's settings change all the time.
    """
    key, made = _key(learner, tasks, how, way), _RECORDED.setdefault(learner, {})
    found = made.get(key)
    if found is None:
        if sum(isinstance(one, Recording) for one in made.values()) >= OFTEN:
            raise CannotRecord(f"{type(learner).__name__}'s settings change from step to step")
        try:
            found = made[key] = Recording(learner, tasks, how, way)
        except CannotRecord as error:
            found = made[key] = str(error)  # the error itself would hold the learner
    if isinstance(found, str):
        raise CannotRecord(found)
    return found


def _key(learner: MetaLearner, tasks: Episodes, how: str, way: Way) -> Any:
    """What a recording is made for."""
    leaves, spec = _leaves(tasks)
    shapes = tuple([(leaf.shape, leaf.dtype, leaf.device) for leaf in leaves])
    return shapes, spec, how, way, torch.is_autocast_enabled("cpu"), _settings(learner)


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


def _scripted(graph: fx.GraphModule, inputs: list[Tensor]) -> Callable:
    """The same kernels, called by TorchScript: half of a small network's time is Python's calls."""
    fuse(graph)
    state = torch.get_rng_state()
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a trace depends on shapes and constants, as a recording does anyway
            copies = tuple(t.clone() for t in inputs)  # tracing runs it once
            traced: Any = torch.jit.trace(lambda *tensors: tuple(graph(*tensors)), copies, check_trace=False)
        torch._C._jit_pass_constant_propagation(traced.graph)  # lists of sizes are made once
        if _small(graph):
            traced = torch._C._jit_to_static_module(traced.graph)  # whose memory is laid out once, too
    except RuntimeError:  # an operation that TorchScript has no form for
        return torch.no_grad()(graph)
    finally:
        torch.set_rng_state(state)

    def run(*tensors: Tensor) -> list[Tensor]:
        with torch.inference_mode(), optimized_execution(False):
            found = traced(*tensors)
        return [t.clone() for t in found]  # which may be changed in place again

    return run


SMALL = 2**16
"""Bytes of a mean result up to which calls and allocations count more than arithmetic: laying out the memory of 14
recipes' steps once saved 8 to 14 % of the time below it, and lost up to 17 % above."""


def _small(graph: fx.GraphModule) -> bool:
    """Whether it is many small results on a CPU."""
    made = [node for node in graph.graph.nodes if isinstance(node.target, OpOverload) and not node.target.is_view]
    found = [leaf for node in made for leaf in tree_leaves(node.meta.get("val"))]  # some only check
    results = [leaf for leaf in found if isinstance(leaf, Tensor)]
    on_cpu = all(result.device.type == "cpu" for result in results)
    return on_cpu and sum(result.nbytes for result in results) <= SMALL * len(results)


def _compiled(graph: fx.GraphModule, inputs: list[Tensor]) -> Callable:
    from torch._inductor.compile_fx import compile_fx_inner
    from torch._inductor.exc import InductorError

    logging.getLogger("mapsto").warning(
        "compiling a graph of %d operations: up to some minutes the first time, seconds when it is in torch's cache",
        len(graph.graph.nodes),
    )
    try:
        run = compile_fx_inner(graph, inputs)
    except InductorError as error:
        if "InvalidCxxCompiler" not in str(error):
            raise
        remedy = "install one (g++), or take how='captured'"
        raise CannotRecord(f"how='compiled' needs a C++ compiler: {remedy}") from error
    return torch.no_grad()(lambda *tensors: run(list(tensors)))
