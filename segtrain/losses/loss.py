"""Base class of the losses, and functions they share."""

import contextlib

import torch
from torch import nn

from segtrain.errors import ConfigError
from segtrain.losses.sums import Needs, Sums, joined, sigmoid_sums, softmax_sums
from segtrain.protocols import adopted


class GlobalBatch:
    """Sums and means over the whole batch, in one process what they are; for several see training.shared_batch."""

    def sums(self, own: Sums) -> Sums:
        """The sums of all its images, from those of this process."""
        return own

    def mean(self, own: torch.Tensor, amount) -> torch.Tensor:
        """The mean over all of it, from that over what this process has of it: `amount()` images, pixels or weights."""
        return own


_batch = GlobalBatch()


@contextlib.contextmanager
def computed_over(batch: GlobalBatch | None):
    """Within this, losses are computed over `batch`, of which this process has a part; None: all of it is here."""
    global _batch
    before, _batch = _batch, batch or _batch
    try:
        yield
    finally:
        _batch = before


def whole_batch() -> GlobalBatch:
    return _batch


class Loss(nn.Module):
    """Base class of a loss, `loss(logits, target) -> scalar`, with defaults for all but one method.

    A loss of your own derives from this class and has `forward`, or `from_sums` with `needs`. A plain nn.Module
    with `forward` works too (see `as_loss`): the defaults then hold. Its parameters are trained with the network, and kept
    in checkpoints with its buffers; it is in training mode but for the validation.

    Attributes:
        activation: softmax (one label per pixel), sigmoid (multi-label), or None for either.
        needs: what `from_sums` reads besides P, TP and Y; None: the loss is no function of the sums.
        ignore_index: label of pixels to leave out, or None. A function of the sums has one, and an activation.
        starts: the epochs, counted from 0, at which the loss changes.
        parts: the detached terms of the last call by name, for the log.
    """

    activation: str | None = None
    needs: Needs | None = None
    ignore_index: int | None = None
    starts: tuple[int, ...] = (0,)

    def __init__(self):
        super().__init__()
        self.parts: dict[str, torch.Tensor] = {}

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Scalar, from logits [N,C,H,W] and target: uint8 [N,H,W], multi-label uint8 [N,C,H,W], soft float [N,C,H,W]."""
        return self.from_sums(self._batch_sums(logits, target))

    def _batch_sums(self, logits: torch.Tensor, target: torch.Tensor) -> Sums:
        return whole_batch().sums(self._sums(logits, target))

    def _sums(self, logits: torch.Tensor, target: torch.Tensor) -> Sums:
        if None in (self.activation, self.needs, self.ignore_index):
            raise ValueError(f"{type(self).__name__}: from_sums requires values of activation, needs and ignore_index")
        if self.activation == "sigmoid":
            return sigmoid_sums(logits, target, self.ignore_index)
        return softmax_sums(logits, target, self.ignore_index, self.needs)

    def from_sums(self, sums: Sums) -> torch.Tensor:
        """Scalar, from sums per image and class."""
        raise NotImplementedError

    def terms(self, logits: torch.Tensor, target: torch.Tensor) -> list[torch.Tensor]:
        """Scalars whose sum is the loss, each a mean of its own."""
        return [self(logits, target)]

    def piece(self, logits: torch.Tensor, target: torch.Tensor):
        """A batch's part of the validation loss: its sums, or the terms and amounts of each image; for `of_pieces`."""
        if self.needs is not None:
            return self._sums(logits, target)
        images = [(logits[i : i + 1], target[i : i + 1]) for i in range(len(logits))]
        terms = torch.stack([torch.stack(self.terms(z, y)) for z, y in images])
        one = torch.ones((), dtype=torch.float64, device=terms.device)  # times a number: no copy from the host
        return terms, torch.stack([torch.stack([one * amount for amount in self.amounts(y)]) for _, y in images])

    def of_pieces(self, pieces: list) -> torch.Tensor:
        """The loss of several batches as one: of their sums, or else the mean over images, weighed by the amounts."""
        if self.needs is not None:
            return self.from_sums(joined(pieces))
        terms, amounts = (torch.cat(column).double() for column in zip(*pieces, strict=True))
        return (terms * amounts).sum(dim=0).div(amounts.sum(dim=0).clamp_min(1e-30)).sum()

    def amounts(self, target: torch.Tensor) -> list:
        """What each of `terms` is a mean over, such as images or weighted pixels.

        The loss of several micro-batches as one weighs each term by its amounts.
        """
        return [len(target)]

    def amount(self, target: torch.Tensor):
        """The amount of the whole loss as one term of another: that of its single term, or the number of images."""
        amounts = self.amounts(target)
        return amounts[0] if len(amounts) == 1 else len(target)

    def check_shared(self) -> None:
        """Raise ConfigError when processes that have a part of the batch each cannot compute the loss of all of it."""
        if self.needs is None and not any(isinstance(module, Loss) for module in list(self.modules())[1:]):
            name = type(self.module if isinstance(self, OwnLoss) else self).__name__
            raise ConfigError(
                f"{name} needs the whole batch, but each process has only a part of it",
                "loss",
                "train on one process, or derive it from segtrain.losses.Loss, with `needs` and `from_sums`",
            )
        if any(parameter.requires_grad for parameter in self.parameters()):
            raise ConfigError(f"{type(self).__name__} has parameters of its own", "loss", "train on one process")

    def start_epoch(self, epoch: int) -> str | None:
        """Take note of the epoch, from 0; returns the name of a loss that is used from here on."""
        return None

    @property
    def current(self) -> "Loss":
        """The loss of this epoch."""
        return self


