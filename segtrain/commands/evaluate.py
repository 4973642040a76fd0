"""`segtrain evaluate RUN [key=value …]`: score a finished run's best checkpoint again.

For example metric=all, inference.flips=[horizontal], inference.window=[512,512].
"""

import argparse
import hashlib
import re
from pathlib import Path

from segtrain.config.build import build, build_dataset, build_inference, build_loss, build_scores, load_model
from segtrain.config.compose import load_saved
from segtrain.config.schema import check_config, flat
from segtrain.report.logger import log_to_screen
from segtrain.report.pages.evaluation import write_evaluation_page
from segtrain.report.scores import means_line, more_tables, not_defined, scores_table
from segtrain.runs.folder import RunFolder, per_class_rows


def main(words: list[str]) -> int:
    usage = (
        "segtrain evaluate RUN [key=value …] [--split SPLIT] [--checkpoint best|last] [--bootstrap N] "
        "[--config-dir DIR] [--trust PACKAGE]"
    )
    parser = argparse.ArgumentParser(prog="segtrain evaluate", usage=usage, description=__doc__)
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a run")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="for example dataset.root=PATH")
    parser.add_argument("--split", default="val", choices=["train", "val", "test"])
    parser.add_argument("--checkpoint", default="best", choices=["best", "last"])
    parser.add_argument("--bootstrap", type=draws, default=1000, metavar="N", help="draws for the intervals; 0: none")
    parser.add_argument("--config-dir", metavar="DIR", help="where your own option of metric=NAME is")
    parser.add_argument("--trust", action="append", default=[], metavar="PACKAGE", help="allow classes of this package")
    arguments = parser.parse_intermixed_args(words)
    log_to_screen()
    metrics = [word.partition("=")[2] for word in arguments.overrides if word.startswith("metric=")]
    settings = [word for word in arguments.overrides if not word.startswith("metric=")]
    cfg = load_saved(
        arguments.run / "config.yaml", settings, arguments.trust, *(metrics[-1:] or [None]), arguments.config_dir
    )
    if threshold := thresholds_of(cfg, arguments.run):
        cfg.inference.threshold = threshold
        values = ", ".join(f"{v:.3g}" for v in threshold)
        print(f"using the thresholds that maximised Dice on val: {values} (inference.threshold=0.5 for one half)")
    scores, result, dataset, draw = evaluate_run(cfg, arguments.run, arguments.split, arguments.checkpoint)
    if arguments.bootstrap:
        result["intervals"] = scores.intervals(arguments.bootstrap)
    print(text(scores, result, arguments.split))
    asked = {"split": arguments.split, "checkpoint": arguments.checkpoint, "settings": arguments.overrides}
    out = RunFolder(arguments.run / "evaluation" / folder_name(**asked))
    write_files(out, scores, {**asked, "threshold": flat(cfg).get("inference.threshold"), **result})
    title = f"{arguments.run}, {arguments.split}, {arguments.checkpoint} checkpoint"
    write_evaluation_page(out.path / "page.html", title, scores, result, dataset, draw)
    print(f"\nwritten to {out.path}")
    return 0


def draws(text: str) -> int:
    """How often the bootstrap draws."""
    if not text.lstrip("-").isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is no number of draws")
    number = int(text)
    if number != 0 and number < 20:
        raise argparse.ArgumentTypeError(f"{number} draws make no interval: give 0, or 20 and more")
    return number


def folder_name(split: str, checkpoint: str, settings: list[str]) -> str:
    """Says what was asked; long ones end in a hash instead."""
    words = [split, *(["last"] if checkpoint == "last" else []), *settings]
    name = "_".join(re.sub(r"[^\w.=,-]", "-", re.sub(r"[\[\]\s'\"]", "", word)) for word in words)
    return name if len(name) <= 120 else f"{name[:111]}_{hashlib.blake2b(name.encode(), digest_size=4).hexdigest()}"


def text(scores, result: dict, split: str) -> str:
    """What is printed: means, a table of the classes for each kind of score, and all others."""
    intervals, per_class, records = result.get("intervals"), result["per_class"], scores.records()
    parts = [f"{len(scores.names)} {split} images:  {means_line(result['scores'], records, intervals)}"]
    parts.append("\n".join([scores_table(per_class, intervals=intervals), *not_defined(per_class)]))
    return "\n\n".join([*parts, *more_tables(result, records)])


def write_files(out: RunFolder, scores, result: dict) -> None:
    """scores.json, per_image.npz, per_image.csv."""
    out.write_json("scores.json", result)
    out.write_per_image("per_image.npz", scores)
    if columns := scores.per_image():
        out.write_rows("per_image.csv", {"image": scores.names} | {n: column.tolist() for n, column in columns.items()})


def thresholds_of(cfg, run: Path) -> list[float] | None:
    """Of a run with several labels a pixel, the thresholds that were best on val; None when the config sets some."""
    result = RunFolder(run).read_result()
    found, names = result.get("thresholds"), [row["name"] for row in result.get("per_class", [])]
    return [found.get(name, 0.5) for name in names] if found and cfg.inference.threshold is None else None


def evaluate_run(cfg, run: Path, split: str, checkpoint: str):
    """The filled scores, {"scores", "per_class"} as in result.json, the dataset, and (index, label) -> picture with errors."""
    check_config(cfg)
    dataset = build_dataset(cfg, split)
    from segtrain.inference import Predictor
    from segtrain.report.logger import Progress
    from segtrain.training.evaluation import draw, evaluate

    trainer, scores = build(cfg, "trainer"), build_scores(cfg, dataset)
    model = load_model(cfg, run, checkpoint, trainer.device)
    inference = build_inference(cfg, dataset)
    predictor = Predictor(model, trainer.device, trainer.autocast, dataset.multilabel, inference)
    loss = build_loss(cfg, dataset).to(trainer.device)
    batches = build(cfg, "loader").evaluation(dataset)
    progress = Progress(split, batches.num_images(trainer.val_batches))
    mean_loss = evaluate(predictor, batches, scores, loss, dataset.names, trainer.val_batches, progress.advance)
    progress.close()
    result = {"scores": {**scores.compute(), "loss": mean_loss}, "per_class": per_class_rows(scores)}
    return scores, result, dataset, lambda index, label: draw(predictor, dataset, index, True, label)
