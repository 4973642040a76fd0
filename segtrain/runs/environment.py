"""What a run was started with: command, commit, versions, hardware, dataset, and the signature of its setting."""

import hashlib
import json
import platform
import shlex
import subprocess
import sys
from datetime import datetime
from importlib import metadata
from pathlib import Path

import segtrain
from segtrain.config.schema import CLASS_WEIGHTS, flat, replaced
from segtrain.cpu import cores
from segtrain.errors import ConfigError

# What may differ between two runs of one setting.
UNSIGNED = (
    "seed",
    "advice",
    "debug",
    "sweep.fail_fast",
    "class_weights",
    "dataset.root",
    "loader.workers",
    "loader.cache",
    "trainer.device",
    "trainer.checkpoint_every",
    "trainer.checkpoint_minutes",
    "trainer.keep",
    "trainer.panel_images",
)
# What the command line may change of a run that is resumed.
FREE = set(UNSIGNED) - {"seed", "class_weights"}
SOURCES = ("*.py", "*.yaml", "*.yml", "*.toml")  # files whose content may change a run
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


def differing(before: dict, now: dict) -> dict[str, object]:
    """Settings by dotted key whose values now are not those before; but what is trusted, which is no setting of a run."""
    found = {key: now.get(key) for key in before | now if before.get(key) != now.get(key)}
    return {key: value for key, value in found.items() if not key.endswith(".trust")}


def changes(before: dict, now, allowed: list[str], where: str = "") -> dict[str, object]:
    """The settings by dotted key in which a config differs from that of the run it continues.

    Args:
        before: by dotted key. now: a config.
        allowed: the keys that may differ.
        where: the file that may have been changed.

    Raises ConfigError with every other difference.
    """
    now = flat(now)
    if before.get("class_weights") is None:  # killed before they were computed
        weights = now.get("class_weights")
        before = {**replaced(before, CLASS_WEIGHTS, weights), "class_weights": weights}
    found = differing(before, now)
    if refused := [key for key in found if key not in allowed]:
        lines = "".join(f"\n  - {key}: {before.get(key)} then, {now.get(key)} now" for key in refused)
        flags = " ".join(f"--allow {key}" for key in refused)
        raise ConfigError(
            f"these are not the settings that the run was started with{lines}",
            where,
            f"leave them as they were, or start a new run; to continue anyway: `segtrain resume RUN {flags} …`",
        )
    return found


def changed_settings(content: dict) -> dict[str, object]:
    """By dotted key the settings that were changed when a run was resumed, from the content of its environment.json."""
    try:
        return {key: value for entry in content.get("resumes", []) for key, value in entry.get("changed", {}).items()}
    except (AttributeError, TypeError) as error:
        what, fix = "`resumes` is not a list", "restore the file; without it, the settings are those of config.yaml"
        raise ConfigError(what, "environment.json", fix) from error


def trained_on(content: dict) -> str | None:
    """The fingerprint of the dataset at the last start, from the content of environment.json; None before it is known."""
    known = [entry["dataset_fingerprint"] for entry in content.get("resumes", []) if "dataset_fingerprint" in entry]
    return known[-1] if known else content.get("dataset_fingerprint")


def signature(config) -> str:
    """Equal for repeats of one setting, whatever the seed, the paths and the machine."""
    config = {k: floats_as_ints(v) for k, v in flat(config).items() if k not in UNSIGNED}
    return hashlib.blake2b(json.dumps(config, sort_keys=True).encode(), digest_size=8).hexdigest()


def floats_as_ints(value):
    """A setting with 1.0 as 1, within lists too: both are the same choice."""
    if isinstance(value, list):
        return [floats_as_ints(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def fingerprint(names: list[str], *counts) -> str:
    """Equal for equal datasets: a hash of the names of all images, and of the pixels of each class in each (ClassCounts)."""
    digest = hashlib.blake2b(json.dumps(names).encode(errors="surrogateescape"), digest_size=8)
    for split in counts:
        digest.update(split.per_image.tobytes())
    return digest.hexdigest()


def typed() -> str:
    """The command as it was typed."""
    return shlex.join(["segtrain", *sys.argv[1:]])


def start(device: str, world_size: int = 1) -> dict:
    """One start or resume: command, processes that train the network together, commit, versions, hardware.

    Args:
        device: of the config. Of several processes the first one's GPU is named.
    """
    import torch

    gpu = gpu_of(device)
    return {
        "command": typed(),
        "world_size": world_size,
        "time": f"{datetime.now():%Y-%m-%d %H:%M:%S}",
        **git_state(Path(segtrain.__file__).parent),
        "working_directory": git_state(Path.cwd()),
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in ("segtrain", *PACKAGES)},
        "hardware": {
            "machine": platform.machine(),
            "cores": cores(),
            "threads": torch.get_num_threads(),
            "gpu": gpu,
            "cuda": torch.version.cuda if gpu else None,
        },
    }


def gpu_of(device: str) -> str | None:
    """The GPU that a device of the config means: auto and cuda the current one. None for a CPU, or a GPU that is not there."""
    import torch

    kind, _, number = device.partition(":")
    if kind not in ("auto", "cuda") or not torch.cuda.is_available():
        return None
    index = int(number) if number.isdecimal() else torch.cuda.current_device()
    return torch.cuda.get_device_name(index) if index < torch.cuda.device_count() else None


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def git_state(folder: Path) -> dict:
    """The commit a folder's files come from, and a hash of what is not committed; None for files of no repository."""

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, timeout=20)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.decode(errors="replace") if done.returncode == 0 else None

    if not git("ls-files", "--", "."):  # installed into a folder that a repository ignores, or none at all
        return {"git_commit": None, "git_diff": None}
    commit, diff = git("rev-parse", "HEAD"), git("diff", "HEAD") or ""
    for name in (git("ls-files", "--others", "--exclude-standard", "-z", "--", *SOURCES) or "").split("\0"):
        file = folder / name
        if name and file.is_file():
            diff += f"{name}\n{hashlib.blake2b(file.read_bytes()).hexdigest()}\n"
    return {
        "git_commit": commit and commit.strip(),
        "git_diff": hashlib.blake2b(diff.encode(), digest_size=8).hexdigest() if diff else None,
    }
