"""Memory of a training: whether a step fits, before one is tried, and what to do when it did not.

On a CPU the system kills a process that takes too much.
"""

import torch
from torch import nn

from segtrain import cpu
from segtrain.errors import OutOfMemory

PROBE = 128  # height and width of the image that is tried
FIX = "lower loader.batch_size (and raise trainer.accumulate by as much), or augment.size"
MOST = 0.9  # of the free memory: a step took 5 to 16 % more where it was measured, and images are read beside it


def check_memory(
    model: nn.Module, device: torch.device, context, images: int, channels: int, size: tuple[int, int]
) -> None:
    """Raise OutOfMemory when what a network keeps of a batch for its backward pass is more than there is.

    A step takes more than that, so a batch that passes may still not fit.

    Args:
        context: of the forward pass, as of autocast.
        images, channels, size: of a batch; height and width.
    """
    free = free_memory(device)
    if free is None:
        return
    try:
        needed = kept_bytes(model, device, context, channels) / PROBE**2 * images * size[0] * size[1]
    except (AssertionError, RuntimeError, ValueError):  # a network for images of another size: the first step will tell
        return
    if needed > MOST * free:
        raise OutOfMemory(
            f"a training step keeps at least {needed / 1e9:.1f} GB of a batch of {images} × {size[0]}×{size[1]} pixels, "
            f"but {free / 1e9:.1f} GB of {device.type.upper()} memory are free",
            "loader.batch_size, augment.size",
            FIX,
        )


def kept_bytes(model: nn.Module, device: torch.device, context, channels: int) -> int:
    """Bytes that a forward pass of one image of 128×128 keeps for the backward pass, without the weights.

    Leaves buffers and random numbers as they were.
    """
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    found: dict[int, torch.UntypedStorage] = {}

    def kept(tensor: torch.Tensor) -> None:
        """A storage rather than the tensor: an output that its own node keeps would never be freed, nor the weights."""
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            found[storage.data_ptr()] = storage

    buffers, training = [buffer.clone() for buffer in model.buffers()], model.training
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []), context:
            with torch.autograd.graph.saved_tensors_hooks(kept, lambda _: None):
                # Two images: batch norm after a global pooling cannot learn from one.
                logits = model.train()(torch.zeros(2, channels, PROBE, PROBE, dtype=torch.uint8, device=device))
            del logits
    finally:
        model.train(training)
        with torch.no_grad():
            for buffer, before in zip(model.buffers(), buffers, strict=True):
                buffer.copy_(before)
    return sum(storage.nbytes() for storage in found.values()) // 2


def free_memory(device: torch.device) -> int | None:
    """Bytes that this process may still take. None: not known."""
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + kept
    return cpu.free_memory()


def memory_advice(device: torch.device, epoch: int) -> tuple[str, str]:
    """Where a training ran out of memory, and how to need less."""
    cuda = device.type == "cuda"
    peak = f", {torch.cuda.max_memory_allocated(device) / 2**30:.1f} GiB at the peak" if cuda else ""
    return f"epoch {epoch + 1}{peak}", FIX
