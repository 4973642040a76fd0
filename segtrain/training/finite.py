"""The check that losses, gradients and weights are finite, without a wait for the device in each step."""

import math

import torch

from segtrain.errors import DataError, NotFinite, few
from segtrain.labels import Labels
from segtrain.losses import Loss
from segtrain.losses.targets import check_labels, check_shares

LOOK_EVERY = 20  # steps between two calls of `look`, where the host reads a flag of the device
SMALLEST_SCALE = 1.0  # of a float16 loss: the scaler halves it at every step whose gradient is not finite


class FiniteCheck:
    """Remembers of each step whether its loss and gradient were finite, until the host asks.

    Args:
        model: the network, whose gradients are described.
        scaler: of its gradients.
        loss, labels: say which labels are no class.
        names: of the training images.

    Attributes:
        bad: a scalar on the device, 1 from the first step on that was not finite.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        scaler: torch.amp.GradScaler,
        loss: Loss,
        labels: Labels,
        names: list[str],
        device: torch.device,
    ):
        self.model, self.scaler, self.loss, self.labels, self.names = model, scaler, loss, labels, names
        self.bad = torch.zeros((), device=device)
        self._seen = torch.zeros((), pin_memory=device.type == "cuda")  # the flag, as it was some steps ago
        self._unchecked: list[dict] = []  # what is known of the steps since the flag was read

    def record(self, bad: torch.Tensor, **known) -> None:
        """Take down a step: whether it is bad, and its `step`, `indices`, `masks`, `classes`, `images`, `terms`."""
        self.bad = torch.maximum(self.bad, bad)
        for before in self._unchecked:  # on the device, of one step only
            before.pop("images", None)
        self._unchecked.append({"bad": bad, **known})

    def forget(self) -> None:
        """Go on as if no step had been bad."""
        self.bad.zero_()
        self._unchecked = []

    def look(self) -> None:
        """Read the flag of the last look, which has long been copied, and copy the present one in the background."""
        if self._seen.numpy():
            self.check()
        self._seen.copy_(self.bad, non_blocking=True)
        self._unchecked = self._unchecked[-LOOK_EVERY:]

    def check(self) -> None:
        """Raise NotFinite when the loss or gradient of a step since the last call was not; DataError for its labels."""
        lost = self.scaler.is_enabled() and self.scaler.get_scale() < SMALLEST_SCALE
        if self.bad or lost:
            self.refuse_labels()
            seen = self._described()
            raise NotFinite(
                "the gradient is not finite at any scale; no step was made since"
                if lost
                else "the loss or the gradient is not finite; the weights are those before that step",
                f"step {seen['step']}",
                "lower optimizer.lr, set trainer.clip_norm=1, use trainer.precision=float32, or cap the class "
                "weights (weighting.max_ratio); trainer.nonfinite=skip leaves out single steps",
                seen,
            )
        self._unchecked = []

    def refuse_labels(self) -> None:
        """Raise DataError when the first bad step has labels that are no class: on CUDA they make the loss NaN."""
        first = self._first_bad()
        for masks in first["masks"] if self.loss.ignore_index is not None else []:
            try:
                if masks.ndim == 4 and not self.labels.annotated:
                    check_shares(masks, self.loss.ignore_index, "label")
                else:
                    check_labels(masks, first["classes"], self.loss.ignore_index)
            except ValueError as error:
                raise DataError(
                    str(error),
                    f"step {first['step']}, images {few([self.names[index] for index in first['indices']])}",
                    "run `segtrain check`; look at dataset.num_classes and dataset.ignore_index",
                ) from error

    def _first_bad(self) -> dict:
        return next((step for step in self._unchecked if step["bad"]), self._unchecked[-1])

    def _described(self) -> dict:
        """Of the first bad step: its images and loss; and the gradients, which are those of the last step."""
        first = self._first_bad()
        norms = {n: float(p.grad.norm()) for n, p in self.model.named_parameters() if p.grad is not None}
        return {
            "step": first["step"],
            "images": [self.names[index] for index in first["indices"]],
            "pixels": [
                {"min": int(i.min()), "max": int(i.max()), "mean": float(i.float().mean())}
                for i in first.get("images", [])
            ],
            "loss": {name: str(float(value)) for name, value in first["terms"].items()},
            "not_finite_gradients": [name for name, norm in norms.items() if not math.isfinite(norm)],
            "gradient_norms": {name: str(norm) for name, norm in norms.items()},
        }


def check_weights(network: torch.nn.Module) -> None:
    """Raise NotFinite when a weight or buffer is not: such weights are not written."""
    tensors = {name: tensor for name, tensor in network.state_dict().items() if tensor.is_floating_point()}
    finite = torch.stack([torch.isfinite(tensor).all() for tensor in tensors.values()])
    if not finite.all():
        raise NotFinite(
            "the loss is finite, but weights or batch statistics are not",
            few([name for name, good in zip(tensors, finite.tolist(), strict=True) if not good]),
            "lower optimizer.lr, set trainer.clip_norm=1, or use trainer.precision=float32",
        )
