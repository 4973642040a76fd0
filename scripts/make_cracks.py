"""Draw a dataset of thin cracks on a stained wall: binary, every image has some, about 1 % of the pixels.

    python scripts/make_cracks.py DIR --train 30 --val 20 --size 512
    segtrain dataset=folder dataset.root=DIR dataset.num_classes=2

Cracks are walks of 1 to 4 pixels' width that turn and branch; stains and soft lines as dark as they are not cracks.
"""

import cv2
import numpy as np
from drawn import parsed, write


def draw(seed: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Image uint8 [size, size, 3] and mask uint8 [size, size]."""
    rng = np.random.default_rng(seed)
    wall = rng.normal(0, 1, (size, size)).astype(np.float32)
    wall = 140 + 25 * cv2.GaussianBlur(wall, (0, 0), size / 20) * size / 10 + 8 * wall
    for _ in range(6):  # stains
        spot = np.zeros((size, size), np.float32)
        centre, axes = rng.integers(0, size, 2).tolist(), rng.integers(size // 40, size // 12, 2).tolist()
        cv2.ellipse(spot, centre, axes, rng.uniform(0, 180), 0, 360, 1.0, -1)
        wall -= rng.uniform(15, 45) * cv2.GaussianBlur(spot, (0, 0), size / 100)
    for _ in range(3):  # soft straight lines, as of a trowel
        line = np.zeros((size, size), np.float32)
        (x0, y0), (x1, y1) = rng.integers(0, size, (2, 2)).tolist()
        cv2.line(line, (x0, y0), (x1, y1), 1.0, int(rng.integers(4, 9)))
        wall -= rng.uniform(20, 40) * cv2.GaussianBlur(line, (0, 0), 4)
    mask = np.zeros((size, size), np.uint8)
    for _ in range(int(rng.integers(1, 4))):
        crack(mask, rng, rng.uniform(0, size, 2), rng.uniform(0, 2 * np.pi), rng.uniform(0.4, 1.0) * size, branches=2)
    depth = rng.uniform(30, 60) * (0.6 + 0.4 * cv2.GaussianBlur(rng.random((size, size), np.float32), (0, 0), 6))
    wall -= depth * cv2.GaussianBlur(mask.astype(np.float32), (0, 0), 0.7)
    colour = wall[:, :, None] * np.array([1.0, 0.97, 0.92], np.float32) + rng.normal(0, 3, (size, size, 3))
    return colour.clip(0, 255).astype(np.uint8), mask


def crack(
    mask: np.ndarray, rng: np.random.Generator, place: np.ndarray, angle: float, length: float, branches: int
) -> None:
    """Draw a crack into the mask: short steps whose direction and width wander."""
    width, step = rng.uniform(1, 3.5), 6.0
    for _ in range(int(length / step)):
        angle += rng.normal(0, 0.25)
        width = float(np.clip(width + rng.normal(0, 0.2), 1, 4))
        end = place + step * np.array([np.cos(angle), np.sin(angle)])
        cv2.line(mask, place.round().astype(int).tolist(), end.round().astype(int).tolist(), 1, round(width))
        place = end
        if branches and rng.random() < 0.03:
            crack(mask, rng, place, angle + rng.choice([-1, 1]) * rng.uniform(0.4, 1.0), length / 3, branches - 1)


if __name__ == "__main__":
    arguments = parsed(__doc__, train=30, val=20, size=512)
    write(arguments, lambda seed: draw(seed, arguments.size), ".png")
