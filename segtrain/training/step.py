"""One optimizer step: forward, loss, backward, clipping, the optimizer, the moving average."""

import contextlib
import copy

import torch

from segtrain.errors import batch_norm_explained
from segtrain.losses.loss import computed_over, scaled, total
from segtrain.losses.state import load_own_state, own_state
from segtrain.optimizers import is_of_encoder, start_momentum
from segtrain.ranks import ALONE, Processes
from segtrain.training.average import Average
from segtrain.training.device import autocast
from segtrain.training.finite import LOOK_EVERY, FiniteCheck, check_weights
from segtrain.training.resuming import misfit, optimizer_misfit
from segtrain.training.state import Parts


class Step:
    """`step(batches, number)` is the optimizer step of that number, over micro-batches of (images, targets, …).

    Args:
        clip_norm, ema_decay, sync_batchnorm: as in Trainer; compiled: its `compile`.
        skip: leave out a step whose loss or gradient is not finite, instead of raising.
        part: gives a context for each part of the step, by name.
        processes: those that share each batch.
    """

    def __init__(
        self,
        parts: Parts,
        *,
        device: torch.device,
        precision: torch.dtype,
        clip_norm: float | None,
        ema_decay: float | None,
        compiled: bool,
        skip: bool = False,
        part=lambda name: contextlib.nullcontext(),
        processes: Processes = ALONE,
        sync_batchnorm: bool = True,
    ):
        self.part, self.processes = part, processes
        self.device, self.precision, self.clip_norm = device, precision, clip_norm
        self.model = processes.prepared(parts.model, device, sync_batchnorm).to(memory_format=torch.channels_last)
        named = self.model.named_parameters()
        self.encoder = [parameter for name, parameter in named if is_of_encoder(name) and parameter.requires_grad]
        self.network = self.compiled = None  # the model as it is called, and compiled
        # A crop has one size: one compilation. The last batch of an epoch, of another number of images, is left out of it.
        self.batch_size = parts.train.batch_size // processes.size if compiled else None
        self.labels = parts.labels.to(device)
        self.loss = self.labels.training_loss(parts.loss).to(device)
        self.own_loss = parts.loss  # without what the labels add to it
        self.trained = [*self.model.parameters(), *parts.loss.parameters()]
        self.optimizer, self.schedule = parts.optimizer, parts.schedule
        start_momentum(self.optimizer)  # in the memory format of the weights
        self.scaler = torch.amp.GradScaler(device.type, enabled=precision == torch.float16)
        self.average = Average(self.model, ema_decay) if ema_decay is not None else None
        self.skip = skip
        self.finite = FiniteCheck(self.model, self.scaler, self.loss, self.labels, parts.train.names, device)
        # On CUDA, asking for the flag in each step would let the device wait for the host. Fused optimizers
        # skip a step whose flag is set, so a late look at a copy is enough to keep the weights unspoilt.
        self.guarded = (
            device.type == "cuda"
            and not skip
            and not self.scaler.is_enabled()
            and self.optimizer.defaults.get("fused") is True
        )

    @property
    def validated(self) -> torch.nn.Module:
        """The network that is validated and kept: the moving average, where there is one."""
        return self.average.module if self.average is not None else self.model

    @property
    def is_tried_quickly(self) -> bool:
        """Whether cuDNN may time its algorithms: those of grouped convolutions are compiled first, for a minute or more."""
        return all(module.groups == 1 for module in self.model.modules() if isinstance(module, torch.nn.Conv2d))

    def train(self, frozen_encoder: bool) -> None:
        """Training mode. A frozen encoder has no gradient and keeps its batch statistics."""
        self.model.train()
        for parameter in self.encoder:
            parameter.requires_grad_(not frozen_encoder)
        for name, module in self.model.named_modules():
            if frozen_encoder and is_of_encoder(name):
                module.eval()

    def __call__(self, batches: list, number: int) -> dict[str, torch.Tensor]:
        """The detached loss and its terms, for the log; nothing when the step was skipped.

        Raises NotFinite before the weights are changed.
        """
        found: dict[str, torch.Tensor] = {}
        self.processes.seed(number)
        indices, masks = [index for batch in batches for index in batch[2]], [batch[1] for batch in batches]
        buffers = [buffer.clone() for buffer in self.model.buffers()] if self.skip else []
        of_loss = copy.deepcopy(own_state(self.own_loss)) if self.skip else {}
        counts = [len(batch[2]) for batch in batches]
        with self.part("transfer"):
            batches = [[one.to(self.device, non_blocking=True) for one in batch[:2]] for batch in batches]
        with autocast(self.device, self.precision), self.part("labels"):
            batches = [(images, self.labels.target(target, images)) for images, target in batches]
        shares = self._shares([target for _, target in batches], counts)
        self._wrap(batches[0][0])
        for done, ((images, target), share, count) in enumerate(zip(batches, shares, counts, strict=True), start=1):
            with self.processes.accumulating(done < len(batches)):
                with autocast(self.device, self.precision, training=True), batch_norm_explained(), self.part("forward"):
                    logits = (self.compiled if len(images) == self.batch_size else self.network)(images)
                with computed_over(self.processes.batch(count)), self.part("loss"):
                    if share is None:
                        loss, weight = self.loss(logits, target), 1.0
                    else:
                        terms = self.loss.terms(logits, target)
                        loss = total([term * own for term, own in zip(terms, share, strict=True)])
                        weight = count / sum(counts)
                with self.part("backward"):
                    self.scaler.scale(scaled(loss, self.processes.size)).backward()
            parts = self.loss.parts
            weights = share if share is not None and len(share) == len(parts) else [weight] * len(parts)
            weighed = {n: scaled(v, own) for (n, v), own in zip(parts.items(), weights, strict=True)}
            for name, value in {"loss": loss.detach(), **weighed}.items():
                found[name] = found[name] + value if name in found else value
        with self.part("gradient norm"):
            bad = ~torch.isfinite(found["loss"] + self._gradient_norm())
        known = {"step": number + 1, "indices": indices, "masks": masks, "classes": logits.shape[1]}
        self.finite.record(bad, **known, images=[images for images, _ in batches], terms=found)
        if self.skip and self.finite.bad:
            self.finite.refuse_labels()
            self._leave_out(buffers, of_loss)
            return {}
        with self.part("optimizer"):
            self._update(number)
        return found

    def _wrap(self, images: torch.Tensor) -> None:
        network = self.processes.wrapped(self.model, images)
        if network is not self.network:
            self.network = network
            self.compiled = torch.compile(network, dynamic=False) if self.batch_size else None

    def _gradient_norm(self) -> torch.Tensor:
        """Before it is clipped; 0 with a gradient scaler, which skips steps whose gradient overflows itself."""
        if self.clip_norm is not None:
            self.scaler.unscale_(self.optimizer)
            norm = torch.nn.utils.clip_grad_norm_(self.trained, self.clip_norm)
        elif not self.scaler.is_enabled():
            gradients = [p.grad for p in self.trained if p.grad is not None]
            norm = torch.nn.utils.get_total_norm(gradients)
        return torch.zeros((), device=self.device) if self.scaler.is_enabled() else norm

    def _leave_out(self, buffers: list[torch.Tensor], of_loss: dict) -> None:
        """Batch statistics of a bad batch, and what the loss has counted in it, are forgotten, too."""
        load_own_state(self.own_loss, of_loss, self.device)
        for buffer, before in zip(self.model.buffers(), buffers, strict=True):
            buffer.copy_(before)
        self.finite.forget()
        self.scaler.update(self.scaler.get_scale())  # as it was: the step that would update it is not made
        self.optimizer.zero_grad(set_to_none=True)
        self.schedule.step()

    def _shares(self, targets: list, counts: list[int]) -> list:
        """For each micro-batch the part of each term of the loss; [None] for a single one.

        A term is a mean, so that of the whole batch weighs each micro-batch by what the mean is over, such as the
        weights of its pixels.

        Args:
            counts: images of each micro-batch, in all processes.
        """
        if len(targets) == 1:
            return [None]
        amounts = self.processes.added([self.loss.amounts(target) for target in targets], counts, self.device)
        totals = [sum(column) for column in zip(*amounts, strict=True)]
        return [[_share(a, total, len(targets)) for a, total in zip(own, totals, strict=True)] for own in amounts]

    def _update(self, number: int) -> None:
        if self.guarded:
            self.optimizer.found_inf, self.optimizer.grad_scale = self.finite.bad, None
        if not self.guarded:
            self.finite.check()
        elif number % LOOK_EVERY == 0:
            self.finite.look()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.schedule.step()
        if self.average is not None:
            self.average.update()

    def _resumed(self) -> dict:
        parts = {"model": self.model, "optimizer": self.optimizer, "schedule": self.schedule, "scaler": self.scaler}
        return parts | ({"average": self.average} if self.average is not None else {})

    def state_dict(self) -> dict:
        """What a training is resumed from, but for its State. Raises NotFinite for what is not worth keeping."""
        self.finite.check()
        check_weights(self.validated)  # the moving average, too, is spoilt by one bad step
        cuda = [torch.cuda.get_rng_state(self.device)] if self.device.type == "cuda" else []
        states = {name: part.state_dict() for name, part in self._resumed().items()}
        states |= {"loss": state} if (state := own_state(self.own_loss)) else {}
        return {**states, "random": torch.get_rng_state(), "random_cuda": cuda}

    def load_state_dict(self, content: dict) -> None:
        """Raises ValueError and what torch raises for content of another form."""
        found = optimizer_misfit(content["optimizer"], self.optimizer)
        if type(self.schedule).__module__ == "torch.optim.lr_scheduler":  # one of the user's may hold what it likes
            found = found or misfit(content["schedule"], self.schedule.state_dict(), "schedule")
        if found := found or misfit(content["scaler"], self.scaler.state_dict(), "scaler"):
            raise ValueError(found)
        for name, part in self._resumed().items():
            part.load_state_dict(content[name])
        start_momentum(self.optimizer)
        load_own_state(self.own_loss, content.get("loss", {}), self.device)
        torch.set_rng_state(content["random"].cpu())
        if content["random_cuda"] and self.device.type == "cuda":
            torch.cuda.set_rng_state(content["random_cuda"][0].cpu(), self.device)


def _share(amount, total, count: int):
    """amount / total, the same for each of `count` when the total is 0; on the device, without a wait for it."""
    if not isinstance(total, torch.Tensor):
        return amount / total if total else 1 / count
    return torch.where(total > 0, amount / total.clamp_min(1e-30), 1 / count)
