"""Whether two run folders hold the same, but for times."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import torch
import yaml

TIMES = ("seconds", "images_per_second", "data_wait", "validation_seconds", "waited", "checksum")


def content(run: Path) -> dict[str, object]:
    """All that a run leaves, by file."""
    with (run / "metrics.csv").open() as stream:
        rows = [{k: v for k, v in row.items() if k not in TIMES} for row in csv.DictReader(stream)]
    with np.load(run / "per_image.npz") as arrays:
        images = {name: array.tolist() for name, array in arrays.items()}
    return {
        "config": plain(str(yaml.safe_load((run / "config.yaml").read_text()))),
        "counts": (run / "class_counts.json").read_text(),
        "weights": (run / "class_weights.json").read_text(),
        "metrics.csv": rows,
        "per_image.npz": images,
        "result.json": {k: v for k, v in json.loads((run / "result.json").read_text()).items() if k not in TIMES},
        "best.pt": tensors(torch.load(run / "checkpoints/best.pt", weights_only=True)),
        "last.pt": tensors(torch.load(run / "checkpoints/last.pt", weights_only=True)),
        "tensorboard": scalars(run),
        "page": page(run),
    }


def page(run: Path) -> str:
    """Without the run's name and command."""
    text = (run / "page.html").read_text().replace(f"{run.name}, best epoch", "best epoch")
    return re.sub(r"<p><code>segtrain .*?</code></p>", "", text)


def tensors(value, path: str = "") -> dict[str, object]:
    """Leaves by path, tensors as bytes; without times."""
    if isinstance(value, torch.Tensor):
        return {path: value.contiguous().numpy().tobytes()}
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else None
    if items is None:
        return {path: plain(value)}
    return {p: v for k, below in items if k not in TIMES for p, v in tensors(below, f"{path}/{k}").items()}


def plain(value):
    """Without the number of workers, which does not matter."""
    return re.sub(r"workers'?: '?(\d|auto)'?", "workers: N", value) if isinstance(value, str) else value


def scalars(run: Path) -> dict[str, list]:
    """Every scalar of TensorBoard as (step, value)."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    tags = [tag for tag in events.Tags()["scalars"] if tag not in ("run/seconds", "run/images_per_second")]
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in tags}


def differing(one: Path, other: Path) -> list[str]:
    """What differs between two runs, by file."""
    a, b = content(one), content(other)
    return [name for name in a if str(a[name]) != str(b[name])]
