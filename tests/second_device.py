"""A second device, emulated on the CPU: PyTorch refuses to mix its tensors with those of the CPU, as it does with CUDA's.

`python second_device.py '[["loss=ce"], ["evaluate", "RUN"]]'` is `segtrain loss=ce` and then `segtrain evaluate RUN` with
this device in the place of CUDA. It proves what a machine without a GPU cannot show otherwise: that each tensor is on
the device where it is used, that nothing reads one there as if it were the host's, that no process forked from this one
uses it, and what autocast casts. Started by torchrun, each process has a device of its own, and gloo stands for NCCL. The
kernels of CUDA are not seen: each operation is computed by that of the CPU.
"""

import contextlib
import importlib.abc
import importlib.machinery
import json
import os
import re
import sys
import types

import torch
import torch.utils.backend_registration as registration
from torch import library
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map

NAME = "second"
PROCESS, NUMBER = os.getpid(), int(os.environ.get("LOCAL_RANK", 0))
COPIES = ("aten::copy_", "aten::_to_copy")  # between devices
INDEXED = (
    "aten::index",
    "aten::index_put",
    "aten::index_put_",
    "aten::_index_put_impl_",
)  # by indices of the host, too
OF_HOST = ("aten::_local_scalar_dense", "aten::equal", "aten::is_nonzero", "aten::is_pinned")  # give no tensor
# What autocast computes in half precision and in float32 on CUDA, of what networks and losses here use.
LOWER = ("conv2d", "conv_transpose2d.input", "linear", "matmul", "addmm", "mm", "bmm", "scaled_dot_product_attention")
FULL = ("softmax.int", "log_softmax.int", "exp", "log", "pow.Tensor_Scalar", "softplus", "layer_norm", "cumsum")
FULL += ("sum", "sum.dim_IntList")
kept = []  # what PyTorch forgets unless it is kept


class OnDevice(torch.Tensor):
    """A tensor of the device; its values are in `values`, on the CPU."""

    @staticmethod
    def __new__(cls, values: torch.Tensor):
        return torch.Tensor._make_wrapper_subclass(
            cls,
            values.size(),
            strides=values.stride(),
            storage_offset=values.storage_offset(),
            dtype=values.dtype,
            device=torch.device(NAME, NUMBER),
        )

    def __init__(self, values: torch.Tensor):
        self.values = values

    def __deepcopy__(self, memo: dict):
        with torch.no_grad():
            new = self.detach().clone()
        parameter = isinstance(self, torch.nn.Parameter)
        new = torch.nn.Parameter(new, self.requires_grad) if parameter else new.requires_grad_(self.requires_grad)
        memo[id(self)] = new
        return new

    def __reduce_ex__(self, protocol: int):
        return self.values.__reduce_ex__(protocol)  # torch.save writes it, torch.load gives it to the CPU

    def new_tensor(self, data, *, dtype=None, device=None):
        return torch.tensor(data, dtype=dtype or self.dtype).to(device or self.device)

    def tolist(self):
        return self.values.tolist()

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return compute(function, args, kwargs or {})


