"""The Triton kernels without a GPU: in Triton's interpreter against float64 PyTorch, and compiled for GPUs."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

triton = pytest.importorskip("triton")
CASES = Path(__file__).with_name("triton_cases.py")


def interpreted(*words: str) -> dict:
    done = subprocess.run([sys.executable, str(CASES), *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def found() -> dict:
    return interpreted()


def check(errors: dict) -> None:
    for name, (of_loss, of_gradient, same_bits) in errors.items():
        half = "float16" in name
        assert of_loss <= 1e-6, name
        assert of_gradient <= (1e-2 if half else 1e-6), name
        assert same_bits, name


@pytest.mark.slow
def test_losses_and_gradients_equal_float64(found):
    assert len(found["errors"]) > 30
    check(found["errors"])


@pytest.mark.long
def test_every_loss_with_every_dtype_and_layout():
    check(interpreted("all")["errors"])


def test_labels_that_are_no_class_make_the_loss_nan(found):
    assert found["wrong labels are NaN"] == {"hard": True, "soft": True, "sigmoid": True}


def test_a_loss_is_a_dozen_kernels_whatever_the_batch(found):
    """Triton's and PyTorch's, and waits: forward and backward of CE + 0.5 Dice."""
    assert found["launches"]["ce_dice 2"] == found["launches"]["ce_dice 16"]
    ours, of_torch, waits = found["launches"]["ce_dice 16"]
    assert ours + of_torch <= 12
    assert waits == found["launches"]["bce_dice 2"][2] == 0


def compiled(kernel, types: dict, constants: dict, architecture: int, warps: int = 4):
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from segtrain.losses.sums.triton import OPTIONS

    signature = {name: "constexpr" if name in constants else types.get(name, "i32") for name in kernel.arg_names}
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs={})
    return triton.compile(source, target=GPUTarget("cuda", architecture, 32), options={**OPTIONS, "num_warps": warps})


def spilled(cubin: bytes, folder: Path) -> int:
    """Bytes of local memory and stack of a compiled kernel."""
    import triton.backends.nvidia as nvidia

    tool = Path(nvidia.__file__).with_name("bin") / "cuobjdump"
    if not tool.exists():
        pytest.skip("this Triton comes without cuobjdump")
    (folder / "kernel.cubin").write_bytes(cubin)
    words = [str(tool), "--dump-resource-usage", str(folder / "kernel.cubin")]
    usage = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    found = re.findall(r"(?:STACK|LOCAL):(\d+)", usage)
    assert len(found) == 2, usage
    return sum(map(int, found))


@pytest.mark.parametrize(
    ("architecture", "classes"),
    [
        pytest.param(
            architecture, classes, marks=pytest.mark.slow if (architecture, classes) == (90, 19) else pytest.mark.long
        )
        for architecture in (80, 90)
        for classes in (2, 19, 256)
    ],
)
def test_kernels_compile_for_a_gpu_without_spills(architecture, classes, tmp_path):
    from segtrain.losses.sums import kernels, means
    from segtrain.losses.sums.triton import block_of

    def spills(kernel, types: dict, constants: dict, hard: bool) -> int:
        padded, pixels, warps = block_of(classes, hard)
        constants = {"IGNORE": 255, "C": classes, "CP": padded, "B": pixels, **constants}
        return spilled(compiled(kernel, types, constants, architecture, warps).asm["cubin"], tmp_path)

    given = {f"GIVEN_{i}": True for i in range(1, 5)}
    slopes = {f"d_{i}": "*fp32" for i in range(1, 5)}
    for dtype in ("bf16", "fp32", "fp16"):
        types = {"z": f"*{dtype}", "gradient": f"*{dtype}", "partial": "*fp32", **slopes}
        for hard, gamma in ((True, 0.0), (False, 2.0)):
            labels = {**types, "y": "*u8" if hard else "*fp32"}
            constants = {"HARD": hard, "GAMMA": gamma, "SMOOTHING": not hard}
            assert spills(kernels.softmax_forward, labels, constants, hard) == 0
            assert spills(kernels.softmax_backward, labels, constants | given, hard) == 0
        several = {**types, "y": "*u8"}
        assert spills(kernels.sigmoid_forward, several, {}, hard=False) == 0
        assert spills(kernels.sigmoid_backward, several, given, hard=False) == 0
    padded = block_of(classes, hard=True)[0]
    types = {"partial": "*fp32", "sums": "*fp32", "present": "*i1"}
    constants = {"CP": padded, "AT_A_TIME": 32}
    assert spilled(compiled(kernels.add_partials, types, constants, architecture).asm["cubin"], tmp_path) == 0
    names = ("values", "amounts", "mean", "slope", "slopes", "P", "TP", "Y")
    types = dict.fromkeys(names, "*fp32") | {"weights": "*fp64", "selected": "*i1"}
    types |= dict.fromkeys(("fp", "fn", "smooth"), "fp32")
    constants = {"WEIGHTED": True, "CP": padded}
    assert spilled(compiled(means.class_mean_kernel, types, constants, architecture).asm["cubin"], tmp_path) == 0
    constants |= {"LOG": True, "GAMMA": 0.75}
    assert spilled(compiled(means.region_mean_kernel, types, constants, architecture).asm["cubin"], tmp_path) == 0
