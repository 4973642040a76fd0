"""`segtrain export`: the trained network as a file that runs without segtrain."""

import logging
from argparse import Namespace

import segtrain
from segtrain.commands.scoring import choose_thresholds
from segtrain.config.build import build_inference
from segtrain.config.schema import flat
from segtrain.errors import ConfigError, printable
from segtrain.exported import MIN_EQUAL, Exported, check_packages, compared, content_of
from segtrain.files import write_bytes
from segtrain.inference import Inference
from segtrain.report.logger import log_to_screen
from segtrain.report.pictures import class_colours
from segtrain.report.text import table
from segtrain.runs.trained import Classes, Trained, load

log = logging.getLogger("segtrain")


def main(arguments: Namespace) -> int:
    log_to_screen()
    check_packages(arguments.format)
    trained = load(str(arguments.run), arguments.checkpoint, arguments.trust, arguments.overrides)
    cfg, classes = trained.config, trained.classes
    choose_thresholds(trained)
    inference = build_inference(cfg, classes)
    note_what_is_left_out(trained, inference)
    exported = Exported(trained.network, arguments.output, classes.multilabel, inference.threshold).eval()
    log.info(
        f"tracing the network for {arguments.format}: this takes 10 s to a minute; then the file is compared with the network"
    )
    content = content_of(exported, trained.channels, arguments.format, about(trained, classes, exported))
    check(content, exported, trained.channels, arguments.format)
    write_bytes(arguments.out, content)
    print(printable(f"\nwritten to {arguments.out} ({len(content) / 2**20:.1f} MiB)"))
    return 0


def note_what_is_left_out(trained: Trained, inference: Inference) -> None:
    """Say which settings surround the network in evaluate and predict, and are not in the file."""
    usual = vars(Inference(scales=[1.0]))
    used = [f"inference.{k}={v}" for k, v in vars(inference).items() if k != "threshold" and v != usual[k]]
    if resize := trained.config.dataset.get("resize"):
        used.append(f"dataset.resize={resize} (give the network images of that size)")
    if given := trained.config.dataset.get("image_range"):
        used.append(f"dataset.image_range={list(given)} (scale the values of that range to 0…255)")
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
        "channels": trained.channels,
        "image_range": flat(trained.config).get("dataset.image_range"),
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
    rows = []
    for c in found:
        difference = "n/a" if c.difference is None else f"{c.difference:.1e}"
        rows.append(["×".join(map(str, c.shape)), difference, f"{c.most:.1e}", f"{100 * c.equal:.3f}"])
    runner = "onnxruntime" if kind == "onnx" else "torch.export"
    title = f"The file compared with the network, on random pixels ({runner}, CPU)"
    print(table(["images", "largest difference", "allowed", "equal predictions %"], rows, title))
    if any(c.failed for c in found):
        raise ConfigError(
            "the exported network differs from the trained one by more than rounding does, or in more than "
            f"{100 * (1 - MIN_EQUAL):.2g} % of the predictions: no file is written",
            f"--format {kind}",
            "try the other --format",
        )
