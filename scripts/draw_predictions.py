"""Draw image | truth | the prediction of each run, for validation images with rare classes.

    python scripts/draw_predictions.py RUN [RUN …] --out FILE.png

The runs must be of one dataset. Rows are images, the rarest class first.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from segtrain.commands.evaluate import load_model
from segtrain.config.build import build_dataset
from segtrain.config.compose import load_saved
from segtrain.metrics import predict
from segtrain.report import pictures as panels


def draw(runs: list[Path], count: int, scale: int, trust: list[str]) -> Image.Image:
    configs = [load_saved(run / "config.yaml", ["trainer.device=cpu"], trust) for run in runs]
    dataset = build_dataset(configs[0], "val")
    models = [load_model(cfg, run, "best", torch.device("cpu")).eval() for cfg, run in zip(configs, runs, strict=True)]
    rows = []
    for index in panels.images_with_rare_classes(dataset, count):
        image, mask = dataset.image(index), dataset.mask(index)
        pixels = torch.from_numpy(image.transpose(2, 0, 1).copy())[None]
        with torch.no_grad():
            found = [predict(model(pixels), dataset.multilabel)[0].numpy() for model in models]
        masks = [mask.transpose(2, 0, 1) if dataset.multilabel else mask, *found]
        colours = [panels.colour_mask(m, dataset) for m in masks]
        rows.append(panels.side_by_side([image, *colours]))
    grid = np.repeat(np.repeat(panels.stacked(rows), scale, axis=0), scale, axis=1)
    titles = ["image", "truth", *(run.name for run in runs)]
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
