"""Several processes that train one network: gradients, losses, scores and the end of a training are those of all.

Tensors on CUDA travel by NCCL, everything else by gloo. A process that fails tells the others why, and each watches
whether the others are still there, since a collective operation may wait for ever for one that is not.
"""

import contextlib
import io
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from segtrain import signals
from segtrain.errors import ConfigError, DataError, DiskError, NotFinite, OutOfMemory, Preempted, SegtrainError
from segtrain.losses.loss import GlobalBatch, Loss
from segtrain.ranks import ALONE, Processes, Rank
from segtrain.training.device import gpu_of_process
from segtrain.training.shared_batch import SharedBatch

log = logging.getLogger("segtrain")

FOREVER = timedelta(days=7)  # for which a process waits for another: whether it is there, the watch knows
BEAT, LOST, GRACE = 1.0, 12.0, 8.0  # seconds: between signs of life; without one; for an orderly end
KINDS = {kind.exit_code: kind for kind in (ConfigError, DataError, OutOfMemory, DiskError, NotFinite, Preempted)}
INTERRUPTED = 130


class SeveralProcesses(Processes):
    """This process among the others. As a context it finds them, and an error within it ends them all."""

    def __init__(self, rank: Rank):
        self.rank = rank
        self._parallel: DistributedDataParallel | None = None
        self._trainable: list[nn.Parameter] = []  # for which `_parallel` was made
        self._device, self._seed = torch.device("cpu"), 0
        self._record: Callable[[BaseException], None] = lambda error: None
        self._known: BaseException | None = None  # the error that ends this process, which the others know of
        self._failure: dict | None = None  # the first error of any process

    def __enter__(self):
        size, number = self.rank.size, self.rank.number
        if not self.first:
            logging.basicConfig(level=logging.ERROR)  # the log is the first one's
        store, *_ = next(rendezvous("env://", number, size, timeout=timedelta(minutes=10)))
        prefix = f"segtrain/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}"
        # The watch has a connection of its own: a call that waits for something would keep it from looking.
        self._store = dist.PrefixStore(prefix, store.clone())
        self._store.set(f"beat/{number}", "0")
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo",
            store=dist.PrefixStore(prefix, store),
            rank=number,
            world_size=size,
            timeout=FOREVER,
        )
        self._ended = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()
        return self

    def __exit__(self, _, error, __) -> None:
        found = None if error is None else self._shared(error)
        if error is not None:
            self._wait_until_known()
        self._ended.set()
        self._watcher.join(GRACE)
        if found is not error:
            raise found from error
        if found is not None:
            return
        self._store.set(f"beat/{self.rank.number}", "done")
        dist.destroy_process_group()

    def once(self, work: Callable[[], Any]) -> Any:
        value = [work() if self.first else None]
        dist.broadcast_object_list(value, src=0)
        return value[0]

    def gathered(self, value) -> list:
        content, found = io.BytesIO(), [None] * self.size
        torch.save(value, content)
        dist.all_gather_object(found, content.getvalue())
        return [torch.load(io.BytesIO(each), map_location=self._device, weights_only=False) for each in found]

    def device(self, name: str) -> str:
        if name not in ("auto", "cuda", "cpu"):
            what = f"{self.size} processes cannot share one device, {name}"
            raise ConfigError(what, "trainer.device", "use auto: each process takes the GPU of its own number")
        if name == "cpu" or not torch.cuda.is_available():
            return name
        self._device = gpu_of_process(self)
        return str(self._device)

    def check(self, loss: Loss, batch_size: int) -> None:
        if batch_size % self.size:
            what = f"{batch_size} images cannot be shared evenly by {self.size} processes"
            where = "loader.batch_size, the batch of all processes together"
            raise ConfigError(what, where, f"make it a multiple of {self.size}")
        for part in loss.modules():
            if isinstance(part, Loss):
                part.check_shared()

    def validating(self, scores) -> Processes:
        return self if scores.joins else ALONE

    def agree_to_stop(self) -> None:
        number = torch.tensor(signals.received())
        dist.all_reduce(number, dist.ReduceOp.MAX)
        signals.receive(int(number))

    # the optimizer step

    def prepared(self, network: nn.Module, device: torch.device, sync_batchnorm: bool) -> nn.Module:
        self._seed = torch.initial_seed()
        if not sync_batchnorm or not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in network.modules()):
            return network
        if device.type == "cuda":
            return nn.SyncBatchNorm.convert_sync_batchnorm(network)
        log.warning(
            "PyTorch synchronises batch norm on CUDA only: each process normalises by its own images, and "
            "the batch statistics of the first process are kept (trainer.sync_batchnorm=false silences this)"
        )
        return network

    def seed(self, step: int) -> None:
        torch.manual_seed(((self._seed * 1_000_003 + step) * self.size + self.rank.number) % 2**63)

    def wrapped(self, network: nn.Module, images: torch.Tensor) -> nn.Module:
        trainable = [parameter for parameter in network.parameters() if parameter.requires_grad]
        if list(map(id, trainable)) != list(map(id, self._trainable)):
            self._parallel, self._trainable = None, trainable  # the hooks of the one before must be gone
            self._parallel = DistributedDataParallel(
                network,
                device_ids=[images.device.index] if images.device.type == "cuda" else None,
                find_unused_parameters=_has_unused(network, images[:1]),
            )
            self._parallel.broadcast_buffers = False  # in each step: `same_buffers` does it when they are used
        return self._parallel

    def accumulating(self, more: bool):
        return self._parallel.no_sync() if more else contextlib.nullcontext()

    def batch(self, count: int) -> GlobalBatch:
        return SharedBatch(self.rank, count)

    def added(self, amounts: list, counts: list[int], device: torch.device) -> list:
        rows = [[torch.as_tensor(amount, dtype=torch.float64, device=device) for amount in row] for row in amounts]
        own = torch.stack([torch.stack(row) for row in rows])
        for row, count in zip(own, counts, strict=True):
            row *= self.rank.shares(count)[self.rank.number] > 0
        dist.all_reduce(own)
        return [list(row) for row in own]

    def same_buffers(self, *networks: nn.Module) -> None:
        for network in networks:
            for buffer in network.buffers():
                dist.broadcast(buffer.detach(), src=0)

    # errors

    @contextlib.contextmanager
    def failing_together(self, record: Callable[[BaseException], None]):
        self._record = record
        try:
            yield
        except BaseException as error:
            if (found := self._shared(error)) is not error:
                raise found from error
            raise
        finally:
            self._record = lambda error: None

    def _shared(self, error: BaseException) -> BaseException:
        """The error that ends this process: its own, of which the others are told, or what another one told before."""
        if error is self._known:
            return error
        stopped = isinstance(error, Preempted | KeyboardInterrupt)
        broken = isinstance(error, RuntimeError)  # of a connection that another process has left, or of our own
        other = self._failure_of_others(LOST + 3 * BEAT if broken else 0) if stopped or broken else None
        if stopped and isinstance(other, Preempted | KeyboardInterrupt):
            other = None
        self._known = error if other is None else other
        if other is None:
            self._tell(_described(self.rank.number, error))
        elif self._first_is_lost():
            print(f"\n{other}", file=sys.stderr)  # which else says what ended all
        return self._known

    def _first_is_lost(self) -> bool:
        return self._failure is not None and (self._failure["rank"], self._failure["lost"]) == (0, True)

    def _tell(self, failure: dict) -> None:
        with contextlib.suppress(RuntimeError):  # the first process, which has the store, has ended
            self._store.compare_set("failure", "", json.dumps(failure))

    def _failure_of_others(self, within: float) -> BaseException | None:
        """What another process told, or that one is lost, within some seconds."""
        until = time.monotonic() + within
        while True:
            failure = self._told()
            if failure is not None or time.monotonic() > until:
                return _error(failure) if failure and failure["rank"] != self.rank.number else None
            time.sleep(BEAT / 5)

    def _told(self) -> dict | None:
        """The first error of any process."""
        try:
            if self._failure is None and self._store.check(["failure"]):
                self._failure = json.loads(self._store.get("failure"))
        except RuntimeError:  # the store has ended, with the first process
            self._failure = _lost(0)
        return self._failure

    def _wait_until_known(self) -> None:
        """The first process may have the store: it stays until the others have read why it ends."""
        others, until = [f"beat/{r}" for r in range(1, self.size)], time.monotonic() + 4 * BEAT
        with contextlib.suppress(RuntimeError):
            self._store.set(f"beat/{self.rank.number}", "done")
            while self.first and set(self._store.multi_get(others)) != {b"done"} and time.monotonic() < until:
                time.sleep(BEAT / 5)

    def _watch(self) -> None:
        """Give signs of life and look for those of others; end this process when it does not end itself."""
        number, seen = self.rank.number, {}
        watched = range(1, self.size) if self.first else [0]
        beat = 0
        while not self._ended.wait(BEAT):
            beat, now = beat + 1, time.monotonic()
            if self._told() is not None:
                with contextlib.suppress(RuntimeError):
                    self._store.set(f"beat/{number}", "done")
                if self._ended.wait(GRACE):
                    return
                self._end()
            with contextlib.suppress(RuntimeError):
                self._store.set(f"beat/{number}", str(beat))
                for r, value in zip(watched, self._store.multi_get([f"beat/{r}" for r in watched]), strict=True):
                    if value == b"done" or seen.get(r, (None,))[0] != value:
                        seen[r] = (value, now)
                    elif now - seen[r][1] > LOST:
                        self._tell(_lost(r))

    def _end(self) -> None:
        """End this process, which waits for one that does not answer."""
        error = self._failure_of_others(0)
        if error is None:  # its own, of which it still clears up
            return
        if self.first or self._first_is_lost():
            print(f"\n{error}", file=sys.stderr, flush=True)
        self._record(error)
        os._exit(error.exit_code if isinstance(error, SegtrainError) else INTERRUPTED)


