"""`segtrain export RUN --format onnx|torch_export`: the trained network as a file that runs without segtrain.

It takes pixels, uint8 [N, channels, H, W] of any batch and size, and gives logits or classes; normalisation and padding are inside,
class names, colours and thresholds beside. The file is compared with the network before it is kept.

Example: segtrain export outputs/folder/RUN --out model.onnx
"""

import argparse
import logging
from pathlib import Path

import segtrain
from segtrain.commands.parser import Parser
from segtrain.commands.scoring import choose_thresholds
from segtrain.config.build import build_inference
from segtrain.config.schema import flat
from segtrain.errors import ConfigError, printable
from segtrain.exported import MAX_DIFFERENCE, MIN_EQUAL, SUFFIXES, Exported, check_packages, compared, content_of
from segtrain.files import write_bytes
from segtrain.inference import Inference
from segtrain.report.logger import log_to_screen
from segtrain.report.pictures import class_colours
from segtrain.report.text import table
from segtrain.runs.trained import Classes, Trained, load

log = logging.getLogger("segtrain")

MATTERS = "inference.threshold"


def main(words: list[str]) -> int:
    arguments = parse(words)
    log_to_screen()
    check_packages(arguments.format)
    trained = load(str(arguments.run), arguments.checkpoint, arguments.trust, arguments.overrides)
    cfg, classes = trained.config, trained.classes
    choose_thresholds(trained)
    inference = build_inference(cfg, classes)
    note_what_is_left_out(trained, inference)
    exported = Exported(trained.network, arguments.output, classes.multilabel, inference.threshold).eval()
    log.info(f"tracing the network for {arguments.format}: 10 s to a minute, and the comparison after it")
    content = content_of(exported, trained.channels, arguments.format, about(trained, classes, exported))
    check(content, exported, trained.channels, arguments.format)
    write_bytes(arguments.out, content)
    print(printable(f"\nwritten to {arguments.out} ({len(content) / 2**20:.1f} MiB)"))
    return 0


def parse(words: list[str]) -> argparse.Namespace:
    parser = Parser("segtrain export", __doc__)
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a run")
    parser.add_argument("overrides", nargs="*", default=[], metavar=f"{MATTERS}=VALUE")
    parser.add_argument(
        "--format", default="onnx", choices=list(SUFFIXES), help="torch_export is read by torch.export.load"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="default: RUN/model.onnx, RUN/model.pt2")
    parser.add_argument("--output", default="logits", choices=["logits", "classes"])
    parser.add_checkpoint()
    parser.add_trust()
    arguments = parser.parse_intermixed_args(words)
    if idle := [w for w in arguments.overrides if w.partition("=")[0] != MATTERS]:
        raise ConfigError(f"{idle[0].partition('=')[0]} does not matter to export", idle[0], f"the key is {MATTERS}")
    suffix = SUFFIXES[arguments.format]
    arguments.out = arguments.out or arguments.run / f"model{suffix}"
    if arguments.out.is_dir():
        raise ConfigError(
            "a folder, where a file is wanted", f"--out {arguments.out}", f"--out {arguments.out / f'model{suffix}'}"
        )
    if arguments.out.suffix != suffix:
        raise ConfigError(
            f"a file of --format {arguments.format} ends in {suffix}", f"--out {arguments.out}", "rename it"
        )
    return arguments


def note_what_is_left_out(trained: Trained, inference: Inference) -> None:
    """Say which settings surround the network in evaluate and predict, and are not in the file."""
    usual = vars(Inference(scales=[1.0]))
    used = [f"inference.{k}={v}" for k, v in vars(inference).items() if k != "threshold" and v != usual[k]]
    if resize := trained.config.dataset.get("resize"):
        used.append(f"dataset.resize={resize} (give the network images of that size)")
    if used:
        print(f"note: not part of the file: {', '.join(used)}")


def about(trained: Trained, classes: Classes, exported: Exported) -> dict:
    """What is kept in the file beside the network; colours are [r, g, b] of 0…255, thresholds probabilities."""
    usual = 0.5 if classes.multilabel else None
    return {
        "class_names": classes.class_names,
        "colors": class_colours(classes)[: classes.num_classes].tolist(),
        "background": classes.background,
        "multilabel": classes.multilabel,
        "resize": flat(trained.config).get("dataset.resize"),
        "thresholds": usual if exported.threshold is None else exported.threshold,
        "output": exported.output,
        "run": trained.run.resolve().name,
        "epoch": trained.epoch,
        "segtrain": segtrain.__version__,
    }


def check(content: bytes, exported: Exported, channels: int, kind: str) -> None:
    """Compare the file with the network, print it, and raise ConfigError when they differ."""
    found = list(compared(content, kind, exported, channels))
    rows = [
        ["×".join(map(str, c.shape)), "n/a" if c.difference is None else f"{c.difference:.1e}", f"{100 * c.equal:.3f}"]
        for c in found
    ]
    title = (
        f"The file beside the network, on random pixels ({'onnxruntime' if kind == 'onnx' else 'torch.export'}, CPU)"
    )
    print(table(["images", "largest difference", "equal predictions %"], rows, title))
    if any(c.failed for c in found):
        raise ConfigError(
            f"the exported network differs from the trained one by more than {MAX_DIFFERENCE:g}, or in more than "
            f"{100 * (1 - MIN_EQUAL):.2g} % of the predictions: no file is written",
            f"--format {kind}",
            "try the other --format",
        )
