"""A training step as CUDA runs it, run on the CPU: its kernels and waits, and what becomes of labels that are no class."""

from pathlib import Path

import pytest
import torch
from kernel_count import KernelCount
from small_training import Tiny, parts, same

from segtrain import configs
from segtrain.config.build import build
from segtrain.config.compose import compose, without_hydra
from segtrain.errors import DataError
from segtrain.labels import Annotators, BoundarySmooth, Smooth
from segtrain.losses import CrossEntropy, Dice, PixelRegion
from segtrain.metrics import SegmentationScores, predict
from segtrain.training import Trainer
from segtrain.training.average import Average
from segtrain.training.step import LOOK_EVERY, Step

CPU = torch.device("cpu")
LOSS = {"kernel": 12, "PyTorch": 65}  # kernels of CE + Dice, forward and backward (the first: losses/test_triton.py)


@pytest.fixture(autouse=True)
def _as_on_cuda(monkeypatch):
    monkeypatch.setenv("SEGTRAIN_SUMS", "dense")


@pytest.fixture
def _deterministic():
    torch.use_deterministic_algorithms(True)
    yield
    assert torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(False)


def step_of(**settings) -> tuple[Step, list]:
    made = parts(trainer=Trainer(device="cpu"), **settings)
    step = Step(made, device=CPU, precision=torch.float32, clip_norm=None, ema_decay=0.99, compiled=False)
    step.guarded = True  # as on CUDA
    step.train(frozen_encoder=False)
    return step, list(made.train.epoch(0))


def loss_kernels(loss, images: int) -> tuple[int, int]:
    logits, target = torch.randn(images, 4, 8, 8, requires_grad=True), torch.zeros(images, 8, 8, dtype=torch.uint8)
    with KernelCount() as count:
        loss(logits, target).backward()
    return count.kernels, count.waits


def test_ce_and_dice_in_pytorch():
    loss = PixelRegion(CrossEntropy(), Dice(), alpha=0.5)
    assert loss_kernels(loss, 2) == loss_kernels(loss, 16)
    kernels, waits = loss_kernels(loss, 16)
    assert kernels <= LOSS["PyTorch"]
    assert waits == 0


