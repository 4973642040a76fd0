"""Draw image | ground truth | the prediction of each run, for validation images with rare classes.

    python scripts/draw_predictions.py RUN [RUN …] --out FILE.png

The runs must be of one dataset. Rows are images, the rarest class first.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from segtrain.config.build import build_dataset
from segtrain.metrics import predict
from segtrain.report import pictures
from segtrain.runs.trained import load


def draw(runs: list[Path], count: int, scale: int, trust: list[str]) -> Image.Image:
    loaded = [load(str(run), trust=trust) for run in runs]
    dataset = build_dataset(loaded[0].config, "val")
    networks = [trained.network.eval() for trained in loaded]
    rows = []
    for index in pictures.images_with_rare_classes(dataset, count):
        image, mask = dataset.image(index), dataset.mask(index)
        pixels = torch.from_numpy(image.transpose(2, 0, 1).copy())[None]
        with torch.no_grad():
            found = [predict(network(pixels), dataset.multilabel)[0].numpy() for network in networks]
        masks = [mask.transpose(2, 0, 1) if dataset.multilabel else mask, *found]
        colours = [pictures.colour_mask(m, dataset) for m in masks]
        rows.append(pictures.side_by_side([image, *colours]))
    grid = np.repeat(np.repeat(pictures.stacked(rows), scale, axis=0), scale, axis=1)
    titles = ["image", "ground truth", *(run.name for run in runs)]
    return with_titles(Image.fromarray(grid), titles, rows[0].shape[1] * scale // len(titles))


def with_titles(picture: Image.Image, titles: list[str], column: int) -> Image.Image:
    titled = Image.new("RGB", (picture.width, picture.height + 18), "white")
    titled.paste(picture, (0, 18))
    for i, title in enumerate(titles):
        ImageDraw.Draw(titled).text((i * column + 3, 3), title, fill="black")
    return titled


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--scale", type=int, default=1, help="whole-number enlargement")
    parser.add_argument("--trust", action="append", default=[], metavar="PACKAGE")
    arguments = parser.parse_args()
    draw(arguments.runs, arguments.images, arguments.scale, arguments.trust).save(arguments.out)
    print(f"written to {arguments.out}")
