"""A batch that several processes share: what a loss needs to be that of all their images."""

from collections.abc import Callable
from dataclasses import replace

import torch
import torch.distributed as dist

from segtrain.losses.loss import GlobalBatch
from segtrain.losses.sums import Sums
from segtrain.ranks import Rank


class SharedBatch(GlobalBatch):
    """A batch of which each process has a part: sums and means are of all, the gradient is that of one's own part.

    DistributedDataParallel takes the mean of the gradients, so the loss goes backward times the number of processes.

    Args:
        count: images of the whole batch. A process for which there is none runs another's, which does not count.
    """

    def __init__(self, rank: Rank, count: int):
        self.shares, self.number = rank.shares(count), rank.number

    def sums(self, own: Sums) -> Sums:
        given = own.given
        table = torch.stack([column.to(own.P.dtype) for column in given.values()], dim=1)[: self.shares[self.number]]
        padded = table.new_zeros(max(self.shares), *table.shape[1:])
        padded[: len(table)] = table.detach()
        tables = self._everyones(padded)
        rows = torch.cat(
            [table if r == self.number else t[:n] for r, (t, n) in enumerate(zip(tables, self.shares, strict=True))]
        )
        columns = dict(zip(given, rows.unbind(1), strict=True))
        return replace(own, **columns | {"present": columns["present"] > 0})

    def mean(self, own: torch.Tensor, amount: Callable) -> torch.Tensor:
        weight = torch.as_tensor(amount(), dtype=torch.float64, device=own.device) * (self.shares[self.number] > 0)
        rows = torch.stack(self._everyones(torch.stack([own.detach().double() * weight, weight])))
        rows[self.number, 0] = 0
        total = rows[:, 1].sum().clamp_min(1e-30)
        return (own * (weight / total) + rows[:, 0].sum() / total).to(own.dtype)

    def _everyones(self, own: torch.Tensor) -> list[torch.Tensor]:
        found = [torch.empty_like(own) for _ in self.shares]
        dist.all_gather(found, own.contiguous())
        return found
