"""Turn the raw magnetic-tile folders into segtrain's folder layout, with a fixed stratified split.

    python scripts/prepare_magnetic_tile.py RAW PREPARED
    segtrain dataset=magnetic_tile dataset.root=PREPARED augment.size=[224,224]

RAW holds MT_Free, MT_Blowhole, MT_Break, MT_Crack, MT_Fray and MT_Uneven with NAME.jpg and a mask NAME.png, whose
edges are grey. A mask pixel of 128 and more is the defect that the folder names. Of each folder, the fifth of the
names with the smallest hash is val, so the split is the same on every machine.
"""

import argparse
import hashlib
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ["Free", "Blowhole", "Break", "Crack", "Fray", "Uneven"]
VAL_SHARE = 0.2


def prepare(raw: Path, out: Path) -> dict[str, dict[str, int]]:
    """Write out/{train,val}/{images,masks}; returns images per split and folder."""
    counts: dict[str, dict[str, int]] = {"train": {}, "val": {}}
    for label, name in enumerate(CLASSES):
        images = sorted((raw / f"MT_{name}").rglob("*.jpg"), key=lambda file: hash_of(file.stem))
        if not images:
            raise SystemExit(f"no .jpg in {raw / f'MT_{name}'}: RAW must hold the folders MT_{', MT_'.join(CLASSES)}")
        first_train = round(VAL_SHARE * len(images))
        for number, image in enumerate(images):
            split = "val" if number < first_train else "train"
            counts[split][name] = counts[split].get(name, 0) + 1
            write_pair(image, label, out / split)
    return counts


def write_pair(image: Path, label: int, folder: Path) -> None:
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    with Image.open(image.with_suffix(".png")) as file:
        defect = np.asarray(file.convert("L")) >= 128
    shutil.copyfile(image, folder / "images" / image.name)
    Image.fromarray((defect * label).astype(np.uint8)).save(folder / "masks" / f"{image.stem}.png")


def hash_of(stem: str) -> str:
    return hashlib.sha256(stem.encode()).hexdigest()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("raw", type=Path)
    parser.add_argument("prepared", type=Path)
    arguments = parser.parse_args()
    for split, folders in prepare(arguments.raw, arguments.prepared).items():
        print(f"{split}: {sum(folders.values())} images (" + ", ".join(f"{n} {c}" for n, c in folders.items()) + ")")
