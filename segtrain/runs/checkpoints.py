"""A run's checkpoints: last.pt to resume from, best.pt, and those of the epochs before."""

import os
import shutil
from pathlib import Path

from segtrain.errors import ConfigError, DiskError
from segtrain.files import are_numbers, read_checkpoint, write_bytes, write_checkpoint

COUNTS = ("epoch", "batch", "step", "images")  # whole numbers in the state of a training


def write_last(folder: Path, content: dict, keep: int) -> None:
    """Write last.pt, and before it epoch_NNN.pt at the end of each of the last `keep` epochs. Raises DiskError."""
    last, state = folder / "last.pt", content["state"]
    if not keep or state["batch"]:
        write_checkpoint(last, content)
        return
    kept = folder / f"epoch_{state['epoch']:03d}.pt"
    write_checkpoint(kept, content)
    part = last.with_name(f"last.pt.{os.getpid()}.part")
    try:
        os.link(kept, part)
        os.replace(part, last)
    except OSError:  # a disk without links
        write_checkpoint(last, content)
    before = [file for file in folder.glob("epoch_*.pt") if file.stem[6:].isdigit()]  # and no file of the user's
    for old in sorted(before, key=lambda file: int(file.stem[6:]))[:-keep]:
        old.unlink()


def read_last(folder: Path) -> dict:
    """What write_last wrote: the training and, as `run`, config, rows and result.

    Raises ConfigError for a damaged file, and one of another form.
    """
    file = folder / "last.pt"
    content = read_checkpoint(file)
    try:
        run, state = content["run"], content["state"]
        known = isinstance(run["config"], str) and all(type(state[name]) is int and state[name] >= 0 for name in COUNTS)
        numbers = all(type(row["epoch"]) is int and are_numbers(row.values()) for row in run["rows"])
        fits = known and numbers and isinstance(run["result"], dict)
    except (KeyError, TypeError):
        fits = False
    if not fits:
        fix = "resume it with the version of segtrain that environment.json names"
        raise ConfigError("not a checkpoint of this version of segtrain", str(file), fix)
    return content


def write_best(folder: Path, epoch, config: str) -> None:
    """Write the weights of a segtrain.training Epoch, with the text of the run's config. Raises DiskError."""
    weights = {"model": epoch.best.weights, "epoch": epoch.number, "step": epoch.step, "config": config}
    write_checkpoint(folder / "best.pt", weights | ({"loss": epoch.best.loss} if epoch.best.loss else {}))
    (folder / "best.safetensors").unlink(missing_ok=True)  # of a training that goes on: that of the best epoch before


def is_newer(folder: Path, written: dict | None, known: dict | None) -> bool:
    """Whether best.pt is of the best epoch that result.json names, and not of that of last.pt.

    So it is when a run was killed between both. The epoch is trained again, on CUDA perhaps not to the same numbers.
    """
    later = written is not None and (known is None or written["epoch"] > known["epoch"])
    return later and read_checkpoint(folder / "best.pt").get("epoch") == written["epoch"]


def write_safetensors(folder: Path) -> None:
    """Write best.safetensors: the weights in best.pt, for other programs. Raises ConfigError, DiskError."""
    import torch
    from safetensors.torch import save

    content = read_checkpoint(folder / "best.pt")
    # Copies, since the file has no way to say that two names share their weights.
    weights = {n: tensor.clone(memory_format=torch.contiguous_format) for n, tensor in content["model"].items()}
    write_bytes(folder / "best.safetensors", save(weights, {"epoch": str(content["epoch"])}))


def read_weights(folder: Path, name: str) -> dict:
    """The state dict in a checkpoint, `best` or `last`. Raises ConfigError for a damaged file, or one without weights."""
    file = folder / f"{name}.pt"
    content = read_checkpoint(file)
    if not isinstance(content.get("model"), dict):
        raise ConfigError("the checkpoint has no weights", str(file), "restore the file")
    return content["model"]


def validated_weights(checkpoint: dict) -> dict:
    """The state dict that validation saw: of a last.pt the moving average, where the training kept one."""
    if "average" not in checkpoint:
        return checkpoint["model"]
    return {name.removeprefix("module."): t for name, t in checkpoint["average"].items() if name != "n_averaged"}


def check_space(folder: Path, model, keep: int) -> None:
    """Raise DiskError when the disk cannot hold the checkpoints of a model.

    These are last.pt (weights, two moments, average), best.pt and best.safetensors, each twice while it is replaced, and
    the epochs that are kept.
    """
    weights = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    needed, free = (2 * 4 + 2 * 2 + 4 * keep) * weights, shutil.disk_usage(folder).free
    if free < needed:
        raise DiskError(
            f"{free / 2**20:,.0f} MiB are free, but the checkpoints take up to {needed / 2**20:,.0f} MiB",
            str(folder),
            "free space, or set hydra.run.dir to another disk",
        )
