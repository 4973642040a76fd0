"""Check the states of optimizer, schedule and scaler in a checkpoint before they are loaded.

Torch loads optimizer and schedule without a look: a tensor of another shape would be read beyond its end, a text in
place of a number would fail steps later.
"""

import torch


def misfit(saved, now, where: str) -> str | None:
    """The first place where `saved` has other keys, types, lengths or shapes than `now`; None when it fits."""
    if isinstance(now, torch.Tensor):
        fits = isinstance(saved, torch.Tensor) and saved.shape == now.shape and saved.dtype == now.dtype
    elif isinstance(now, dict):
        if fits := isinstance(saved, dict) and saved.keys() == now.keys():
            return next((text for key in now if (text := misfit(saved[key], now[key], f"{where}.{key}"))), None)
    elif isinstance(now, list | tuple):
        if fits := isinstance(saved, list | tuple) and len(saved) == len(now):
            pairs = enumerate(zip(saved, now, strict=True))
            return next((text for i, (s, n) in pairs if (text := misfit(s, n, f"{where}[{i}]"))), None)
    elif isinstance(now, int | float) and not isinstance(now, bool):
        fits = type(saved) in (int, float)
    else:
        fits = type(saved) is type(now)
    return None if fits else f"{where} is {_form(saved)}, but {_form(now)} is needed"


def optimizer_misfit(saved, optimizer: torch.optim.Optimizer) -> str | None:
    """The same for an optimizer's state dict: groups as they are, and moments of the shapes of their parameters."""
    now = optimizer.state_dict()
    if not isinstance(saved, dict) or not isinstance(saved.get("state"), dict):
        return "the state of the optimizer has another form"
    if text := misfit(saved.get("param_groups"), now["param_groups"], "optimizer.param_groups"):
        return text
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for index, moments in saved["state"].items():
        if index not in range(len(parameters)) or not isinstance(moments, dict):
            return f"optimizer.state has {index!r:.40}"
        if not optimizer.defaults.get("fused"):  # others check shapes themselves, and may have some of their own
            continue
        for name, moment in moments.items():
            if moment is None:
                continue
            if not isinstance(moment, torch.Tensor) or moment.shape not in ((), parameters[index].shape):
                return f"optimizer.state[{index}].{name} is {_form(moment)}, but {_form(parameters[index])} is needed"
    return None


def _form(value) -> str:
    if isinstance(value, torch.Tensor):
        return f"a tensor {list(value.shape)} of {str(value.dtype).removeprefix('torch.')}"
    if isinstance(value, dict):
        return f"a mapping of {', '.join(map(str, value))[:80]}"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    return {str: "a text", type(None): "nothing", bool: "true or false"}.get(type(value), "a number")
