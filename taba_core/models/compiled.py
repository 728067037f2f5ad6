"""Networks through torch.compile: what is compiled as one graph, and one batch size for all calls.

A graph is compiled for one shape, and a U-Net takes minutes. So a batch smaller than the largest one so far (the last
of a shard, the images a method still works on) is padded to it and its padding dropped: row i of the output depends on
row i of the input alone.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from typing import Any

import torch
from torch import Tensor, nn

from taba_core.models.vectorised_norms import vectorise_norms

# A transformer's layers are alike: compiled once and used in each, they take a tenth of the time of the whole graph.
_REPEATED = (
    "BasicTransformerBlock",
    "JointTransformerBlock",
    "FluxTransformerBlock",
    "FluxSingleTransformerBlock",
)


class CompiledNetwork:
    """A compiled network, called as the module is: every tensor among the arguments has the batch as first axis.

    Transformers and U-Nets with transformer blocks (DiT, SD, SDXL, SD3, FLUX.1) are compiled block by block; other
    U-Nets as a whole, on CUDA as CUDA graphs. A call whose input takes gradients goes to the module as it is, as the
    graphs have no backward pass.

    Args:
      module: on its device, in its precision and layout; changed in place where its blocks are compiled.
      device: kind of device it lies on.
    """

    def __init__(self, module: nn.Module, device: torch.device) -> None:
        self.module = module
        self.size = 0  # of the batch that is compiled
        self._graphs = False
        self._call: Any = module
        if has_repeated_blocks(module):
            blocks: Any = module
            # DiT's class does not name its blocks.
            blocks._repeated_blocks = list(_REPEATED)
            blocks.compile_repeated_blocks(fullgraph=True, dynamic=False)
        else:
            self._graphs = device.type == "cuda"
            mode = "reduce-overhead" if self._graphs else None
            if device.type == "cpu":
                module = vectorise_norms(module)
            self._call = torch.compile(module, fullgraph=True, dynamic=False, mode=mode)

    def __call__(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        """The module's output for a batch x, (B, ...), of this call's own memory."""
        if torch.is_grad_enabled() and _takes_gradients((x, args, kwargs)):
            return self.module(x, *args, **kwargs)
        count = len(x)
        self.size = max(self.size, count)
        if self._graphs:
            _keep_graphs_of_this_thread()
            torch.compiler.cudagraph_mark_step_begin()
        x, args, kwargs = _padded((x, args, kwargs), count, self.size)
        # The next replay of a CUDA graph writes over what this one returned.
        return _first_rows(self._call(x, *args, **kwargs), count, copy=self._graphs)


def has_repeated_blocks(module: nn.Module) -> bool:
    """Whether the network has transformer blocks that diffusers compiles one by one."""
    named = any(type(part).__name__ in _REPEATED for part in module.modules())
    return named and hasattr(module, "compile_repeated_blocks")


def _takes_gradients(value: Any) -> bool:
    return any(tensor.requires_grad for tensor in _tensors(value))


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, tuple) else ()
    return [tensor for part in parts for tensor in _tensors(part)]


def _padded(value: Any, count: int, size: int) -> Any:
    """Every tensor of `count` rows with its last row repeated up to `size` rows, which keeps conditions valid."""
    if count == size:
        return value
    if isinstance(value, Tensor):
        last = value[-1:].expand(size - count, *value.shape[1:])
        return torch.cat([value, last]) if len(value) == count else value
    if isinstance(value, dict):
        return {key: _padded(part, count, size) for key, part in value.items()}
    return tuple(_padded(part, count, size) for part in value) if isinstance(value, tuple) else value


def _first_rows(value: Any, count: int, *, copy: bool) -> Any:
    if isinstance(value, Tensor):
        return value[:count].clone() if copy else value[:count]
    return tuple(_first_rows(part, count, copy=copy) for part in value)


def _keep_graphs_of_this_thread() -> None:
    """Give this thread a place for its CUDA graphs: torch before 2.13 makes one for the importing thread alone."""
    from torch._inductor import cudagraph_trees

    local: Any = cudagraph_trees.local
    if hasattr(local, "tree_manager_containers") or torch._C._is_key_in_tls("tree_manager_containers"):
        return
    local.tree_manager_containers = {}
    local.tree_manager_locks = defaultdict(threading.Lock)
    torch._C._stash_obj_in_tls("tree_manager_containers", local.tree_manager_containers)
    torch._C._stash_obj_in_tls("tree_manager_locks", local.tree_manager_locks)
