"""Weights of an encoder from a file: of the encoder alone, of a whole network, or of a run of segtrain."""

import logging
import zipfile
from pathlib import Path

import torch
from torch import nn

from segtrain.errors import ConfigError, did_you_mean, few
from segtrain.files import read_checkpoint

log = logging.getLogger("segtrain")

# What files hold a state dict under, beside other things.
STATES = ("model_state_dict", "state_dict", "model_state", "model", "network", "net", "encoder")
FIX = "give a .safetensors or .pt file with a state dict of this encoder, alone or in a network, or the folder of a run"


def load_encoder(encoder: nn.Module, path: str) -> tuple[list[float], list[float]] | None:
    """Load an encoder's weights, and log what of the file was left out.

    The names may have any prefix, such as `encoder.` of a whole network, or lack the one that wrapped timm encoders
    have. A first layer for another number of channels takes the file's filters in turn, scaled as
    segmentation-models-pytorch does.

    Returns mean and std of the images' channels that a network of segtrain was trained with; None for other files.

    Raises ConfigError for a file that is damaged or holds another encoder.
    """
    file = weights_file(path)
    found, wanted = read_state(file), encoder.state_dict()
    names = best_names(found, wanted)
    state = {name: found[names[name]] for name in wanted if name in names}
    if missing := [name for name in wanted if name not in state and not name.endswith("num_batches_tracked")]:
        raise ConfigError(f"not the weights of this encoder: {few(missing, 3)} missing", str(file), FIX)
    first = next(name for name, tensor in wanted.items() if tensor.ndim == 4)
    if state[first].shape[2:] == wanted[first].shape[2:] and state[first].shape[1] != wanted[first].shape[1]:
        state[first] = in_other_channels(state[first], wanted[first].shape[1])
    if wrong := [name for name in state if state[name].shape != wanted[name].shape]:
        sizes = f"{list(state[wrong[0]].shape)} instead of {list(wanted[wrong[0]].shape)}"
        raise ConfigError(f"not the weights of this encoder: {wrong[0]} is {sizes}", str(file), FIX)
    encoder.load_state_dict(state, strict=False)
    if left := sorted(set(found) - set(names.values())):
        what = f"not used by this network: {few(left, 3)} ({len(left)} in all)"
        log.info(f"encoder weights from {file}; {what}")
    if not {"scale", "shift"} <= found.keys():
        return None
    std = 1 / (255 * found["scale"].flatten())  # as SegmentationModel keeps them
    return (found["shift"].flatten() * std).tolist(), std.tolist()


def weights_file(path: str) -> Path:
    """The file itself, or the best checkpoint of a run's folder. Raises ConfigError when there is none."""
    file = Path(path).expanduser()
    file = file / "checkpoints" / "best.pt" if file.is_dir() else file
    if not file.is_file():
        fix = "use null (random), imagenet, or the path of a .safetensors or .pt file or of a run"
        raise ConfigError(f"no file {file}{did_you_mean(path, ['imagenet'])}", "model.encoder_weights", fix)
    return file


def read_state(file: Path) -> dict[str, torch.Tensor]:
    """The tensors of a file by name, without running code. Raises ConfigError for a damaged file, or one without them."""
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(file)
        if zipfile.is_zipfile(file):
            content = read_checkpoint(file)
        else:  # as torch wrote them before version 1.6
            content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files are told of in many ways
        why = error.what if isinstance(error, ConfigError) else type(error).__name__
        raise ConfigError(f"damaged, or not a file of weights ({why})", str(file), FIX) from error
    if not (state := _tensors_in(content)):
        raise ConfigError("it holds no state dict", str(file), FIX)
    return state


def _tensors_in(content) -> dict[str, torch.Tensor]:
    """Those of the state dict in it, or else its own."""
    if not isinstance(content, dict):
        return {}
    for key in STATES:
        if found := _tensors_in(content.get(key)):
            return found
    return {name: value for name, value in content.items() if isinstance(value, torch.Tensor)}


def best_names(found: dict, wanted: dict) -> dict[str, str]:
    """The file's name of each tensor of the encoder, by the prefixes with which most agree."""
    prefixes = {""} | {name[: i + 1] for name in found for i, letter in enumerate(name) if letter == "."}
    best: dict[str, str] = {}
    for lacking in ("", "model."):  # which wrapped timm encoders have in front
        for prefix in sorted(prefixes, key=len):
            names = {
                name: prefix + name.removeprefix(lacking)
                for name in wanted
                if name.startswith(lacking) and prefix + name.removeprefix(lacking) in found
            }
            best = max(best, names, key=len)
    return best


def in_other_channels(weight: torch.Tensor, channels: int) -> torch.Tensor:
    """Filters [out, in, h, w] for another number of input channels: for one their sum, else repeated in turn."""
    given = weight.shape[1]
    if channels == 1:
        return weight.sum(dim=1, keepdim=True)
    return weight[:, [i % given for i in range(channels)]] * (given / channels)
