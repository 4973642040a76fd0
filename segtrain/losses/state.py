"""What a loss of the user's has learned or counted: kept in checkpoints, left alone by the validation."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn


def own_state(loss: nn.Module) -> dict[str, Any]:
    """Trained parameters, buffers and extra state, by their names in `state_dict`; empty for the losses of segtrain.

    Frozen parameters are left out: they are what they were when the loss was built.
    """
    frozen = {name for name, parameter in loss.named_parameters() if not parameter.requires_grad}
    return {name: value for name, value in loss.state_dict().items() if name not in frozen}


def load_own_state(loss: nn.Module, state: dict[str, Any], device: torch.device | str = "cpu") -> None:
    """Give a loss what `own_state` gave, also buffers that were None or of another size when it was built.

    Raises ValueError, and what torch raises, for a state of another loss.
    """
    for name, value in state.items():
        owner, _, own = name.rpartition(".")
        module = loss.get_submodule(owner)
        if own in module._buffers:
            module.register_buffer(own, value.to(device))
    if unknown := loss.load_state_dict(state, strict=False).unexpected_keys:
        raise ValueError(f"the loss has no {', '.join(unknown)}")


@contextlib.contextmanager
def in_evaluation(loss: nn.Module) -> Iterator[None]:
    """Within this, a loss is in evaluation mode; then each part of it is in the mode it was in."""
    modes = {module: module.training for module in loss.modules()}
    loss.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
