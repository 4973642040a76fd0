"""One loss after another, by epoch."""

from itertools import pairwise

import torch
from torch import nn

from segtrain.arguments import checked


class Phased(nn.Module):
    """The loss of the phase the epoch is in, such as cross-entropy first and Lovász for fine-tuning.

    Args:
        losses: one per phase, each (logits, target) -> scalar, all for one label a pixel or all for several.
        starts: the epoch, from 0, at which each phase starts; the first is 0.

    Raises ValueError when starts do not rise from 0 or do not match the losses.
    """

    @checked
    def __init__(self, losses: list, starts: list[int]):
        super().__init__()
        if len(losses) != len(starts) or not losses:
            raise ValueError(f"Phased: {len(losses)} losses and {len(starts)} starts, one start per loss is needed")
        if starts[0] != 0 or any(a >= b for a, b in pairwise(starts)):
            raise ValueError(f"Phased: starts={list(starts)} must rise from 0")
        kinds = {getattr(loss, "activation", None) for loss in losses} - {None}
        if len(kinds) > 1:
            raise ValueError("Phased: some losses are for softmax, others for sigmoid")
        self.losses, self.starts = nn.ModuleList(losses), list(starts)
        self.activation = kinds.pop() if kinds else None
        self.phase = 0

    def start_epoch(self, epoch: int) -> str | None:
        """Choose the phase of `epoch`; returns the name of its loss when the phase is new. The trainer calls it."""
        before, self.phase = self.phase, sum(epoch >= start for start in self.starts) - 1
        return type(self.losses[self.phase]).__name__ if self.phase != before else None

    @property
    def current(self) -> nn.Module:
        """The loss of the phase."""
        return self.losses[self.phase]

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Scalar: the value of the phase's loss."""
        return self.current(logits, target)

    @property
    def total_weight(self):
        """That of the phase's loss, if it has one."""
        return getattr(self.current, "total_weight", None)

    @property
    def parts(self) -> dict[str, torch.Tensor]:
        """The phase, from 0, and the terms of its loss."""
        own = getattr(self.current, "parts", {})
        return {"phase": torch.tensor(float(self.phase)), **own}
