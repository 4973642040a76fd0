"""What a network is taught: hard, smooth, smooth at borders, several annotators, a teacher."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import TINY, write_folder_dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage
from small_training import Tiny, fit, same
from torch import nn

from segtrain.class_counts import count_classes
from segtrain.data.augment import Augment
from segtrain.data.folder import Folder
from segtrain.data.folder.folder import majority
from segtrain.data.loader import Loader
from segtrain.data.sampling import ForegroundCrops, Uniform
from segtrain.labels import Annotators, BoundarySmooth, Hard, Smooth, Teacher
from segtrain.losses import CrossEntropy, Dice, Focal, Lovasz, Phased, PixelRegion, as_loss

TARGET = torch.tensor([[[0, 0, 1], [0, 255, 1], [2, 2, 2]]], dtype=torch.uint8)


def one_hot(target, classes):
    return F.one_hot(target.long().where(target != 255, 0), classes).permute(0, 3, 1, 2).float()


def test_smooth_by_hand():
    soft = Smooth(num_classes=4, epsilon=0.2).target(TARGET)
    assert soft[0, :, 0, 0].tolist() == pytest.approx([0.85, 0.05, 0.05, 0.05])
    assert soft[0, :, 1, 1].tolist() == [-1] * 4
    several = torch.tensor([1, 0, 255], dtype=torch.uint8).view(1, 3, 1, 1)
    assert Smooth(num_classes=3, epsilon=0.2).target(several).flatten().tolist() == pytest.approx([0.9, 0.1, 255])


@pytest.mark.parametrize("labels", [Smooth(num_classes=4), BoundarySmooth(num_classes=4), Annotators(num_classes=4)])
def test_labels_that_are_no_class_are_refused(labels):
    target = TARGET.clone()
    target[0, 0, 0] = 7
    soft = labels.target(target[None] if labels.annotated else target)
    with pytest.raises(ValueError, match="soft label nan is not from 0 to 1"):
        Dice()(torch.zeros(soft.shape), soft)


def test_smooth_is_label_smoothing_of_cross_entropy():
    logits, target = torch.randn(2, 3, 8, 8), torch.randint(0, 3, (2, 8, 8))
    target[0, 0] = 255
    ours = CrossEntropy()(logits, Smooth(num_classes=3, epsilon=0.1).target(target))
    torch.testing.assert_close(ours, F.cross_entropy(logits, target, ignore_index=255, label_smoothing=0.1))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), k=st.sampled_from([3, 5]), classes=st.integers(2, 5))
def test_borders_are_where_scipy_erodes(seed, k, classes):
    rng = np.random.default_rng(seed)
    small = rng.integers(0, classes, (4, 5))
    target = np.kron(small, np.ones((5, 5), dtype=int)).astype(np.uint8)
    eroded = np.zeros(target.shape, dtype=bool)
    for c in range(classes):
        eroded |= (target == c) & ~ndimage.binary_erosion(target == c, np.ones((k, k)), border_value=1)
    labels = BoundarySmooth(num_classes=classes, k=k, epsilon=0.5)
    border = labels.border(torch.from_numpy(target)[None])[0].numpy()
    assert (border == eroded).all()
    soft = labels.target(torch.from_numpy(target)[None])[0]
    plain = one_hot(torch.from_numpy(target)[None], classes)[0]
    torch.testing.assert_close(soft[:, ~border], plain[:, ~border])
    torch.testing.assert_close(soft[:, border], plain[:, border] / 2 + 0.5 / classes)


def test_ignored_neighbours_are_no_border():
    target = torch.zeros(1, 5, 5, dtype=torch.uint8)
    target[0, 2] = 255
    assert not BoundarySmooth(num_classes=2).border(target).any()


def test_several_labels_a_pixel_have_borders_in_their_own_channel():
    target = torch.zeros(1, 2, 5, 8, dtype=torch.uint8)
    target[0, 1, :, 4:] = 1
    border = BoundarySmooth(num_classes=2).border(target)[0]
    assert not border[0].any()
    assert border[1].any(dim=0).nonzero().flatten().tolist() == [3, 4]


def test_annotators_by_hand():
    masks = torch.tensor([[0, 1, 255, 255], [0, 2, 1, 255], [1, 2, 1, 255]], dtype=torch.uint8).view(1, 3, 1, 4)
    soft = Annotators(num_classes=3).target(masks)[0, :, 0]
    expected = [[2 / 3, 0, 0, -1], [1 / 3, 1 / 3, 1, -1], [0, 2 / 3, 0, -1]]
    torch.testing.assert_close(soft, torch.tensor(expected))


def test_the_majority_rules_and_the_first_annotator_breaks_ties():
    masks = np.array([[[0, 1, 1], [2, 0, 1], [255, 1, 0], [255, 255, 255]]], dtype=np.uint8)
    assert majority(masks, 255).tolist() == [[1, 2, 1, 255]]


@pytest.fixture
def annotated_folder(tmp_path):
    root = write_folder_dataset(tmp_path / "data")
    for split in ("train", "val"):
        (root / split / "ben").mkdir()
        for file in (root / split / "masks").iterdir():
            mask = np.array(Image.open(file))
            mask[mask == 2] = 1  # Ben knows one kind
            Image.fromarray(mask).save(root / split / "ben" / file.name)
    return root


def test_annotators_from_folders_to_batches(annotated_folder):
    dataset = Folder(str(annotated_folder), "train", num_classes=3, annotators=["ben", "masks"])
    assert dataset.mask(0).max() == 1  # of two, Ben is named first
    batches = Loader(batch_size=3, workers=0, cache="ram", min_images=1).train(
        dataset, Augment(horizontal_flip=0.5), Uniform(), count_classes(dataset), seed=0, annotated=True
    )
    _, target, _ = next(iter(batches.epoch(0)))
    assert target.shape == (3, 2, 40, 48)
    soft = Annotators(num_classes=3).target(target)
    assert set(soft.unique().tolist()) == {0, 0.5, 1}
    assert (soft[:, 2] <= 0.5).all()


def test_a_missing_mask_of_one_annotator_is_named(annotated_folder, segtrain):
    (annotated_folder / "train" / "ben" / "train3.png").unlink()
    done = segtrain(
        "dataset=folder",
        f"dataset.root={annotated_folder}",
        "dataset.num_classes=3",
        "dataset.annotators=[masks,ben]",
        "labels=annotators",
    )
    assert done.code == 3
    assert "1 image without a mask: train3" in done.err


def test_a_run_on_annotators(annotated_folder, segtrain):
    done = segtrain(
        "dataset=folder",
        f"dataset.root={annotated_folder}",
        "dataset.num_classes=3",
        "dataset.annotators=[masks,ben]",
        "labels=annotators",
        "trainer.epochs=1",
        "model=unet",
        "loader.workers=2",
    )
    assert done.code == 0, done.err


class Fixed(nn.Module):
    def __init__(self, logits):
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, images):
        return self.logits


def taught(labels, loss, logits, target, images):
    """The loss and its terms, of a step with these training targets."""
    training = labels.training_loss(as_loss(loss))
    return training(logits, labels.target(target, images)), training.parts


def test_the_teacher_s_loss_is_the_formula():
    torch.manual_seed(0)
    logits = torch.randn(2, 3, 6, 7, requires_grad=True)
    answer = torch.randn(2, 3, 6, 7)
    target = torch.randint(0, 3, (2, 6, 7))
    target[0, :2] = 255
    valid = target != 255
    loss = PixelRegion(CrossEntropy(), Dice(), alpha=0.7, pixel_weight=1.3)
    labels = Teacher(Fixed(answer), temperature=2.0, label_share=0.4)
    value, parts = taught(labels, loss, logits, target, torch.zeros(2, 3, 6, 7))
    p, q = (logits / 2).softmax(1), (answer / 2).softmax(1)
    kl = 4 * (q * (q.log() - p.log())).sum(1)[valid].mean()
    soft = answer.softmax(1).masked_fill(~valid[:, None], 255)
    pixel = 0.4 * F.cross_entropy(logits, target, ignore_index=255) + 0.6 * kl
    torch.testing.assert_close(value, 1.3 * pixel + 0.7 * Dice()(logits, soft))
    assert set(parts) == {"ce", "kl", "dice"}
    value.backward()
    assert logits.grad[0, :, :2].abs().max() == 0  # ignored
    assert labels.teacher.logits.grad is None


def test_a_student_that_answers_like_its_teacher_pays_nothing_for_it():
    logits, target = torch.randn(1, 3, 4, 4), torch.zeros(1, 4, 4, dtype=torch.uint8)
    loss = PixelRegion(CrossEntropy(), Dice())
    _, parts = taught(Teacher(Fixed(logits)), loss, logits, target, torch.zeros(1, 3, 4, 4))
    assert parts["kl"] == pytest.approx(0, abs=1e-6)
    assert parts["dice"] == pytest.approx(0, abs=1e-3)


def test_a_teacher_with_all_pixels_ignored_is_finite():
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    target = torch.full((1, 4, 4), 255)
    value, _ = taught(
        Teacher(Fixed(torch.randn(1, 3, 4, 4))),
        PixelRegion(CrossEntropy(), Dice()),
        logits,
        target,
        torch.zeros(1, 3, 4, 4),
    )
    value.backward()
    assert value == 0
    assert logits.grad.abs().max() == 0


def test_a_teacher_of_other_classes_is_refused():
    with pytest.raises(ValueError, match="same classes"):
        taught(
            Teacher(Fixed(torch.zeros(1, 5, 4, 4))),
            CrossEntropy(),
            torch.zeros(1, 3, 4, 4),
            torch.zeros(1, 4, 4, dtype=torch.uint8),
            torch.zeros(1, 3, 4, 4),
        )


def test_a_teacher_follows_the_phase():
    first, second = CrossEntropy(), PixelRegion(CrossEntropy(), Dice())
    loss = Phased([first, second], [0, 1])
    labels, logits = Teacher(Fixed(torch.randn(1, 3, 4, 4))), torch.randn(1, 3, 4, 4)
    target, images = torch.zeros(1, 4, 4, dtype=torch.uint8), torch.zeros(1, 3, 4, 4)
    assert "dice" not in taught(labels, loss, logits, target, images)[1]
    loss.start_epoch(1)
    assert "dice" in taught(labels, loss, logits, target, images)[1]


def test_hard_labels_change_nothing(tmp_path):
    _, plain = fit(tmp_path / "a")
    _, hard = fit(tmp_path / "b", labels=Hard())
    assert same(plain, hard)


@pytest.mark.parametrize(
    "labels",
    [Smooth(num_classes=4), BoundarySmooth(num_classes=4), Teacher(Tiny())],
    ids=["smooth", "boundary_smooth", "teacher"],
)
def test_accumulated_batches_train_on_soft_labels(tmp_path, labels):
    result, _ = fit(tmp_path / "run", labels=labels, batch_size=2, accumulate=2)
    assert np.isfinite(result.scores["loss"])


def test_lovasz_refuses_soft_labels_by_name():
    logits = torch.zeros(1, 3, 4, 4)
    soft = Smooth(num_classes=3).target(torch.zeros(1, 4, 4, dtype=torch.uint8))
    with pytest.raises(ValueError, match="Lovasz.* takes hard labels only"):
        Lovasz()(logits, soft)


@pytest.mark.parametrize("loss", ["lovasz", "ce_lovasz"])
def test_soft_labels_with_lovasz_are_refused_before_training(segtrain, loss):
    done = segtrain(f"loss={loss}", "labels=smooth")
    assert done.code == 2
    assert "Lovasz(activation=softmax) takes hard labels only" in done.err
    assert "with labels (segtrain.labels.Smooth)" in done.err


def test_annotators_without_folders_are_refused(segtrain):
    done = segtrain("labels=annotators")
    assert done.code == 2
    assert "dataset.annotators" in done.err


def test_learning_from_a_teacher_s_run(segtrain, trained, tmp_path):
    done = segtrain(*TINY, "labels=teacher", f"labels.teacher.run={trained}", "hydra.run.dir=student")
    assert done.code == 0, done.err
    header = (tmp_path / "student" / "metrics.csv").read_text().splitlines()[0]
    assert "train/loss/kl" in header
    done = segtrain("labels=teacher", "labels.teacher.run=nowhere")
    assert done.code == 2
    assert "no folder nowhere" in done.err


@pytest.mark.parametrize("ignore_index", [0, 1, 255])
def test_ignored_pixels_are_those_of_the_mask_whatever_their_value(ignore_index):
    """0 and 1 are shares of a class in soft labels: they cannot mark what is ignored."""
    torch.manual_seed(0)
    target = torch.randint(0, 3, (2, 12, 12))
    target[:, :3] = ignore_index
    logits = torch.randn(2, 3, 12, 12)
    annotated = torch.stack([target, target], dim=1)
    for kind, masks in ((Smooth, target), (BoundarySmooth, target), (Annotators, annotated)):
        soft = kind(num_classes=3, ignore_index=ignore_index).target(masks)
        assert torch.equal((soft < 0).any(dim=1), target == ignore_index)
    soft = Annotators(num_classes=3, ignore_index=ignore_index).target(annotated)
    for loss in (CrossEntropy(ignore_index=ignore_index), Dice(ignore_index=ignore_index)):
        torch.testing.assert_close(loss(logits, soft), loss(logits, target))
    amounts = CrossEntropy(ignore_index=ignore_index).amounts
    assert amounts(soft) == amounts(target)


@pytest.mark.parametrize("value", [5.0, float("nan")])
def test_soft_labels_that_are_no_shares_are_refused(value):
    soft = torch.zeros(2, 3, 4, 4)
    soft[1, 2, 0, 0] = value
    with pytest.raises(ValueError, match=r"is not from 0 to 1 .* 1 values, the first in image 1"):
        Dice()(torch.zeros(2, 3, 4, 4), soft)


def test_two_pixel_losses_in_one_are_their_sum():
    logits, target = torch.randn(2, 3, 6, 6), torch.randint(0, 3, (2, 6, 6))
    for one, other in ((CrossEntropy(), Focal()), (Focal(), CrossEntropy()), (Focal(gamma=1.0), Focal(gamma=3.0))):
        torch.testing.assert_close(PixelRegion(one, other)(logits, target), one(logits, target) + other(logits, target))


def test_every_phase_is_tried_before_training(segtrain):
    done = segtrain("loss=phased", "labels=smooth")
    assert done.code == 2, done
    assert "Lovasz(activation=softmax) takes hard labels only" in done.err


def test_a_teacher_of_other_classes_is_refused_before_training(segtrain, folder_dataset):
    words = ["trainer.max_steps=1", "trainer.val_batches=1"]
    data = ["dataset=folder", f"dataset.root={folder_dataset}", "dataset.num_classes=3", "augment.size=[32,32]"]
    assert segtrain(*data, *words, "hydra.run.dir=teacher").code == 0
    done = segtrain(*data, *words, "labels=teacher", "labels.teacher.run=teacher", "dataset.class_names=[a,b,c]")
    assert done.code == 2
    assert "the teacher has the classes class 0, class 1, class 2, but the dataset has a, b, c" in done.err


def test_annotators_and_centred_crops(annotated_folder):
    dataset = Folder(str(annotated_folder), "train", num_classes=3, annotators=["masks", "ben"])
    batches = Loader(batch_size=6, workers=0, min_images=1).train(
        dataset,
        Augment(size=[5, 5]),
        ForegroundCrops(share=1.0),
        count_classes(dataset, locations=True),
        seed=0,
        annotated=True,
    )
    for epoch in range(5):
        _, target, _ = next(iter(batches.epoch(epoch)))
        assert (target > 0).flatten(1).any(dim=1).all()
