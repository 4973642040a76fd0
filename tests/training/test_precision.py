"""Training in half precision on a CPU."""

import pytest
import torch
from torch import nn

from segtrain.errors import ConfigError
from segtrain.training.device import autocast, choose_precision, precision_advice

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("convolution", "in_float32"),
    [
        (nn.Conv2d(4, 4, 5, padding=2, groups=4), True),
        (nn.Conv2d(4, 4, 3, stride=2, groups=4), True),
        (nn.Conv2d(4, 8, 3, stride=2, groups=4), True),
        (nn.Conv2d(4, 4, 3, padding=1, groups=4), False),
        (nn.Conv2d(4, 4, 5, groups=2), False),
        (nn.Conv2d(4, 4, 5), False),
        (nn.Conv2d(1, 4, 5), False),
    ],
)
def test_depthwise_convolutions_that_are_slow_in_half_precision_are_trained_in_float32(convolution, in_float32):
    def gradient(context):
        convolution.zero_grad()
        with context:
            found = convolution(images)
        found.float().square().sum().backward()
        return found.dtype, convolution.weight.grad.clone()

    images = (
        torch.randn(2, convolution.in_channels, 9, 9, generator=torch.Generator().manual_seed(0)).bfloat16().float()
    )
    with torch.no_grad():  # nothing is lost when images and weights are rounded: what is lost then is the result
        for parameter in convolution.parameters():
            parameter.copy_(parameter.bfloat16())
    dtype, found = gradient(autocast(CPU, torch.bfloat16, training=True))
    assert dtype == torch.bfloat16
    _, exact = gradient(autocast(CPU, torch.float32, training=True))
    _, plain = gradient(autocast(CPU, torch.bfloat16))
    assert (found - exact).norm() <= 1e-2 * exact.norm()
    if in_float32:
        assert (found - exact).norm() < (plain - exact).norm()
    else:
        torch.testing.assert_close(found, plain, rtol=0, atol=0)


@pytest.mark.parametrize(("name", "meant"), [("fp16", "float16"), ("fp32", "float32"), ("bf16", "bfloat16")])
def test_the_short_names_of_precisions_are_explained(name, meant):
    with pytest.raises(ConfigError, match=f"did you mean '{meant}'"):
        choose_precision(name, CPU)


def test_the_stride_is_understood_as_a_number_too():
    weight = torch.randn(4, 1, 3, 3)
    with autocast(CPU, torch.bfloat16, training=True):
        for stride in (1, [1, 1], 2, (2, 2)):
            found = nn.functional.conv2d(torch.randn(1, 4, 9, 9), weight, stride=stride, groups=4)
            assert found.dtype == torch.bfloat16


def test_a_faster_precision_is_advised_where_the_cpu_has_it(monkeypatch):
    capabilities = {"amx_bf16": True}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert "trainer.precision=bfloat16" in precision_advice("auto", CPU, (256, 256))[0]
    assert precision_advice("float32", CPU, (256, 256)) == []
    assert precision_advice("auto", CPU, (64, 64)) == []
    assert precision_advice("auto", torch.device("cuda"), (256, 256)) == []
    capabilities.clear()
    assert precision_advice("auto", CPU, (256, 256)) == []
