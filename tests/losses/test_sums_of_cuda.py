"""The forms in which losses are computed: what CUDA runs, run on the CPU, equals what the CPU runs."""

import subprocess

import pytest
import torch
import torch.nn.functional as F
from test_losses import HARD_LOSSES, SIGMOID_LOSSES, SOFTMAX_LOSSES, batch, multilabels, soft_labels

from segtrain.losses import CrossEntropy, Dice, Lovasz, PixelRegion, sums
from segtrain.losses.sums import form

MORE = {
    "focal + smoothing": PixelRegion(CrossEntropy(label_smoothing=0.2), Dice(aggregate="class")),
    "lovasz tolerance": Lovasz(tolerance=0.2),
    "lovasz hinge image": Lovasz(activation="sigmoid", aggregate="image", classes="all"),
}
CASES = [(f"hard {n}", loss) for n, loss in {**HARD_LOSSES, **MORE}.items() if loss.activation == "softmax"]
CASES += [(f"soft {name}", loss) for name, loss in SOFTMAX_LOSSES.items()]
CASES += [(f"sigmoid {n}", loss) for n, loss in {**SIGMOID_LOSSES, **MORE}.items() if loss.activation == "sigmoid"]


def target_of(kind, logits, target):
    if kind == "soft":
        soft = soft_labels(logits).detach()
        return torch.where((target == 255)[:, None], -1, soft)
    return multilabels(logits) if kind == "sigmoid" else target


def value_and_gradient(loss, logits, target, how, monkeypatch):
    monkeypatch.setenv("SEGTRAIN_SUMS", how)
    z = logits.detach().clone().requires_grad_()
    value = loss(z, target)
    return value.detach(), *torch.autograd.grad(value, z)


@pytest.mark.parametrize(("name", "loss"), CASES, ids=[name for name, _ in CASES])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_whole_batch_at_once_equals_tiles(name, loss, dtype, monkeypatch):
    logits, target = batch(n=3, c=3, h=9, w=7, ignored=0.3)
    logits = logits.detach().to(dtype)
    target = target_of(name.split()[0], logits, target)
    tiles, dense = (value_and_gradient(loss, logits, target, how, monkeypatch) for how in ("tiles", "dense"))
    digits = 1e-10 if dtype == torch.float64 else 1e-5
    torch.testing.assert_close(dense[0], tiles[0], rtol=digits, atol=digits)
    if "hinge" not in name or dtype != torch.bfloat16:  # many errors are equal then, and share the slopes in any order
        torch.testing.assert_close(dense[1], tiles[1], rtol=max(digits, 1e-2 * (dtype == torch.bfloat16)), atol=digits)
    again = value_and_gradient(loss, logits, target, "dense", monkeypatch)
    assert all(map(torch.equal, dense, again))


@pytest.mark.parametrize("name", sorted(HARD_LOSSES.keys() - {"ce"}))  # its smoothing is infinite there
def test_all_ignored_and_infinite_logits(name, monkeypatch):
    logits, target = batch(dtype=torch.float32)
    for z, y in [
        (logits, torch.full_like(target, 255)),
        (logits.detach().index_fill(1, torch.tensor(2), -torch.inf), target.where(target == 255, target.clamp(max=1))),
    ]:
        value, gradient = value_and_gradient(HARD_LOSSES[name], z, y, "dense", monkeypatch)
        expected = value_and_gradient(HARD_LOSSES[name], z, y, "tiles", monkeypatch)
        torch.testing.assert_close((value, gradient), expected, equal_nan=True, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("name", "loss"), CASES, ids=[name for name, _ in CASES])
def test_labels_that_are_no_class_make_the_loss_nan(name, loss, monkeypatch):
    kind = name.split()[0]
    logits, target = batch()
    target = target_of(kind, logits, target).clone()
    target[(1, *[0] * (target.ndim - 1))] = 77
    with pytest.raises(ValueError, match="77|hard labels only"):
        value_and_gradient(loss, logits, target, "tiles", monkeypatch)
    assert value_and_gradient(loss, logits, target, "dense", monkeypatch)[0].isnan()


def test_the_form_is_chosen_by_the_environment(monkeypatch):
    assert form(torch.zeros(1)) == "tiles"
    monkeypatch.setenv("SEGTRAIN_SUMS", "fast")
    with pytest.raises(ValueError, match="SEGTRAIN_SUMS=fast is not one of tiles, dense"):
        CrossEntropy()(*batch())


def test_triton_is_used_where_it_runs(monkeypatch):
    class OnCuda:  # what `form` reads of logits
        device, dtype, shape = torch.device("cuda"), torch.bfloat16, (2, 19, 8, 8)

    triton = pytest.importorskip("segtrain.losses.sums.triton")
    sums._triton_runs.cache_clear()
    monkeypatch.setattr(triton, "start_a_kernel", lambda device: None)
    assert form(OnCuda) == "triton"
    OnCuda.dtype = torch.float64
    assert form(OnCuda) == "dense"
    OnCuda.dtype, OnCuda.shape = torch.float32, (2, 300, 8, 8)
    assert form(OnCuda) == "dense"
    sums._triton_runs.cache_clear()


def test_without_what_triton_needs_the_losses_run_in_pytorch(monkeypatch, caplog):
    triton = pytest.importorskip("segtrain.losses.sums.triton")

    def fail(device: torch.device) -> None:
        raise subprocess.CalledProcessError(1, ["gcc", "main.c"])

    monkeypatch.setattr(triton, "start_a_kernel", fail)
    sums._triton_runs.cache_clear()
    assert [sums._triton_runs(torch.device("cuda")) for _ in range(2)] == [False, False]
    sums._triton_runs.cache_clear()
    (record,) = caplog.records
    assert "CalledProcessError: Command '['gcc', 'main.c']' returned non-zero exit status 1" in record.message
    assert "gcc, python3-dev" in record.message


@pytest.mark.parametrize("loss", [Lovasz(), CrossEntropy(), Dice()])
def test_deterministic_algorithms_change_no_loss(loss, monkeypatch):
    logits, target = batch()
    expected = value_and_gradient(loss, logits, target, "dense", monkeypatch)
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        found = value_and_gradient(loss, logits, target, "dense", monkeypatch)
        assert torch.is_deterministic_algorithms_warn_only_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_lovasz_of_a_class_that_is_absent_is_its_largest_error(monkeypatch):
    monkeypatch.setenv("SEGTRAIN_SUMS", "dense")
    logits = torch.tensor([[2.0, 0.5], [1.0, 1.5]]).view(1, 2, 1, 2)
    expected = F.softmax(logits, dim=1)[0, 1].max()
    torch.testing.assert_close(Lovasz(classes=[1])(logits, torch.zeros(1, 1, 2, dtype=torch.long)), expected)
