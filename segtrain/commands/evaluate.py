"""`segtrain evaluate RUN [key=value …]`: score a finished run's best checkpoint again."""

import argparse
import re
from pathlib import Path

from omegaconf import OmegaConf

from segtrain.build import build, build_dataset, build_loss, build_scores, load_model
from segtrain.commands.evaluation_page import write_evaluation_page
from segtrain.commands.report import means_line, score_lines, scores_table
from segtrain.config import compose, load_saved
from segtrain.config_check import check_config
from segtrain.logbook import log_to_screen
from segtrain.run_folder import RunFolder, per_class_rows


def main(words: list[str]) -> int:
    usage = (
        "segtrain evaluate RUN [key=value …] [--split SPLIT] [--checkpoint best|last] [--bootstrap N] [--trust PACKAGE]"
    )
    parser = argparse.ArgumentParser(prog="segtrain evaluate", usage=usage, description=__doc__)
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a run")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="for example dataset.root=PATH")
    parser.add_argument("--split", default="val", choices=["train", "val", "test"])
    parser.add_argument("--checkpoint", default="best", choices=["best", "last"])
    parser.add_argument("--bootstrap", type=int, default=1000, metavar="N", help="draws for the intervals; 0: none")
    parser.add_argument("--trust", action="append", default=[], metavar="PACKAGE", help="allow classes of this package")
    arguments = parser.parse_intermixed_args(words)
    log_to_screen()
    preset = [word for word in arguments.overrides if word.startswith("metric=")][-1:]
    settings = [word for word in arguments.overrides if not word.startswith("metric=")]
    cfg = load_saved(arguments.run / "config.yaml", settings, arguments.trust)
    if preset:
        choose_metric(cfg, preset[0].partition("=")[2])
    scores, result, dataset, draw = evaluate_run(cfg, arguments.run, arguments.split, arguments.checkpoint)
    if arguments.bootstrap and hasattr(scores, "intervals"):
        result["intervals"] = scores.intervals(arguments.bootstrap)
    changes = [re.sub(r"[^\w.=,-]", "-", override) for override in arguments.overrides]
    name = "_".join([arguments.split, *(["last"] if arguments.checkpoint == "last" else []), *changes])[:120]
    out = RunFolder(arguments.run / "evaluation" / name)
    out.write_json("scores.json", result)
    out.write_per_image("per_image.npz", scores)
    intervals = result.get("intervals")
    print(f"{len(scores.names)} {arguments.split} images:  {means_line(result['scores'], intervals)}\n")
    print(scores_table(result["per_class"], intervals=intervals), "\n")
    print("\n".join(score_lines(result["scores"], intervals)))
    if hasattr(scores, "confusion"):
        title = f"{arguments.run}, {arguments.split}, {arguments.checkpoint} checkpoint"
        write_evaluation_page(out.path / "page.html", title, scores, result, dataset, draw)
    print(f"\nwritten to {out.path}")
    return 0


def choose_metric(cfg, name: str) -> None:
    """Put a preset of the group metric in place of the run's; classes and background stay the dataset's."""
    chosen = compose([f"metric={name}"]).metric
    cfg.metric = {key: cfg.dataset[key] if OmegaConf.is_interpolation(chosen, key) else chosen[key] for key in chosen}


def evaluate_run(cfg, run: Path, split: str, checkpoint: str):
    """The filled scores, {"scores", "per_class"} as in result.json, the dataset, and index -> picture with errors."""
    check_config(cfg)
    dataset = build_dataset(cfg, split)
    from segtrain.evaluation import draw, evaluate
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
    result = {"scores": {**scores.compute(), "loss": mean_loss}, "per_class": per_class_rows(scores)}
    return scores, result, dataset, lambda index: draw(model, dataset, index, trainer.device, trainer.autocast, True)