def test_a_step_without_the_network():
    step, (batch, *_) = step_of()
    with KernelCount() as network:
        logits = step.model(batch[0])
        logits.backward(torch.ones_like(logits))
    step.optimizer.zero_grad()
    for number in range(2):
        step([batch], number)
    with KernelCount() as count:
        step([batch], 2)
    loss, _ = loss_kernels(step.loss, 4)
    own = count.kernels - network.kernels - loss
    assert own + LOSS["kernel"] <= 60
    assert count.waits == 0


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("clip_norm", [None, 1.0])
def test_no_step_of_an_epoch_waits(accumulate, clip_norm, monkeypatch):
    """What an epoch waits for does not depend on its steps, of which it looks at the flag in two."""
    waits = []
    for images in (2 * LOOK_EVERY, 3 * LOOK_EVERY):
        trainer = Trainer(device="cpu", epochs=1, accumulate=accumulate, clip_norm=clip_norm, ema_decay=0.9)
        made = parts(trainer=trainer, images=images * accumulate, batch_size=2)
        batches = list(made.train.epoch(0))
        monkeypatch.setattr(made.train, "epoch", lambda epoch, first, batches=batches: iter(batches))
        trainer._setup(made, None, lambda content: None)
        trainer.step.guarded = True
        with KernelCount() as count:
            trainer._train_epoch()
        assert trainer.state.step in (LOOK_EVERY, 3 * LOOK_EVERY // 2)
        waits.append(count.waits)
    assert waits[0] == waits[1] > 0


@pytest.mark.parametrize("labels", [Smooth(4), BoundarySmooth(4)])
def test_no_wait_for_soft_labels(labels):
    step, (batch, *_) = step_of(labels=labels)
    with KernelCount() as count:
        step([batch], 1)
    assert count.waits == 0


def test_no_wait_for_several_annotators():
    with KernelCount() as count:
        Annotators(4).target(torch.zeros(2, 3, 8, 8, dtype=torch.uint8))
    assert count.waits == 0


PRESETS = sorted(file.stem for file in Path(configs.__file__).parent.glob("loss/*.yaml"))


@pytest.mark.usefixtures("_deterministic")
@pytest.mark.parametrize("preset", PRESETS)
def test_no_loss_waits_none_sorts_to_scatter_and_none_counts_images(preset):
    cfg = without_hydra(compose([f"loss={preset}", "class_weights=[1,2,3,4]"]))
    loss, found = build(cfg, "loss"), []
    for epoch in loss.starts:
        loss.start_epoch(epoch)
        for images in (2, 16):
            logits = torch.randn(images, 4, 8, 8, requires_grad=True)
            target = torch.zeros((images, *[4] * (loss.activation == "sigmoid"), 8, 8), dtype=torch.uint8)
            with KernelCount() as count:
                loss(logits, target).backward()
            assert not count.waited
            assert not count.sorted
            found.append(count.kernels)
            with KernelCount() as count, torch.no_grad():
                loss.piece(logits, target)  # of the validation
            assert not count.waited
    assert found[0::2] == found[1::2]


def test_standard_scores_of_a_batch():
    found = []
    for images in (2, 16):
        scores, labels = SegmentationScores(4), torch.zeros(images, 8, 8, dtype=torch.uint8)
        scores.update(labels, labels)
        with KernelCount() as count:
            scores.update(labels, labels)
        found.append((count.kernels, count.waits))
    assert found[0] == found[1]
    assert found[0][0] <= 15
    assert found[0][1] == 0


@pytest.mark.usefixtures("_deterministic")
@pytest.mark.parametrize("multilabel", [False, True])
@pytest.mark.parametrize("groups", [["fine_grained", "presence", "foreground"], ["calibration"]])
def test_no_scores_but_those_of_objects_and_borders_wait(groups, multilabel):
    scores = SegmentationScores(4, multilabel=multilabel, background=None if multilabel else 0, groups=groups)
    logits = torch.randn(2, 4, 8, 8)
    target = torch.zeros((2, 4, 8, 8) if multilabel else (2, 8, 8), dtype=torch.uint8)
    scores.update(predict(logits, multilabel), target, logits=logits)
    with KernelCount() as count:
        scores.update(predict(logits, multilabel), target, logits=logits)
    assert count.waits == 0, count.waited


@pytest.mark.parametrize("skip", [False, True])
def test_labels_that_are_no_class_are_named_when_the_flag_is_read(skip):
    step, (batch, *_) = step_of()
    step.skip, step.guarded = skip, not skip
    wrong = batch[1].clone()
    wrong[1, :2, 0] = 77
    before = [parameter.clone() for parameter in step.model.parameters()]
    with pytest.raises(DataError, match=r"label 77 is not a class .* 2 pixels, the first in image 1") as error:  # noqa: PT012
        step([(batch[0], wrong, batch[2])], 0)
        for number in range(1, 2 * LOOK_EVERY + 1):
            step([batch], number)
    assert error.value.where.startswith("step 1, images train_")
    assert all(map(torch.equal, step.model.parameters(), before))


def test_the_average_is_that_of_pytorch():
    from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

    def mean_of_first(averaged, current, updates):
        get_ema_multi_avg_fn(min(0.6, int(updates) / (int(updates) + 1)))(averaged, current, updates)

    torch.manual_seed(0)
    network = Tiny()
    ours = Average(network, 0.6)  # which is reached in the third update
    theirs = AveragedModel(network, multi_avg_fn=mean_of_first, use_buffers=True)
    for _ in range(3):
        with torch.no_grad():
            network(torch.randint(0, 255, (2, 3, 8, 8)))  # moves the statistics of batch norm
            for parameter in network.parameters():
                parameter += torch.randn(parameter.shape)
        ours.update()
        theirs.update_parameters(network)
    for name, value in theirs.module.state_dict().items():
        if value.is_floating_point():
            assert torch.equal(ours.module.state_dict()[name], value)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    again = Average(network, 0.6)
    again.load_state_dict(ours.state_dict())
    assert (again.updates, same(again.module, ours.module)) == (3, True)
    counter = "layers.1.num_batches_tracked"
    assert ours.module.state_dict()[counter] == network.state_dict()[counter] == 3
    with KernelCount() as count:
        ours.update()
    assert (count.kernels, count.waits) == (2, 0)
