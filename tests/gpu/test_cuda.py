"""What only a CUDA device can show; skipped without one."""

import pytest
import torch

from segtrain.losses import CrossEntropy, Dice, Focal, Lovasz, PixelRegion

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


@pytest.mark.parametrize(
    "loss", [PixelRegion(CrossEntropy(), Dice()), Focal(), Lovasz()], ids=lambda l: type(l).__name__
)
def test_losses_equal_the_cpu_and_are_deterministic(loss):
    generator = torch.Generator().manual_seed(0)
    logits, target = (
        torch.randn(2, 5, 64, 80, generator=generator),
        torch.randint(0, 5, (2, 64, 80), generator=generator),
    )
    target[:, :9] = 255
    results = []
    torch.use_deterministic_algorithms(True)
    try:
        for device in ("cpu", "cuda", "cuda"):
            z = logits.to(device).requires_grad_()
            loss(z, target.to(device)).backward()
            results.append(z.grad.cpu())
    finally:
        torch.use_deterministic_algorithms(False)
    torch.testing.assert_close(results[0], results[1], rtol=1e-4, atol=1e-8)
    assert torch.equal(results[1], results[2])


@pytest.mark.parametrize("multilabel", [False, True])
def test_scores_equal_the_cpu(multilabel):
    from segtrain.metrics import SegmentationScores, predict

    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 5, 40, 52, generator=generator)
    target = torch.randint(0, 2, logits.shape, generator=generator).to(torch.uint8)
    target = target if multilabel else target.argmax(dim=1).to(torch.uint8)
    target[..., :4] = 255
    groups = ["fine_grained", "presence", "foreground", "objects", "boundary", "calibration"]
    found = []
    for device in ("cpu", "cuda"):
        z, y = logits.to(device), target.to(device)
        scores = SegmentationScores(5, background=None if multilabel else 0, multilabel=multilabel, groups=groups)
        scores.update(predict(z, multilabel), y, logits=z)
        found.append(scores.compute())
    assert found[0] == pytest.approx(found[1], rel=1e-4, abs=1e-4, nan_ok=True)


def test_a_training_in_bfloat16(segtrain):
    from conftest import TINY

    trained = segtrain(*[w for w in TINY if "device" not in w], "trainer.device=cuda")
    assert trained.code == 0, trained
