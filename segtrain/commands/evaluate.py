"""`segtrain evaluate RUN [key=value …]`: score a finished run's best checkpoint again."""

import argparse
import re
from pathlib import Path

from segtrain.build import build, build_dataset, build_loss, build_scores, load_model
from segtrain.commands.report import means_line, scores_table
from segtrain.config import load_saved
from segtrain.config_check import check_config
from segtrain.logbook import log_to_screen
from segtrain.run_folder import RunFolder, per_class_rows


def main(words: list[str]) -> int:
    usage = "segtrain evaluate RUN [key=value …] [--split SPLIT] [--checkpoint best|last] [--trust PACKAGE]"
    parser = argparse.ArgumentParser(prog="segtrain evaluate", usage=usage, description=__doc__)
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a run")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="for example dataset.root=PATH")
    parser.add_argument("--split", default="val", choices=["train", "val", "test"])
    parser.add_argument("--checkpoint", default="best", choices=["best", "last"])
    parser.add_argument("--trust", action="append", default=[], metavar="PACKAGE", help="allow classes of this package")
    arguments = parser.parse_intermixed_args(words)
    log_to_screen()
    cfg = load_saved(arguments.run / "config.yaml", arguments.overrides, arguments.trust)
    scores, result = evaluate_run(cfg, arguments.run, arguments.split, arguments.checkpoint)
    changes = [re.sub(r"[^\w.=,-]", "-", override) for override in arguments.overrides]
    name = "_".join([arguments.split, *(["last"] if arguments.checkpoint == "last" else []), *changes])[:120]
    out = RunFolder(arguments.run / "evaluation" / name)
    out.write_json("scores.json", result)
    out.write_per_image("per_image.npz", scores)
    print(f"{len(scores.names)} {arguments.split} images:  {means_line(result['scores'])}\n")
    print(scores_table(result["per_class"]))
    print(f"\nwritten to {out.path}")
    return 0


def evaluate_run(cfg, run: Path, split: str, checkpoint: str):
    """The filled scores, and {"scores", "per_class"} as in result.json."""
    check_config(cfg)
    dataset = build_dataset(cfg, split)
    from segtrain.evaluation import evaluate
    from segtrain.logbook import Progress

    trainer, scores = build(cfg, "trainer"), build_scores(cfg, dataset)
    model = load_model(cfg, run, checkpoint, trainer.device)
    loss = build_loss(cfg, dataset).to(trainer.device)
    batches = build(cfg, "loader").evaluation(dataset)
    progress = Progress(split, batches.num_images(trainer.val_batches))
    mean_loss = evaluate(
        model,
        batches,
        scores,
        trainer.device,
        trainer.autocast,
        loss,
        dataset.names,
        trainer.val_batches,
        progress.advance,
    )
    progress.close()
    return scores, {"scores": {**scores.compute(), "loss": mean_loss}, "per_class": per_class_rows(scores)}