class Computing(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return compute(function, args, kwargs or {})


def is_ours(device) -> bool:
    if device is None or torch.device(device).type != NAME:
        return False
    if torch.device(device).index not in (None, NUMBER):
        raise RuntimeError(f"{device} is the device of another process")
    return True


def compute(function, args: tuple, kwargs: dict):
    """An operation on the values of its arguments. Raises RuntimeError where CUDA does."""
    name = function._schema.name
    tensors = [each for each in tree_leaves((args, kwargs)) if isinstance(each, torch.Tensor)]
    ours = [each for each in tensors if isinstance(each, OnDevice)]
    others = [each for each in tensors if not isinstance(each, OnDevice) and (each.ndim or name.startswith("aten::_f"))]
    if ours and os.getpid() != PROCESS:
        raise RuntimeError("Cannot re-initialize CUDA in forked subprocess")
    if ours and others and name not in COPIES and not (name in INDEXED and isinstance(args[0], OnDevice)):
        shapes = ", ".join(str(list(each.shape)) for each in others)
        raise RuntimeError(f"Expected all tensors to be on the same device, but {name} has {shapes} on the CPU")
    assert all(each.stride() == each.values.stride() for each in ours), f"{name}: not the layout of the values"
    on_host = lambda each: each.values if isinstance(each, OnDevice) else each  # noqa: E731
    given, named = tree_map(on_host, args), tree_map(on_host, kwargs)
    here = isinstance(args[0], OnDevice) if name == "aten::copy_" else bool(ours)
    if kwargs.get("device") is not None:
        here = is_ours(kwargs["device"])
        named["device"] = torch.device("cpu") if here else kwargs["device"]
    named.pop("pin_memory", None)
    result = OF_SYNC_BATCH_NORM.get(name, function)(*given, **named)
    if not here:
        return args[0] if name == "aten::copy_" else result
    if name in OF_HOST:
        return result
    result = tree_map(lambda each: OnDevice(each) if isinstance(each, torch.Tensor) else each, result)
    return return_and_correct_aliasing(function, args, kwargs, result) if ours else result


def _channels(values: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    return values.to(torch.float32).view(1, -1, *[1] * (images.ndim - 2))


def batch_norm_stats(images, eps):
    variance, mean = torch.var_mean(images.float(), dim=(0, 2, 3), correction=0)
    return mean, (variance + eps).rsqrt()


def batch_norm_gather_stats(images, means, inverses, running_mean, running_var, momentum, eps, counts):
    total, share = counts.sum(), (counts / counts.sum())[:, None]
    mean = (share * means).sum(dim=0)
    variance = (share * (inverses**-2 - eps + (means - mean) ** 2)).sum(dim=0)
    if running_mean is not None:
        running_mean.lerp_(mean, momentum)
        running_var.lerp_(variance * total / (total - 1), momentum)
    return mean, (variance + eps).rsqrt()


def batch_norm_element(images, weight, bias, mean, inverse, eps):
    scaled = (images - _channels(mean, images)) * _channels(inverse * weight, images) + _channels(bias, images)
    return scaled.to(images.dtype)


def batch_norm_reduce(slope, images, mean, inverse, weight, *wanted):
    slope = slope.float()
    total, product = slope.sum(dim=(0, 2, 3)), (slope * (images - _channels(mean, images))).sum(dim=(0, 2, 3))
    return total, product, product * inverse, total


def batch_norm_backward(slope, images, mean, inverse, weight, total, product, counts):
    count = counts.sum()
    along = (images - _channels(mean, images)) * _channels(inverse**2 * product / count, images)
    found = (slope - _channels(total / count, images) - along) * _channels(inverse * weight, images)
    return found.to(images.dtype)


OF_SYNC_BATCH_NORM = {  # the CPU has none of these
    "aten::batch_norm_stats": batch_norm_stats,
    "aten::batch_norm_gather_stats_with_counts": batch_norm_gather_stats,
    "aten::batch_norm_elemt": batch_norm_element,
    "aten::batch_norm_backward_reduce": batch_norm_reduce,
    "aten::batch_norm_backward_elemt": batch_norm_backward,
}


class Event:
    def __init__(self, **settings):
        """Of no effect."""

    def record(self, *stream) -> None:
        """Nothing waits for it."""

    synchronize = record

    def elapsed_time(self, other) -> float:
        return 1.0


def module() -> types.ModuleType:
    """What `torch.cuda` is for CUDA, as far as segtrain and PyTorch use it."""
    made, nothing, zero = types.ModuleType(f"torch.{NAME}"), lambda *any: None, lambda *any: 0
    properties = lambda index=NUMBER: types.SimpleNamespace(uuid=f"GPU-{index}")  # noqa: E731
    vars(made).update(
        is_available=lambda: True,
        is_initialized=lambda: True,
        _is_in_bad_fork=lambda: False,
        device_count=lambda: int(os.environ.get("LOCAL_WORLD_SIZE", 1)),
        current_device=lambda: NUMBER,
        set_device=nothing,
        manual_seed=nothing,
        manual_seed_all=nothing,
        synchronize=nothing,
        memory_reserved=zero,
        memory_allocated=zero,
        max_memory_allocated=zero,
        reset_peak_memory_stats=nothing,
        mem_get_info=lambda *any: (2**36, 2**37),
        get_rng_state=lambda *any: torch.zeros(16, dtype=torch.uint8),
        set_rng_state=nothing,
        get_device_name=lambda *any: "emulated",
        get_device_properties=properties,
        is_bf16_supported=lambda **any: True,
        get_amp_supported_dtype=lambda: [torch.float16, torch.bfloat16],
        device_of=lambda tensor: contextlib.nullcontext(),
        Event=Event,
    )
    return made


def let_autocast_cast() -> None:
    every, aten = library.Library("_", "IMPL"), library.Library("aten", "IMPL")
    every.fallback(library.fallthrough_kernel, "AutocastPrivateUse1")
    kept.extend([every, aten])
    for name in (*LOWER, *FULL):
        base, _, overload = name.partition(".")
        operation = getattr(getattr(torch.ops.aten, base), overload or "default")

        def cast(*args, operation=operation, lower=name in LOWER, **kwargs):
            dtype = torch.get_autocast_dtype(NAME) if lower else torch.float32

            def one(each):
                floats = isinstance(each, torch.Tensor) and each.is_floating_point() and each.dtype != torch.float64
                return each.to(dtype) if floats else each

            key = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)
            with torch._C._ExcludeDispatchKeyGuard(key):
                return operation(*tree_map(one, args), **tree_map(one, kwargs))

        aten.impl(name, cast, "AutocastPrivateUse1")


class Source(importlib.machinery.SourceFileLoader):
    """A module of segtrain, with the name of this device where it has CUDA's."""

    def get_code(self, fullname: str):
        text = re.sub(r"torch\.cuda\b", f"torch.{NAME}", self.get_source(fullname))
        text = (
            text.replace("torch.version.cuda", "'none'")
            .replace("cpu:gloo,cuda:nccl", "gloo")
            .replace('"cuda"', f'"{NAME}"')
        )
        return compile(text, self.path, "exec", dont_inherit=True)


class Sources(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if not name.startswith("segtrain."):
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and isinstance(spec.loader, importlib.machinery.SourceFileLoader):
            spec.loader = Source(spec.loader.name, spec.loader.path)
        return spec


def made_by(name: str):
    """torch.tensor or torch.as_tensor, which PyTorch calls below its dispatch."""
    original = getattr(torch, name)

    def make(data, *, device=None, **more):
        return original(data, **more).to(device) if is_ours(device) else original(data, device=device, **more)

    return make


def load_to(original):
    """torch.load, which cannot make tensors of the device."""

    def load(file, map_location=None, **more):
        if not is_ours(map_location):
            return original(file, map_location=map_location, **more)
        move = lambda each: each.to(map_location) if isinstance(each, torch.Tensor) else each  # noqa: E731
        return tree_map(move, original(file, map_location="cpu", **more))

    return load


def swapping(original):
    """Module._apply, as of `.to(device)`, with the new tensor in the place of the old one: with its `values`, that is."""

    def apply(module, function, **more):
        torch.__future__.set_swap_module_params_on_conversion(True)
        try:
            return original(module, function, **more)
        finally:
            torch.__future__.set_swap_module_params_on_conversion(False)

    return apply


def install() -> None:
    """Put the device in the place of CUDA for what is imported of segtrain from here on."""
    registration._setup_privateuseone_for_python_backend(NAME, module())
    let_autocast_cast()
    sys.meta_path.insert(0, Sources())
    os.environ["SEGTRAIN_SUMS"] = "dense"  # Triton's kernels run in its interpreter: losses/test_triton.py
    torch.nn.Module._apply = swapping(torch.nn.Module._apply)
    torch.autograd.set_multithreading_enabled(False)  # the threads of a device know no dispatch mode
    torch.tensor, torch.as_tensor, torch.load = made_by("tensor"), made_by("as_tensor"), load_to(torch.load)
    torch.Tensor.pin_memory = lambda self, *device: self.clone()
    Computing().__enter__()


def main(commands: list[list[str]]) -> None:
    """Run the commands, up to the first that fails."""
    install()
    from segtrain.cli import main as segtrain

    for words in commands:
        sys.argv = ["segtrain", *words]
        try:
            segtrain()
        except SystemExit as end:
            if end.code:
                raise


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
