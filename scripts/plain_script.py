"""A U-Net trained as most scripts do it, to compare segtrain's defaults with at equal time.

    python scripts/plain_script.py ROOT --classes 4 --seconds 240 --range 4095 --dice

ROOT holds train/images, train/masks, val/images and val/masks of one size; masks hold class numbers. segmentation-models-
pytorch's U-Net with its default encoder, ResNet-34, from random weights; Adam, 0.001, batches of 4, flips; bfloat16.
"""

import argparse
import time
from pathlib import Path

import cv2
import numpy as np
import segmentation_models_pytorch as smp
import torch
from torch.nn.functional import cross_entropy


def load(folder: Path, whole: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Images float32 [N, 3, H, W], and masks int64 [N, H, W]."""
    images, masks = (
        [cv2.imread(str(file), flags) for file in sorted((folder / part).iterdir())]
        for part, flags in (("images", cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH), ("masks", cv2.IMREAD_GRAYSCALE))
    )
    pixels = torch.from_numpy(np.stack(images).astype(np.float32)).movedim(3, 1) / whole
    return (pixels - pixels.mean()) / pixels.std(), torch.from_numpy(np.stack(masks)).long()


@torch.no_grad()
def iou(network: torch.nn.Module, images: torch.Tensor, masks: torch.Tensor, classes: int) -> torch.Tensor:
    """Of each class, over all images together."""
    network.eval()
    with torch.autocast("cpu", torch.bfloat16):
        predicted = torch.cat([network(batch).argmax(dim=1) for batch in images.split(4)])
    network.train()
    table = torch.bincount((masks * classes + predicted).flatten(), minlength=classes**2).view(classes, classes)
    return table.diag() / (table.sum(dim=0) + table.sum(dim=1) - table.diag())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path)
    parser.add_argument("--classes", type=int, required=True)
    parser.add_argument("--seconds", type=float, default=240)
    parser.add_argument("--range", type=float, default=255, help="largest value of a pixel")
    parser.add_argument("--dice", action="store_true", help="cross-entropy + Dice")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    images, masks = load(arguments.root / "train", arguments.range)
    val = load(arguments.root / "val", arguments.range)
    network = smp.Unet(encoder_weights=None, classes=arguments.classes)
    optimizer, dice = torch.optim.Adam(network.parameters(), 0.001), smp.losses.DiceLoss("multiclass")
    start, epoch = time.monotonic(), 0
    while time.monotonic() - start < arguments.seconds:
        epoch += 1
        for batch in torch.randperm(len(images)).split(4):
            axes = [axis for axis in (-1, -2) if torch.rand(()) < 0.5]
            with torch.autocast("cpu", torch.bfloat16):
                logits = network(images[batch].flip(axes))
            target = masks[batch].flip(axes)
            loss = cross_entropy(logits.float(), target)
            if arguments.dice:
                loss = loss + dice(logits.float(), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        found = iou(network, *val, arguments.classes)
        shown = ", ".join(f"{100 * value:.1f}" for value in found)
        print(
            f"epoch {epoch}, {time.monotonic() - start:.0f} s: mean IoU {100 * found.mean():.1f} % ({shown})",
            flush=True,
        )
