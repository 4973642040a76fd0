"""Draw a dataset of rolled steel: 160×320 pixels, scratches and pits of 0.1 % of the pixels each, three of ten images have some.

    python scripts/make_steel.py DIR
    segtrain dataset=folder dataset.root=DIR dataset.num_classes=3 'dataset.class_names=[steel,scratch,pit]'

Scratches are a few grey values brighter or darker than the grain around them; stains of oil are no defects.
"""

import cv2
import numpy as np
from drawn import parsed, write

SIZE = HEIGHT, WIDTH = 160, 320
DEFECTIVE = 0.3  # of the images


def draw(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Image uint8 [160, 320, 3], grey, and mask uint8 [160, 320]."""
    rng = np.random.default_rng(seed)
    image = rng.uniform(95, 150) + sum(height * smooth(rng, scale) for scale, height in ((8, 4), (40, 12)))
    grain = cv2.GaussianBlur(rng.normal(0, 30, SIZE).astype(np.float32), (0, 0), sigmaX=12, sigmaY=0.6)
    image += grain * rng.uniform(0.8, 1.6)
    mask = np.zeros(SIZE, np.uint8)
    for _ in range(rng.integers(0, 4)):
        stain(image, rng)
    if rng.random() < DEFECTIVE:
        for _ in range(rng.integers(1, 3)):
            if rng.random() < 0.5:
                scratch(image, mask, rng)
            else:
                for _ in range(rng.integers(2, 9)):
                    pit(image, mask, rng)
    image = cv2.GaussianBlur(image, (0, 0), 0.6) + rng.normal(0, 4, SIZE)
    return np.repeat(image.clip(0, 255).astype(np.uint8)[:, :, None], 3, axis=2), mask


def smooth(rng: np.random.Generator, scale: int) -> np.ndarray:
    """float32 [160, 320]: noise without details below `scale` pixels."""
    points = rng.normal(0, 1, (HEIGHT // scale + 3, WIDTH // scale + 3)).astype(np.float32)
    return cv2.resize(points, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)


def stain(image: np.ndarray, rng: np.random.Generator) -> None:
    inside, centre = np.zeros(SIZE, np.float32), (int(rng.integers(WIDTH)), int(rng.integers(HEIGHT)))
    radii = int(rng.integers(8, 30)), int(rng.integers(6, 20))
    cv2.ellipse(inside, centre, radii, rng.uniform(0, 180), 0, 360, 1, -1)
    image -= cv2.GaussianBlur(inside, (0, 0), 4) * rng.uniform(5, 20)


def scratch(image: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> None:
    points, angle = int(rng.integers(15, 60)), rng.uniform(0, np.pi)
    start = np.array([rng.uniform(20, WIDTH - 20), rng.uniform(20, HEIGHT - 20)])
    ways = [turn(angle + rng.normal(0, 0.15, points).cumsum() * 0.3) for turn in (np.cos, np.sin)]
    line, inside = start + np.cumsum(np.stack(ways, axis=1) * 1.5, axis=0), np.zeros(SIZE, np.uint8)
    cv2.polylines(inside, [np.int32(line * 8)], False, 255, 2, cv2.LINE_AA, 3)
    image += inside.astype(np.float32) / 255 * rng.uniform(14, 32) * rng.choice([-1, 1])
    mask[inside > 127] = 1


def pit(image: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> None:
    inside, centre = np.zeros(SIZE, np.uint8), (int(rng.integers(10, WIDTH - 10)), int(rng.integers(10, HEIGHT - 10)))
    radii = int(rng.integers(2, 5)), int(rng.integers(2, 4))
    cv2.ellipse(inside, centre, radii, 0, 0, 360, 255, -1, cv2.LINE_AA)
    image -= cv2.GaussianBlur(inside.astype(np.float32) / 255, (0, 0), 0.7) * rng.uniform(18, 40)
    mask[inside > 127] = 2


if __name__ == "__main__":
    write(parsed(__doc__, train=200, val=80), draw, ".png")
