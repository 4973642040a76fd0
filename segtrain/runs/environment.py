"""What a run was started with: command, commit, versions, hardware, dataset, and the signature of its setting."""

import hashlib
import json
import platform
import shlex
import subprocess
import sys
from datetime import datetime
from importlib import metadata

from segtrain.config.schema import flat
from segtrain.cpu import cores

# What may differ between two runs of one setting.
UNSIGNED = (
    "seed",
    "advice",
    "debug",
    "class_weights",
    "dataset.root",
    "loader.workers",
    "loader.cache",
    "trainer.device",
    "trainer.checkpoint_every",
    "trainer.panel_images",
)
PACKAGES = (
    "torch",
    "torchvision",
    "segmentation-models-pytorch",
    "hydra-core",
    "omegaconf",
    "albumentations",
    "tensorboard",
    "numpy",
    "pillow",
)


def signature(config: dict) -> str:
    """Equal for repeats of one setting, whatever the seed, the paths and the machine."""
    config = {k: v for k, v in flat(config).items() if k not in UNSIGNED}
    return hashlib.blake2b(json.dumps(config, sort_keys=True).encode(), digest_size=8).hexdigest()


def environment(config: dict, counts, names: list[str]) -> dict:
    """The content of environment.json: the command as it was typed, versions, hardware, dataset, setting.

    Args:
        config: the resolved settings.
        counts: ClassCounts of the training split.
        names: of the training and validation images.
    """
    fingerprint = hashlib.blake2b(json.dumps([names, counts.to_dict()]).encode(), digest_size=8).hexdigest()
    return {
        **start(),
        "world_size": 1,
        "seed": config["seed"],
        "dataset_fingerprint": fingerprint,
        "signature": signature(config),
        "resumes": [],
    }


def start() -> dict:
    """One start or resume: command, commit, versions, hardware."""
    import torch

    cuda = torch.cuda.is_available()
    return {
        "command": shlex.join(["segtrain", *sys.argv[1:]]),
        "time": f"{datetime.now():%Y-%m-%d %H:%M:%S}",
        **_git(),
        "versions": {"python": platform.python_version(), "segtrain": _version("segtrain")}
        | {package: _version(package) for package in PACKAGES},
        "hardware": {
            "machine": platform.machine(),
            "cores": cores(),
            "threads": torch.get_num_threads(),
            "gpu": torch.cuda.get_device_name() if cuda else None,
            "cuda": torch.version.cuda if cuda else None,
        },
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git() -> dict:
    """Commit and a hash of what is not committed, of the folder the command was given in."""

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(["git", *words], capture_output=True, text=True, timeout=20)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout if done.returncode == 0 else None

    commit, diff = git("rev-parse", "HEAD"), git("diff", "HEAD")
    return {
        "git_commit": commit and commit.strip(),
        "git_diff": hashlib.blake2b(diff.encode(), digest_size=8).hexdigest() if diff else None,
    }
