"""An exponential moving average of a network's weights."""

import copy

import torch
from torch import nn


class Average:
    """`module` holds decay * itself + (1 - decay) * network of every floating-point parameter and buffer, step by step.

    Integer buffers are the network's. All tensors are updated by a few kernels.

    Args:
        network: stays on its device, and its tensors stay the same objects.
        decay: a step. Until there are 1 / (1 - decay) steps it is the mean of the weights after each.
    """

    def __init__(self, network: nn.Module, decay: float):
        self.module, self.decay, self.updates = copy.deepcopy(network).requires_grad_(False), decay, 0
        pairs = list(zip(_tensors(self.module), _tensors(network), strict=True))
        self._averaged, self._copied = (
            list(zip(*(pair for pair in pairs if pair[0].is_floating_point() == floating), strict=True))
            for floating in (True, False)
        )

    @torch.no_grad()
    def update(self) -> None:
        decay = min(self.decay, self.updates / (self.updates + 1))
        torch._foreach_lerp_(*self._averaged, 1 - decay)
        if self._copied:
            torch._foreach_copy_(*self._copied)
        self.updates += 1

    def state_dict(self) -> dict[str, torch.Tensor]:
        """In the form of torch.optim.swa_utils.AveragedModel."""
        weights = {f"module.{name}": tensor for name, tensor in self.module.state_dict().items()}
        return {"n_averaged": torch.tensor(self.updates), **weights}

    def load_state_dict(self, content: dict[str, torch.Tensor]) -> None:
        self.updates = int(content["n_averaged"])
        self.module.load_state_dict({n.removeprefix("module."): t for n, t in content.items() if n != "n_averaged"})


def _tensors(network: nn.Module) -> list[torch.Tensor]:
    return [tensor.detach() for tensor in (*network.parameters(), *network.buffers())]
