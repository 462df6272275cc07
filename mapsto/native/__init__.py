"""A recorded step of a small network as one C++ function, with the tasks outermost: a task's tensors stay in the cache.

One task's graph is written out with its sizes as constants. Element-wise operations merge into the loops that use
them, matrix products run in vector registers, threads share out the tasks, and nothing is allocated on the way.
"""

import ctypes
import platform
from collections.abc import Callable

import torch
from torch import Tensor, fx

from mapsto.native.source import outputs_of, write
from mapsto.native.values import Unsupported as Unsupported


def function(graph: fx.GraphModule, shared: int) -> Callable[..., list[Tensor]]:
    """One task's graph as a function over many tasks, compiled once (torch keeps what was compiled).

    Args:
        graph: in core operations; its first inputs are the same for all tasks, and its outputs are to be
            averaged over the tasks.
        shared: how many inputs are the same for all tasks.

    Returns:
        From the shared tensors and all tasks' others to the means.

    Raises:
        Unsupported: the graph can't be written out, or there is no compiler.
    """
    from torch._inductor.codecache import CppCodeCache
    from torch._inductor.exc import CppCompileError, InvalidCxxCompiler

    if graph.graph.find_nodes(op="placeholder")[0].meta["val"].device.type != "cpu":
        raise Unsupported("it is not for a CPU")
    source, scratch, dtype = write(graph, shared)
    try:
        step = CppCodeCache.load(source, extra_flags=_FLAGS).step
    except (InvalidCxxCompiler, CppCompileError) as error:
        raise Unsupported(f"the C++ compiler says: {str(error).strip()}") from error
    inputs = len(graph.graph.find_nodes(op="placeholder"))
    likes = [torch.empty(node.meta["val"].shape, dtype=dtype) for node in outputs_of(graph)]
    pointers = ctypes.c_void_p * (inputs + len(likes))

    def run(*tensors: Tensor) -> list[Tensor]:
        tasks = tensors[-1].shape[0]
        threads = min(tasks, torch.get_num_threads())
        given = [t if t.is_contiguous() else t.contiguous() for t in tensors]
        found = [torch.empty_like(like) for like in likes]
        room = torch.empty(scratch * threads, dtype=dtype)
        places = pointers(*[t.data_ptr() for t in given], *[t.data_ptr() for t in found])
        step(places, ctypes.c_void_p(room.data_ptr()), tasks, threads)
        return found

    return run


_FLAGS = ("-ftree-loop-vectorize", "-ffp-contract=fast", "-fassociative-math", "-fno-signed-zeros",
          "-fno-trapping-math", "-fno-math-errno",
          *(["-mprefer-vector-width=512"] if platform.machine() == "x86_64" else []))  # fmt: skip
"""After torch's own, which turn vector loops off."""
