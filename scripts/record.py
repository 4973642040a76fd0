"""What a fixed set of commands gives, as JSON: proof that a change which should not change numbers does not.

    python scripts/record.py before.json --camvid PATH      # at the old commit
    python scripts/record.py after.json --camvid PATH       # at the new one
    python scripts/record.py --compare before.json after.json

Every loss preset on every kind of labels in float64 (values, gradients); trainings of two epochs (metrics.csv, weights,
result.json); `check`, `weights`, and `evaluate metric=all`.
"""

import argparse
import csv
import hashlib
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
import yaml

from segtrain.commands.repeat import TIMES

SMALL = ["loader.workers=0", "trainer.device=cpu", "trainer.epochs=2", "model.decoder_channels=[32,16,8,8,8]"]
SHAPES = ["dataset.train_images=24", "dataset.val_images=12", "dataset.size=[64,64]"]
STREETS = ["dataset=camvid", "augment.size=[96,128]", "loader.batch_size=4"]
RUNS = {
    "shapes ce": [*SHAPES, "loss=ce"],
    "shapes ce_dice": [*SHAPES, "loss.alpha=0.25", "weighting=median_frequency", "metric=all", "trainer.clip_norm=1"],
    "shapes jdt": [*SHAPES, "loss=jdt", "labels=smooth", "trainer.ema_decay=0.9", "sampling=rare_classes"],
    "shapes strong": [*SHAPES, "loss=focal", "augment=strong", "augment.size=[48,48]", "sampling=foreground_crops"],
    "shapes ce_lovasz": [*SHAPES, "loss=ce_lovasz", "optimizer=sgd", "schedule=cosine"],
    "multi-label bce": ["dataset=shapes_multilabel", *SHAPES, "loss=bce", "weighting=neg_pos_ratio", "metric=all"],
    "multi-label bce_dice": ["dataset=shapes_multilabel", *SHAPES, "loss=bce_dice"],
    "camvid ce": [*STREETS, "loss=ce", "weighting=inverse_sqrt"],
    "camvid ce_jaccard": [*STREETS, "loss=ce_jaccard", "weighting=log_ratio", "metric=fine_grained"],
    "camvid generalized_dice": [*STREETS, "loss=generalized_dice", "model=unetplusplus"],
}
SEVERAL = ("bce", "bce_dice", "bce_jaccard")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, nargs="?")
    parser.add_argument("--camvid", type=Path, help="a folder with train/images, train/masks, val/images, val/masks")
    parser.add_argument("--compare", type=Path, nargs=2)
    arguments = parser.parse_args()
    if arguments.compare:
        sys.exit(compare(*(json.loads(file.read_text()) for file in arguments.compare)))
    with tempfile.TemporaryDirectory() as folder:
        os.environ["SEGTRAIN_CACHE"] = f"{folder}/cache"
        recorded = {"losses": losses(), **commands(Path(folder), arguments.camvid)}
    arguments.file.write_text(json.dumps(recorded, indent=1, sort_keys=True))


def losses() -> dict:
    """Value, terms and gradient of every preset on every kind of labels that it takes."""
    found = {}
    presets = sorted(p.stem for p in Path(__file__).parents[1].glob("configs/loss/*.yaml"))
    for preset in presets:
        several = preset in SEVERAL
        dataset = "shapes_multilabel" if several else "shapes"
        weights = "[1,2,3]" if several else "[0.5,1,2,4]"
        printed = segtrain(
            "--cfg", "job", "--resolve", f"dataset={dataset}", f"loss={preset}", f"class_weights={weights}"
        )
        loss = built(yaml.safe_load(printed)["loss"])
        for kind, target in targets(several).items():
            generator = torch.Generator().manual_seed(1)
            logits = torch.randn(3, 3 if several else 4, 20, 24, dtype=torch.float64, generator=generator)
            logits.requires_grad_()
            try:
                value = loss(logits, target)
                value.backward()
            except ValueError as error:
                found[f"{preset}, {kind}"] = str(error)
                continue
            gradient = logits.grad.numpy()
            parts = {name: float(part) for name, part in loss.parts.items()}
            found[f"{preset}, {kind}"] = [float(value), digest(gradient), float(np.linalg.norm(gradient)), parts]
    return found