def _has_unused(network: nn.Module, images: torch.Tensor) -> bool:
    """Whether there are parameters that a forward pass does not need, for whose gradient all would wait."""
    modes = [(module, module.training) for module in network.modules()]
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    try:
        logits = network.eval()(images)  # batch statistics stay as they are
        return any(slope is None for slope in torch.autograd.grad(logits.sum(), parameters, allow_unused=True))
    finally:
        for module, mode in modes:
            module.training = mode


def _lost(number: int) -> dict:
    what = f"process {number} has ended, or hangs, without a message"
    fix = "look at what it printed; if it was killed, memory usually ran out"
    return _described(number, SegtrainError(what, "", fix)) | {"lost": True}


def _described(number: int, error: BaseException) -> dict:
    """What the others are told of the error of a process."""
    where = f"process {number}"
    if isinstance(error, SegtrainError):
        code, what, fix = error.exit_code, error.what, error.fix
        where += f": {error.where}" if error.where else ""
    elif isinstance(error, KeyboardInterrupt):
        code, what, fix = INTERRUPTED, "interrupted", ""
    else:
        code, what, fix = SegtrainError.exit_code, f"{type(error).__name__}: {error}", "see its traceback"
    return {"rank": number, "lost": False, "code": code, "what": what, "where": where, "fix": fix}


def _error(failure: dict) -> BaseException:
    if failure["code"] == INTERRUPTED:
        return KeyboardInterrupt()
    return KINDS.get(failure["code"], SegtrainError)(failure["what"], failure["where"], failure["fix"])
