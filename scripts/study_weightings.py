"""Compare the weightings on four datasets with three seeds each, all else as the defaults, and print the table of docs/recipes.md.

    python scripts/make_cracks.py CRACKS --size 256
    python scripts/study_weightings.py OUT --camvid PATH --tiles PREPARED --cracks CRACKS --encoder PATH

60 trainings, of one to five minutes each on one CPU core. A study that was stopped goes on when it is called again. A
dataset that is not named is left out; `--encoder` is an EfficientNet-Lite0 trained on ImageNet, for the tiles.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np

SCHEMES = ("none", "inverse_sqrt", "log_ratio", "median_frequency", "inverse_frequency")
SETTINGS = {
    "shapes": [],
    "camvid": ["dataset=camvid", "dataset.resize=[96,128]", "loader.cache=ram", "trainer.epochs=10"],
    "tiles": ["experiment=defects", "trainer.epochs=5"],
    "cracks": ["dataset=folder", "dataset.num_classes=2"],
}


def sweep(folder: Path, words: list[str]) -> dict:
    """Run the sweep of one dataset, or what is missing of it; returns the comparison with no weights."""
    if (folder / "sweep.json").is_file():
        segtrain("resume", str(folder))
    else:
        segtrain("-m", "seed=0,1,2", f"weighting={','.join(SCHEMES)}", *words, f"hydra.sweep.dir={folder}")
    out = folder / "comparison"
    segtrain("compare", str(folder), "--baseline", "weighting=none", "--pictures", "0", "--out", str(out))
    return json.loads((out / "comparison.json").read_text())["comparisons"][0]


def segtrain(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "segtrain", *words], check=True)


def row(name: str, found: dict) -> str:
    """Mean score and spread over the seeds of each scheme, in percent; a star: it differs from no weights for real."""
    cells = []
    for scheme in SCHEMES:
        one = next((s for s in found["settings"] if s["varied"]["weighting"] == scheme), None)
        if one is None:
            cells.append("")
            continue
        score = 100 * np.array(one["seeds"])
        text = f"{score.mean():.1f} ± {score.std(ddof=1):.1f}"
        cells.append(f"**{text}**" if one is found["settings"][0] else text + "*" * one.get("real", False))
    return f"| {name} | {found['by']} | {' | '.join(cells)} |"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    for dataset in ("camvid", "tiles", "cracks"):
        parser.add_argument(f"--{dataset}", metavar="PATH", help="dataset.root")
    parser.add_argument("--encoder", metavar="PATH", help="weights of the encoder for the tiles")
    parser.add_argument("words", nargs="*", metavar="key=value", help="settings for all, such as loss=ce")
    arguments = parser.parse_intermixed_args()
    rows = []
    for name, words in SETTINGS.items():
        if name != "shapes":
            if (root := getattr(arguments, name)) is None:
                continue
            words = [*words, f"dataset.root={root}"]
        if name == "tiles" and arguments.encoder:
            encoder = ["model.encoder=tu-tf_efficientnet_lite0", f"model.encoder_weights={arguments.encoder}"]
            words = [*words, *encoder, "optimizer.encoder_lr=0.5"]
        rows.append(row(name, sweep(arguments.out / name, [*words, *arguments.words])))
    print(f"\n| | score | {' | '.join(SCHEMES)} |\n|{'---|' * (len(SCHEMES) + 2)}")
    print("\n".join(rows))
