"""The processes that train one network together, as torchrun or Slurm's srun starts them, and what is done by one of them."""

import contextlib
import os
from collections.abc import Callable
from typing import Any, NamedTuple

from segtrain.errors import ConfigError


class Rank(NamedTuple):
    """Which of the processes this one is: its number, how many there are, and its number on this machine."""

    number: int = 0
    size: int = 1
    local: int = 0

    def shares(self, count: int) -> list[int]:
        """How many of `count` images each process has: as many each, the first ones one more."""
        return [count // self.size + (number < count % self.size) for number in range(self.size)]

    def part(self, items: list) -> list:
        """This process's part of the images of a batch."""
        shares = self.shares(len(items))
        first = sum(shares[: self.number])
        return items[first : first + shares[self.number]]


def launched() -> Rank:
    """This process's rank, by the environment that torchrun or a step of Slurm (srun) sets.

    For Slurm the variables of torchrun are filled in.

    Raises ConfigError for processes of Slurm on several machines that do not know where the first one is.
    """
    given = os.environ
    if "RANK" not in given and int(given.get("SLURM_STEP_NUM_TASKS", 1)) > 1:
        if given.get("SLURM_STEP_NUM_NODES", "1") != "1" and "MASTER_ADDR" not in given:
            raise ConfigError(
                "processes run on several machines but do not know the address of the first",
                "MASTER_ADDR",
                'before srun: export MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)',
            )
        given.setdefault("MASTER_ADDR", "127.0.0.1")
        # One port for all tasks of a step; two steps of one machine differ in it.
        number = int(given.get("SLURM_JOB_ID", 0)) + 101 * int(given.get("SLURM_STEP_ID", 0))
        given.setdefault("MASTER_PORT", str(20000 + number % 10000))
        given.update(RANK=given["SLURM_PROCID"], WORLD_SIZE=given["SLURM_STEP_NUM_TASKS"])
        given["LOCAL_RANK"] = given["SLURM_LOCALID"]
    if int(given.get("WORLD_SIZE", 1)) == 1:
        return Rank()
    return Rank(int(given["RANK"]), int(given["WORLD_SIZE"]), int(given.get("LOCAL_RANK", 0)))


def refuse_several(what: str) -> None:
    """Raise ConfigError for what one process does when several were started."""
    if (size := launched().size) > 1:
        fix = "start it without torchrun or srun; only a training and `segtrain resume RUN` take several processes"
        raise ConfigError(f"{what} runs in one process, but {size} were started", fix=fix)


class Processes:
    """The processes that train a network, here a single one, which has every image: most methods do nothing."""

    rank = Rank()

    @property
    def size(self) -> int:
        return self.rank.size

    @property
    def first(self) -> bool:
        """Whether this process writes and prints."""
        return self.rank.number == 0

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        pass

    def failing_together(self, record: Callable[[BaseException], None]):
        """Within this, an error of any process ends all; `record` notes the error of another one when this one hangs."""
        return contextlib.nullcontext()

    def once(self, work: Callable[[], Any]) -> Any:
        """What `work` returns in the first process, where alone it is called."""
        return work()

    def gathered(self, value) -> list:
        """The values of all processes."""
        return [value]

    def device(self, name: str) -> str:
        """This process's device, of that of the config."""
        return name

    def check(self, loss, batch_size: int) -> None:
        """Raise ConfigError for a training that several processes cannot share."""

    def validating(self, scores) -> "Processes":
        """The processes that share a validation."""
        return self

    def agree_to_stop(self) -> None:
        """Take note of a stop signal that another process received."""

    def seed(self, step: int) -> None:
        """Let each process drop out units of its own."""

    def prepared(self, network, device, sync_batchnorm: bool):
        """The network with batch norms that count the images of all processes."""
        return network

    def wrapped(self, network, images):
        """The network whose backward pass leaves the mean gradient of all processes."""
        return network

    def accumulating(self, more: bool):
        """Within this, gradients stay with their process when `more` micro-batches of the step follow."""
        return contextlib.nullcontext()

    def batch(self, count: int):
        """The batch of `count` images, for losses.loss.computed_over; None: it is all here."""
        return None

    def added(self, amounts: list, counts: list[int], device) -> list:
        """Amounts [micro-batches][terms] added up over the processes; `counts`: images of each micro-batch."""
        return amounts

    def same_buffers(self, *networks) -> None:
        """Give all processes the first one's batch statistics."""


ALONE = Processes()


def together() -> Processes:
    """A context: the processes that were started, or this one alone."""
    rank = launched()
    if rank.size == 1:
        return ALONE
    from segtrain.training.distributed import SeveralProcesses

    return SeveralProcesses(rank)