class OwnLoss(Loss):
    """A user's module with `forward` alone; its integer targets are int64, as PyTorch's losses take them."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        whole = isinstance(target, torch.Tensor) and not target.is_floating_point()
        return self.module(logits, target.long() if whole else target)


def as_loss(module: nn.Module) -> Loss:
    """The module itself when it derives from Loss, else with the protocol's defaults around it.

    Raises ValueError for what is no torch.nn.Module, ConfigError for one without `forward`.
    """
    if not isinstance(module, nn.Module):
        raise ValueError(f"{type(module).__name__} is not a torch.nn.Module with forward(logits, target)")
    return adopted(module, "loss", Loss, OwnLoss, above=nn.Module)


def one_of(values: set, owner: str, name: str):
    """The one value that losses used together have, of those that have one. Raises ValueError for two."""
    values = values - {None}
    if len(values) > 1:
        raise ValueError(f"{owner}: the losses differ in {name}: {', '.join(map(str, sorted(values)))}")
    return values.pop() if values else None


def weights_tensor(weights) -> torch.Tensor | None:
    """Class weights as float64, for a buffer."""
    return None if weights is None else torch.as_tensor(weights, dtype=torch.float64)


def checked_weights(weights: torch.Tensor | None, classes: int) -> torch.Tensor | None:
    """Raises ValueError when there is not one weight per class."""
    if weights is not None and len(weights) != classes:
        raise ValueError(f"{len(weights)} class weights for {classes} classes")
    return weights


def weighted(values: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
    """Values [..., C] times class weights [C]; as they are for None."""
    weights = checked_weights(weights, values.shape[-1])
    return values if weights is None else weights.to(values) * values


def weighted_mean(values: torch.Tensor, weights: torch.Tensor, dim: int) -> torch.Tensor:
    """sum(w v) / sum(w); 0, connected to the graph, where the weights are all 0."""
    return over((weights * values).sum(dim=dim), weights.sum(dim=dim))


def over(total: torch.Tensor, amount: torch.Tensor) -> torch.Tensor:
    """total / amount, which is not negative; 0, connected to the graph, where the amount is 0."""
    return total / amount.clamp_min(1e-30)


def scaled(loss: torch.Tensor, factor: float | torch.Tensor) -> torch.Tensor:
    """Without the kernel that multiplies by 1; a factor on the device is not looked at, which would wait for it."""
    return loss if isinstance(factor, int | float) and factor == 1 else factor * loss


def total(terms: list[torch.Tensor]) -> torch.Tensor:
    """Their sum, without the kernel that adds 0."""
    return sum(terms[1:], start=terms[0])
