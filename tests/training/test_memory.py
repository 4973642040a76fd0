"""What a step needs is known before it is tried."""

import contextlib
import gc
import weakref

import pytest
import torch
from torch import nn

from segtrain import models
from segtrain.errors import OutOfMemory
from segtrain.training.memory import PROBE, check_memory, free_memory, kept_bytes

CPU = torch.device("cpu")


def test_what_is_kept_by_hand():
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 2, 1))

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = model

        def forward(self, images):
            return self.layers(images.float())

    # the input of each convolution, the second of which is the output of the ReLU
    assert kept_bytes(Net(), CPU, contextlib.nullcontext(), 3) == 4 * PROBE**2 * (3 + 8)


def test_the_network_and_the_random_numbers_are_left_as_they_were():
    model = models.unet(
        num_classes=2, encoder="resnet18", encoder_weights=None, decoder_channels=[16, 8, 8, 8, 8]
    ).eval()
    before, random = {name: tensor.clone() for name, tensor in model.state_dict().items()}, torch.get_rng_state()
    assert kept_bytes(model, CPU, contextlib.nullcontext(), 3) > 1e6
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert not model.training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_network_can_be_freed_afterwards():
    model = models.unet(num_classes=2, encoder="resnet18", encoder_weights=None, decoder_channels=[16, 8, 8, 8, 8])
    kept_bytes(model, CPU, contextlib.nullcontext(), 3)
    weights = [weakref.ref(parameter) for parameter in model.parameters()]
    del model
    gc.collect()
    assert not any(weight() is not None for weight in weights)


def test_a_batch_that_cannot_fit_is_refused(monkeypatch):
    model = nn.Conv2d(3, 2, 1)
    model.forward = lambda images: nn.functional.conv2d(images.float(), model.weight)
    monkeypatch.setattr("segtrain.training.memory.free_memory", lambda device: 10**9)
    words = (model, CPU, contextlib.nullcontext())
    check_memory(*words, 4, 3, (4000, 4000))  # 4 · 3 · 4 bytes a pixel are 0.77 GB
    with pytest.raises(OutOfMemory, match=r"at least 1\.2 GB of a batch of 4 × 5000×5000 pixels, but 1\.0 GB of CPU"):
        check_memory(*words, 4, 3, (5000, 5000))


def test_the_free_memory_of_this_machine():
    free = free_memory(CPU)
    assert free is None or 10**8 < free < 10**14
