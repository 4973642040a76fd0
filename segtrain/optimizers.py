"""AdamW and SGD: weight decay on convolution and linear weights only, fused kernels where PyTorch has them.

`encoder_lr` is the encoder's learning rate as a factor of `lr`: below 1 for an encoder that was trained elsewhere.
"""

from typing import Annotated

import torch
from torch import nn

from segtrain.arguments import FractionBelowOne, NonNegative, Positive, Range, checked
from segtrain.errors import ConfigError

Betas = Annotated[list[float], Range("two numbers >= 0 and < 1", lambda v: len(v) == 2 and min(v) >= 0 and max(v) < 1)]


@checked
def adamw(
    model,
    lr: Positive = 2e-3,
    weight_decay: NonNegative = 1e-2,
    betas: Betas = (0.9, 0.999),
    encoder_lr: Positive = 1.0,
) -> torch.optim.Optimizer:
    """AdamW. Loshchilov and Hutter, 2019, https://arxiv.org/abs/1711.05101"""
    return torch.optim.AdamW(_groups(model, lr, weight_decay, encoder_lr), lr=lr, betas=tuple(betas), fused=True)


@checked
def sgd(
    model,
    lr: Positive = 1e-2,
    momentum: FractionBelowOne = 0.9,
    weight_decay: NonNegative = 1e-4,
    nesterov: bool = True,
    encoder_lr: Positive = 1.0,
) -> torch.optim.Optimizer:
    """Stochastic gradient descent with momentum."""
    groups = _groups(model, lr, weight_decay, encoder_lr)
    return torch.optim.SGD(groups, lr=lr, momentum=momentum, nesterov=nesterov and momentum > 0, fused=True)


def add_parameters(optimizer: torch.optim.Optimizer, loss: nn.Module) -> None:
    """Let the optimizer train the parameters that a loss has, without weight decay."""
    if own := [parameter for parameter in loss.parameters() if parameter.requires_grad]:
        optimizer.add_param_group({"params": own, "weight_decay": 0.0})


def start_momentum(optimizer: torch.optim.Optimizer) -> None:
    """Give fused SGD the momentum 0 where it has none yet.

    Its kernel fails where some parameters have one and others do not, as after `freeze_encoder`, and leaves what it makes
    in its first step without values when that step is skipped, as by a gradient scaler.
    """
    if not (isinstance(optimizer, torch.optim.SGD) and optimizer.defaults["fused"]):
        return
    for group in optimizer.param_groups:
        for parameter in group["params"] if group["momentum"] and not group["dampening"] else []:
            state = optimizer.state[parameter]
            if state.get("momentum_buffer") is None:
                state["momentum_buffer"] = torch.zeros_like(parameter)


def check_encoder(model: nn.Module, setting: str, off: int) -> None:
    """Raise ConfigError for a setting of the encoder of a model that has none; `off`: its value without effect."""
    if not any(is_of_encoder(name) for name, _ in model.named_parameters()):
        raise ConfigError("the model has no encoder", setting, f"set {setting}={off}")


def _groups(model: nn.Module, lr: float, weight_decay: float, encoder_lr: float) -> list[dict]:
    """Decoder and encoder with their learning rates; biases and norms (tensors of one dimension) are not decayed.

    Raises ConfigError when the encoder is to have a learning rate of its own and there is none.
    """
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    encoder = [] if encoder_lr == 1 else [p for name, p in trained if is_of_encoder(name)]
    if encoder_lr != 1:
        check_encoder(model, "optimizer.encoder_lr", 1)
    own = set(encoder)
    parts = [([p for _, p in trained if p not in own], lr), (encoder, lr * encoder_lr)]
    return [
        {
            "params": [p for p in parameters if (p.ndim > 1) == decayed],
            "weight_decay": weight_decay * decayed,
            "lr": rate,
        }
        for parameters, rate in parts
        if parameters
        for decayed in (True, False)
    ]


def is_of_encoder(name: str) -> bool:
    """Whether the parameter or module of a dotted name belongs to the encoder of its network."""
    return "encoder" in name.split(".")
