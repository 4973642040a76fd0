"""Counts of what CUDA would be given: kernels, and points at which the host waits for the device.

The code that CUDA runs is run on the CPU, every operation is seen by a TorchDispatchMode, and each that computes
counts as one kernel. Left out: views and changes of shape, stride or memory without a value (`empty`, `detach`, …). A
few operations are more than one kernel on CUDA (sort, cumsum, multi-tensor updates of hundreds of tensors), so the
count is that of launches from Python's side. Fused optimizers are left in.
"""

from collections import Counter

import torch
from torch.utils._python_dispatch import TorchDispatchMode

# No kernel, though they return a new tensor.
FREE = {
    "aten::detach",
    "aten::empty",
    "aten::empty_like",
    "aten::empty_strided",
    "aten::new_empty",
    "aten::new_empty_strided",
    "aten::_unsafe_view",
    "aten::_reshape_alias",
    "aten::lift_fresh",
    "aten::set_",
    "aten::resize_",
}
# The host reads a value or a size that the device computes; or, for lift_fresh, copies a value of its own to the device,
# out of memory that is not pinned, for which it waits, too.
WAITS = {
    "aten::_local_scalar_dense",
    "aten::item",
    "aten::is_nonzero",
    "aten::equal",
    "aten::nonzero",
    "aten::masked_select",
    "aten::bincount",
    "aten::_unique2",
    "aten::unique_dim",
    "aten::unique_consecutive",
    "aten::repeat_interleave",
    "aten::lift_fresh",
    "aten::_assert_scalar",
}
# With deterministic algorithms CUDA sorts the indices first.
SCATTERS = {"aten::scatter_", "aten::scatter_add_", "aten::index_add_", "aten::index_put_"}


class KernelCount(TorchDispatchMode):
    """`with KernelCount() as count: …`, then `count.kernels`, `count.waits`, and by name `count.names`, `count.waited`.

    `count.sorted`: operations that sort first, by name.
    """

    def __init__(self):
        super().__init__()
        self.names, self.waited, self.sorted = Counter(), Counter(), Counter()

    @property
    def kernels(self) -> int:
        return self.names.total()

    @property
    def waits(self) -> int:
        return self.waited.total()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name, kwargs = function._schema.name, kwargs or {}
        indexed = name in ("aten::index", "aten::index_put", "aten::index_put_") and any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
        if name in WAITS or indexed or to_host(name, args, kwargs):
            self.waited[name] += 1
        if name in SCATTERS and torch.are_deterministic_algorithms_enabled():
            self.sorted[name] += 1
        view = any(r.alias_info is not None and not r.alias_info.is_write for r in function._schema.returns)
        if not view and name not in FREE and name not in WAITS and not name.startswith("profiler::"):
            self.names[name] += 1
        return function(*args, **kwargs)


def to_host(name: str, args, kwargs) -> bool:
    """A copy that names the CPU, as `.cpu()` does of a tensor of the device."""
    return name == "aten::_to_copy" and str(kwargs.get("device", "")) == "cpu" and args[0].device.type != "cpu"