def targets(several: bool) -> dict[str, torch.Tensor]:
    from segtrain import labels

    generator = torch.Generator().manual_seed(0)
    classes = 3 if several else 4
    hard = torch.randint(0, classes, (3, 20, 24), generator=generator, dtype=torch.uint8)
    if several:
        hard = torch.stack([hard == c for c in range(classes)], dim=1).to(torch.uint8)
    hard[..., :3, :5] = 255
    found = {"hard": hard}
    for name in ("Smooth", "BoundarySmooth"):
        found[name] = getattr(labels, name)(num_classes=classes).target(hard).double()
    if not several:
        votes = torch.stack([hard, hard.flip(1), hard.flip(2)], dim=1)
        found["Annotators"] = labels.Annotators(num_classes=classes).target(votes).double()
    return found


def built(node):
    """What a node of a config names."""
    if isinstance(node, list):
        return [built(item) for item in node]
    if not isinstance(node, dict) or "_target_" not in node:
        return node
    module, _, name = node["_target_"].rpartition(".")
    return getattr(importlib.import_module(module), name)(**{k: built(v) for k, v in node.items() if k != "_target_"})


def commands(folder: Path, camvid: Path | None) -> dict:
    """Trainings, `check`, `weights` and `evaluate`."""
    found: dict = {"runs": {}, "check": {}, "weights": {}, "evaluate": {}}
    streets = []
    if camvid is not None:
        streets = [f"dataset.root={folder / 'camvid'}"]
        for split, number in (("train", 16), ("val", 8)):
            for part in ("images", "masks"):
                (folder / "camvid" / split / part).mkdir(parents=True)
                for file in sorted((camvid / split / part).iterdir())[: 9 * number : 9]:
                    shutil.copy(file, folder / "camvid" / split / part)
    for name, settings in RUNS.items():
        root = streets if "dataset=camvid" in settings else []
        if "dataset=camvid" in settings and not root:
            continue
        run = folder / name.replace(" ", "_")
        segtrain(*SMALL, *settings, *root, f"hydra.run.dir={run}")
        found["runs"][name] = outcome(run)
        if name in ("shapes ce", "multi-label bce_dice"):
            segtrain("evaluate", str(run), "metric=all")
            scores = next(run.glob("evaluation/*/scores.json"))
            found["evaluate"][name] = json.loads(scores.read_text())
        print(name, file=sys.stderr)
    sets = {"shapes": SHAPES, "multi-label": ["dataset=shapes_multilabel", "loss=bce", *SHAPES]}
    sets |= {"camvid": ["dataset=camvid", *streets]} if streets else {}
    for name, settings in sets.items():
        found["check"][name] = segtrain("check", *settings).replace(str(folder), "FOLDER")
        found["weights"][name] = segtrain("weights", *settings)
    return found


def outcome(run: Path) -> dict:
    with (run / "metrics.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    for row in rows:
        for name in TIMES:
            row.pop(name, None)
    result = json.loads((run / "result.json").read_text())
    result.pop("seconds"), result.pop("checksum", None)  # which is of the seconds, too
    weights = {}
    for name in ("best", "last"):
        state = torch.load(run / "checkpoints" / f"{name}.pt", weights_only=True)["model"]
        weights[name] = digest(*(state[key].numpy() for key in sorted(state)))
    files = {name: json.loads((run / f"{name}.json").read_text()) for name in ("class_counts", "class_weights")}
    return {"metrics": rows, "result": result, "weights": weights, **files}


def digest(*arrays: np.ndarray) -> str:
    found = hashlib.blake2b(digest_size=8)
    for array in arrays:
        found.update(np.ascontiguousarray(array))
    return found.hexdigest()


def segtrain(*words: str) -> str:
    done = subprocess.run([sys.executable, "-m", "segtrain", *words], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{words}: exit code {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done.stdout


def compare(before, after, path: str = "") -> int:
    """Print what differs; returns 1 when anything does."""
    if isinstance(before, dict) and isinstance(after, dict):
        keys = dict.fromkeys([*before, *after])
        return max((compare(before.get(k), after.get(k), f"{path}/{k}") for k in keys), default=0)
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        return max(
            (compare(b, a, f"{path}[{i}]") for i, (b, a) in enumerate(zip(before, after, strict=True))), default=0
        )
    if before != after:
        texts = [re.sub(r"\s+", " ", str(value))[:100] for value in (before, after)]
        print(f"{path}: {texts[0]} -> {texts[1]}")
    return int(before != after)


if __name__ == "__main__":
    main()
