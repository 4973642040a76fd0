"""Exponential moving average of the weights, buffers too."""

import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


def moving_average(model: torch.nn.Module, decay: float | None) -> AveragedModel | None:
    """`average.update_parameters(model)` after each step; `average.module` is the averaged model. None for None."""
    if decay is None:
        return None
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)
