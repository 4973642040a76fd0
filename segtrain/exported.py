"""A network as a file that runs without segtrain: ONNX, or a program of torch.export, and its comparison with the network."""

import contextlib
import copy
import importlib.util
import io
import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import nn

from segtrain.errors import ConfigError
from segtrain.metrics import predict

NEEDED = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "torch_export": ()}  # packages
SIZES = [(1, 64, 64), (2, 96, 160), (3, 33, 47), (1, 7, 130), (2, 257, 255)]  # N, H, W that are compared
MAX_DIFFERENCE = 1e-4  # between logits, or, of large ones, a few times what rounding makes of the network's own
ROUNDING = 4.0
MIN_EQUAL = 0.9999  # share of pixels with the same prediction
ABOUT = "segtrain.json"  # beside a program of torch.export


class Exported(nn.Module):
    """A network with its decision: uint8 [N,B,H,W] -> logits float32 [N,C,H,W], or classes.

    Args:
        network: uint8 images [N,B,H,W] -> logits [N,C,H,W].
        output: classes: uint8 [N,H,W], the most probable class; of multi-label uint8 [N,C,H,W], 1 where a class is predicted.
        threshold: as `predict` takes it.
    """

    def __init__(
        self,
        network: nn.Module,
        output: Literal["logits", "classes"],
        multilabel: bool,
        threshold: float | list[float] | None,
    ):
        super().__init__()
        self.network, self.output, self.multilabel, self.threshold = network, output, multilabel, threshold

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits = self.network(images).float()
        return logits if self.output == "logits" else self.decide(logits)

    def decide(self, logits: torch.Tensor) -> torch.Tensor:
        if not self.multilabel and self.threshold is None:  # `predict` takes a faster way here that cannot be traced
            return logits.argmax(dim=1).to(torch.uint8)
        return predict(logits, self.multilabel, self.threshold).to(torch.uint8)


def check_packages(kind: str) -> None:
    """Raise ConfigError when packages are missing that write or run files of this kind."""
    if missing := [name for name in NEEDED[kind] if importlib.util.find_spec(name) is None]:
        raise ConfigError(
            f"--format {kind} needs {', '.join(missing)}", "the Python environment", f"pip install {' '.join(missing)}"
        )


def content_of(exported: Exported, channels: int, kind: str, about: dict) -> bytes:
    """The file. Raises ConfigError for a network that cannot be exported.

    Args:
        channels: of the images. kind: onnx, torch_export.
        about: what is known of the classes, kept in the file as JSON: the metadata of ONNX, or segtrain.json.
    """
    with _explained("made", kind):
        program = _program(exported, channels)
        return _onnx(program, exported.output, about) if kind == "onnx" else _torch_export(program, about)


def _program(exported: Exported, channels: int) -> torch.export.ExportedProgram:
    """The network for any batch and size."""
    from torch.fx.experimental import _config

    images, any_size = torch.zeros(2, channels, 96, 160, dtype=torch.uint8), torch.export.Dim.DYNAMIC
    # Without backed_size_oblivious, sides of 1 pixel in a feature map would be excluded.
    with torch.no_grad(), _config.patch(backed_size_oblivious=True), _constant_padding():
        sizes = {"images": {0: any_size, 2: any_size, 3: any_size}}
        return torch.export.export(exported.eval(), (images,), dynamic_shapes=sizes)


@contextlib.contextmanager
def _constant_padding():
    """Within this, timm's "same" padding is that of sides that are a multiple of the stride, as a network's are here.

    torch.export cannot save the math.ceil of its formula for any side. What is compared afterwards would tell.
    """
    import timm.layers.padding as padding

    before = padding.get_same_padding
    padding.get_same_padding = lambda side, kernel, stride, dilation: max((kernel - 1) * dilation + 1 - stride, 0)
    try:
        yield
    finally:
        padding.get_same_padding = before


def _onnx(program: torch.export.ExportedProgram, output: str, about: dict) -> bytes:
    for name in ("onnx_ir", "onnxscript"):
        logging.getLogger(name).setLevel(logging.WARNING)  # they tell of every node they simplify
    converted = torch.onnx.export(
        program,
        dynamo=True,
        verbose=False,
        input_names=["images"],
        output_names=[output],
        dynamic_shapes={"images": {0: "batch", 2: "height", 3: "width"}},
    )
    converted.model.metadata_props.update({key: json.dumps(value) for key, value in about.items()})
    return converted.model_proto.SerializeToString()


def _torch_export(program: torch.export.ExportedProgram, about: dict) -> bytes:
    stream = io.BytesIO()
    torch.export.save(program, stream, extra_files={ABOUT: json.dumps(about)})
    return stream.getvalue()


def runner(content: bytes, kind: str) -> Callable[[np.ndarray], np.ndarray]:
    """The file as a function of images: onnxruntime, or PyTorch, on the CPU."""
    if kind == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        return lambda images: session.run(None, {"images": images})[0]
    network = torch.export.load(io.BytesIO(content)).module()
    return lambda images: network(torch.from_numpy(images)).detach().numpy()


@dataclass(frozen=True)
class Difference:
    """Of one batch: the largest difference between logits (None for classes), and the share of equal predictions.

    Attributes:
        most: the difference that is allowed.
    """

    shape: tuple[int, ...]
    difference: float | None
    equal: float
    most: float = MAX_DIFFERENCE

    @property
    def failed(self) -> bool:
        return not (self.equal >= MIN_EQUAL and (self.difference is None or self.difference <= self.most))


@torch.no_grad()
def compared(content: bytes, kind: str, exported: Exported, channels: int) -> Iterator[Difference]:
    """The file beside the network, on batches of random pixels of SIZES. Raises ConfigError for one that cannot be run."""
    rng, shapes = np.random.default_rng(0), [(n, channels, height, width) for n, height, width in SIZES]
    with _explained("run", kind):
        run = runner(content, kind)
        for shape in shapes:
            images = rng.integers(0, 256, shape, dtype=np.uint8)
            expected, found = exported(torch.from_numpy(images)), torch.from_numpy(run(images))
            difference, most = None, MAX_DIFFERENCE
            if exported.output == "logits":
                difference = (expected - found).abs().max().item()
                if difference > most:
                    most = max(most, ROUNDING * rounding(exported, images, expected))
                expected, found = exported.decide(expected), exported.decide(found)
            yield Difference(shape, difference, (expected == found).float().mean().item(), most)


def rounding(exported: Exported, images: np.ndarray, logits: torch.Tensor) -> float:
    """The largest difference of a network's logits from those that it computes in float64; 0 where it cannot."""
    try:
        exact = copy.deepcopy(exported.network).double()(torch.from_numpy(images))
    except RuntimeError:  # a network that makes float32 numbers itself
        return 0.0
    return (logits - exact).abs().max().item()


@contextlib.contextmanager
def _explained(what: str, kind: str):
    """Any error becomes a ConfigError: tracing and running a network, perhaps of the user's, end in many kinds of them."""
    try:
        yield
    except Exception as error:
        line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        other = {"onnx": "torch_export", "torch_export": "onnx"}[kind]
        raise ConfigError(
            f"the exported network cannot be {what}: {line}", f"--format {kind}", f"try --format {other}"
        ) from error
