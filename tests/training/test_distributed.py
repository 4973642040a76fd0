"""Several processes (gloo) against one: losses, gradients, scores, runs; and how they end."""

import itertools
import multiprocessing
import pickle

import numpy as np
import pytest
import torch
from ranks_cases import PRESETS, WEIGHTINGS, free_port, steps, validation, work

fork = multiprocessing.get_context("forkserver")
fork.set_forkserver_preload(["ranks_cases"])


def of_processes(size: int, function, cases: list, folder) -> list:
    """function(case, processes) for each case, by so many processes."""
    port, file = free_port(), folder / "found"
    started = [fork.Process(target=work, args=(n, size, port, function, cases, str(file))) for n in range(size)]
    for process in started:
        process.start()
    for process in started:
        process.join()
    assert [process.exitcode for process in started] == [0] * size
    return pickle.loads(file.read_bytes())


def check_steps(size: int, cases: list, folder) -> dict:
    """The largest relative difference of a gradient by the number of micro-batches a step."""
    largest = {}
    for case, (losses, gradients) in zip(cases, of_processes(size, steps, cases, folder), strict=True):
        one_losses, one_gradients = steps(case)
        preset, _, accumulate, dtype = case
        # The shares of micro-batches are float32 in one process, and so is a teacher's part.
        most = 1e-6 if dtype == torch.float32 or preset == "teacher" else 1e-12 if accumulate == 1 else 1e-7
        assert losses == [pytest.approx(terms, rel=most, abs=most) for terms in one_losses], case
        for own, one in zip(gradients, one_gradients, strict=True):
            scale = max(float(g.abs().max()) for g in one)
            difference = max(float((a - b).abs().max()) for a, b in zip(own, one, strict=True)) / scale
            assert difference <= most, case
            largest[accumulate] = max(difference, largest.get(accumulate, 0.0))
    return largest


@pytest.mark.parametrize("size", [2, 3])
def test_losses_and_gradients_are_those_of_one_process(size, tmp_path):
    cases = [(preset, "median_frequency", 1 + number % 2, torch.float64) for number, preset in enumerate(PRESETS)]
    cases += [("smooth", "none", 2, torch.float64), ("teacher", "log_ratio", 1, torch.float64)]
    check_steps(size, [*cases, ("ce_dice", "none", 2, torch.float32), ("ce", "manual", 1, torch.float32)], tmp_path)


@pytest.mark.long
@pytest.mark.parametrize("size", [2, 3])
def test_losses_and_gradients_of_every_preset_weighting_and_accumulation(size, tmp_path, figure):
    grid = itertools.product([*PRESETS, "smooth", "teacher"], WEIGHTINGS, (1, 2), (torch.float64,))
    for accumulate, largest in check_steps(size, cases := list(grid), tmp_path).items():
        title = f"{size} processes against one, accumulate={accumulate}, {len(cases) // 2} losses and weightings"
        figure(title, f"gradients differ by {largest:.1e} at most")


@pytest.mark.parametrize("size", [2, 3])
def test_scores_and_validation_losses_are_bit_equal(size, tmp_path):
    cases = [(preset, limit) for preset in ("ce_dice", "bce_dice", "lovasz") for limit in (None, 4, 1)]
    for case, (scores, loss, state) in zip(cases, of_processes(size, validation, cases, tmp_path), strict=True):
        one_scores, one_loss, one_state = validation(case)
        np.testing.assert_equal(scores, one_scores)
        np.testing.assert_equal(state, one_state)
        assert loss == one_loss
