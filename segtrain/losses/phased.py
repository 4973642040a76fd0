"""One loss after another, by epoch."""

from itertools import pairwise

import torch
from torch import nn

from segtrain.arguments import checked
from segtrain.losses.loss import Loss, as_loss, one_of


class Phased(Loss):
    """The loss of the phase the epoch is in, such as cross-entropy first and Lovász for fine-tuning.

    Args:
        losses: one per phase, each (logits, target) -> scalar, all softmax or all sigmoid.
        starts: the epoch, from 0, at which each phase starts; the first is 0.

    Raises ValueError when starts do not rise from 0 or do not match the losses.
    """

    @checked
    def __init__(self, losses: list, starts: list[int]):
        super().__init__()
        if len(losses) != len(starts) or not losses:
            raise ValueError(f"Phased: {len(losses)} losses and {len(starts)} starts: give one start per loss")
        if starts[0] != 0 or any(a >= b for a, b in pairwise(starts)):
            raise ValueError(f"Phased: starts={list(starts)} must rise from 0")
        self.losses, self.starts, self.phase = nn.ModuleList(map(as_loss, losses)), tuple(starts), 0
        self._phase = torch.tensor(0.0)
        self.activation = one_of({loss.activation for loss in self.losses}, "Phased", "activation")
        self.ignore_index = one_of({loss.ignore_index for loss in self.losses}, "Phased", "ignore_index")

    def start_epoch(self, epoch: int) -> str | None:
        """Choose the phase of `epoch`; returns the name of its loss when the phase is new."""
        before, self.phase = self.phase, sum(epoch >= start for start in self.starts) - 1
        self._phase = torch.tensor(float(self.phase))  # once: a tensor made in each step is copied to the device
        return type(self.losses[self.phase]).__name__ if self.phase != before else None

    @property
    def current(self) -> Loss:
        return self.losses[self.phase]

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return self.current(logits, target)

    def terms(self, logits: torch.Tensor, target: torch.Tensor) -> list[torch.Tensor]:
        return self.current.terms(logits, target)

    def amounts(self, target: torch.Tensor) -> list:
        return self.current.amounts(target)

    def piece(self, logits: torch.Tensor, target: torch.Tensor):
        return self.current.piece(logits, target)

    def of_pieces(self, pieces: list) -> torch.Tensor:
        return self.current.of_pieces(pieces)

    @property
    def parts(self) -> dict[str, torch.Tensor]:
        """The phase, from 0, and the terms of its loss."""
        return {"phase": self._phase, **self.current.parts}

    @parts.setter
    def parts(self, _) -> None:  # those of the phase's loss
        pass
