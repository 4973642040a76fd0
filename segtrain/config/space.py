"""What a search may choose: intervals, ranges and lists of values of single settings, and options of groups."""

import itertools

from omegaconf import DictConfig, OmegaConf

from segtrain.config.compose import key_mistakes
from segtrain.config.saved import value_of
from segtrain.config.schema import config_error, config_mistakes
from segtrain.errors import ConfigError

SWEEPER = "optuna"
MOST = 200  # combinations of options of groups


def search_space(cfg: DictConfig, overrides: list) -> tuple[dict[str, dict], list[dict[str, str]]]:
    """The space of single settings, and the combinations of options of groups.

    Args:
        cfg: composed for a sweep, with Hydra's node.
        overrides: parsed, of the task; those that sweep are taken.

    Returns:
        by dotted key {"choices": [texts]} or {"low", "high", "step", "log", "whole"}; and option by group, at least one.

    Raises ConfigError for what cannot be searched.
    """
    groups, space = {}, {}
    for override in overrides:
        if not override.is_sweep_override():
            continue
        key = override.key_or_group
        if override.is_choice_sweep() or override.is_range_sweep():
            values = list(override.sweep_string_iterator())
            if not values:
                raise ConfigError("no values", override.input_line, "range(START,STOP,STEP) ends before STOP")
        if key in cfg.hydra.runtime.choices and override.is_choice_sweep():
            groups[key] = values
        elif override.is_choice_sweep():
            space[key] = {"choices": values}
        elif override.is_range_sweep():
            numbers = sorted(float(value) for value in values)
            step = numbers[1] - numbers[0] if len(numbers) > 1 else None
            whole = all(isinstance(number, int) for number in (override.value().start, override.value().step))
            space[key] = {"low": numbers[0], "high": numbers[-1], "step": step, "log": False, "whole": whole}
        elif override.is_interval_sweep() and key not in cfg.hydra.runtime.choices:
            interval = override.value()
            ends, whole, log = (interval.start, interval.end), isinstance(interval.start, int), "log" in interval.tags
            if ends[0] > ends[1] or (log and ends[0] <= 0):
                fix = f"interval(LOW,HIGH) with LOW {'above 0 and ' * log}at most HIGH"
                raise ConfigError("not an interval", override.input_line, fix)
            space[key] = {"low": ends[0], "high": ends[1], "step": None, "log": log, "whole": whole}
        else:
            raise ConfigError(
                "not a space to search", override.input_line, "give values, interval(LOW,HIGH) or range(…)"
            )
    combinations = [dict(zip(groups, options, strict=True)) for options in itertools.product(*groups.values())]
    if not (groups or space):
        raise ConfigError(
            "nothing to search", "-m", "for example segtrain -m hydra/sweeper=optuna 'loss.alpha=interval(0,2)'"
        )
    if len(combinations) > MOST:
        raise ConfigError(f"{len(combinations)} combinations of options", ", ".join(groups), f"give at most {MOST}")
    return space, combinations


def check_keys(cfg: DictConfig, space: dict, combination: dict[str, str]) -> None:
    """Raise ConfigError when a setting that is searched is not there with these options, or may not have a value."""
    wrong = [text for key in space for text in key_mistakes(cfg, key)]
    for key, values in space.items() if not wrong else ():
        number = int if values.get("whole") else float
        for text in values.get("choices") or [number(values["low"]), number(values["high"])]:
            one = cfg.copy()
            OmegaConf.update(one, key, value_of(f"{key}={text}"), merge=False)
            found = config_mistakes(one)
            whole = f"; of whole numbers: {key}=int(interval({values.get('low', 0):g},{values.get('high', 0):g}))"
            wrong += [text + whole * ("whole number" in text and "choices" not in values) for text in found]
    if wrong:
        where = " ".join(f"{group}={option}" for group, option in combination.items())
        raise config_error([f"{text} (with {where})" if where else text for text in dict.fromkeys(wrong)])
