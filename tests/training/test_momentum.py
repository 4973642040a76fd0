"""The momentum of fused SGD: after frozen epochs, and after a first step that is skipped."""

import copy

import torch
from conftest import TINY
from torch import nn

from segtrain.optimizers import sgd, start_momentum


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder, self.head = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)

    def forward(self, images):
        return self.head(self.encoder(images))


def step(model, optimizer, images, frozen=False):
    model.encoder.requires_grad_(not frozen)
    model(images).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()


def test_momentum_begins_when_a_parameter_is_trained():
    torch.manual_seed(0)
    images, fused = torch.randn(2, 3, 4, 4), Small()
    plain = copy.deepcopy(fused)
    optimizer = sgd(fused, weight_decay=0)
    start_momentum(optimizer)
    other = torch.optim.SGD(plain.parameters(), lr=0.01, momentum=0.9, nesterov=True, foreach=False)
    for frozen in (True, True, False, False):
        step(fused, optimizer, images, frozen)
        step(plain, other, images, frozen)
    for a, b in zip(fused.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_a_skipped_first_step_leaves_no_momentum():
    torch.manual_seed(0)
    images, model = torch.randn(2, 3, 4, 4), Small()
    optimizer = sgd(model)
    start_momentum(optimizer)
    before = copy.deepcopy(model.state_dict())
    optimizer.grad_scale, optimizer.found_inf = None, torch.ones(())
    step(model, optimizer, images)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(state["momentum_buffer"].any() for state in optimizer.state.values())


def test_a_training_unfreezes_its_encoder_with_sgd(segtrain):
    done = segtrain(*TINY, "optimizer=sgd", "trainer.freeze_encoder=1", "trainer.epochs=2")
    assert done.code == 0, done
