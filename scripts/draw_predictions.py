"""Draw image | ground truth | the prediction of each run, for validation images with rare classes.

    python scripts/draw_predictions.py RUN [RUN …] --out FILE.png

The runs must be of one dataset. Rows are images, the rarest class first.
"""

import argparse
from pathlib import Path

import torch
from PIL import Image

from segtrain.config.build import build_dataset
from segtrain.metrics import predict
from segtrain.report import pictures
from segtrain.runs.trained import load


def draw(runs: list[Path], count: int, trust: list[str]) -> Image.Image:
    loaded = [load(str(run), trust=trust) for run in runs]
    dataset = build_dataset(loaded[0].config, "val")
    networks = [trained.network.eval() for trained in loaded]
    rows = []
    for index in pictures.images_with_rare_classes(dataset, count):
        pixels = torch.from_numpy(dataset.image(index).transpose(2, 0, 1).copy())[None]
        with torch.no_grad():
            found = [predict(network(pixels), dataset.multilabel)[0].numpy() for network in networks]
        rows.append(pictures.with_masks(dataset, index, found))
    titles = ["image", "ground truth", *(run.name for run in runs)]
    return Image.fromarray(pictures.figure(rows, titles, dataset))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--trust", action="append", default=[], metavar="PACKAGE")
    arguments = parser.parse_args()
    draw(arguments.runs, arguments.images, arguments.trust).save(arguments.out)
    print(f"written to {arguments.out}")
