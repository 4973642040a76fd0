"""Draw a dataset of cells under a microscope: 12 bits, four classes, dividing cells are 0.04 % of the pixels.

    python scripts/make_cells.py DIR --train 60 --val 30
    segtrain dataset=folder dataset.root=DIR dataset.num_classes=4 'dataset.image_range=[0,4095]' \\
      'dataset.class_names=[background,cell,nucleus,dividing]'

Uneven light, noise of photons and of the camera. In a third of the images two cells divide: instead of a nucleus they have
a bright bar. Some nuclei hold a bright spot, which is none.
"""

import cv2
import numpy as np
import tifffile
from drawn import parsed, write

SIZE = 320
DIVIDING = 0.3  # of the images


def draw(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Image uint16 [SIZE, SIZE] of 12 bits, and mask uint8 [SIZE, SIZE]."""
    rng = np.random.default_rng(seed)
    light = 600 + 200 * smooth(rng, 40)
    mask = np.zeros((SIZE, SIZE), np.uint8)
    dividing = 2 if rng.random() < DIVIDING else 0
    for number in range(int(rng.integers(12, 26))):
        cell(light, mask, rng, number < dividing)
    light = cv2.GaussianBlur(light, (0, 0), 1.0) * np.linspace(0.7, 1.3, SIZE)
    photons = rng.poisson(light.clip(0) / 2) * 2 + rng.normal(0, 25, light.shape)
    return photons.clip(0, 4095).astype(np.uint16), mask


def cell(light: np.ndarray, mask: np.ndarray, rng: np.random.Generator, divides: bool) -> None:
    """Add the light of a cell, which lies over those before it."""
    radius, flat = rng.uniform(16, 28), rng.uniform(0.7, 1.3)
    across, along = turned(*rng.uniform(0, SIZE, 2), rng.uniform(0, np.pi))
    edge = radius * (1 + 0.15 * np.sin(3 * np.arctan2(along, across) + rng.uniform(0, 6)))
    distance = np.hypot(across * flat, along / flat) / edge
    body = distance < 1
    light += body * rng.uniform(250, 500) * (1 - distance.clip(0, 1) / 2)
    mask[body] = 1
    across, along = across - rng.uniform(-0.2, 0.2) * radius, along - rng.uniform(-0.2, 0.2) * radius
    inner = radius * rng.uniform(0.35, 0.5)
    if divides:
        angle = rng.uniform(0, np.pi)
        length, width = across * np.cos(angle) + along * np.sin(angle), along * np.cos(angle) - across * np.sin(angle)
        bar = body & (abs(length) < inner) & (abs(width) < max(2.3, inner / 4))
        light[bar] += rng.uniform(500, 900)
        mask[bar] = 3
        return
    nucleus = body & (np.hypot(across, along) < inner)
    light[nucleus] += (rng.uniform(300, 600) * (1 + 0.4 * smooth(rng, 2)))[nucleus]
    mask[nucleus] = 2
    if rng.random() < 0.25:
        spot = np.hypot(across - inner / 3, along + inner / 3) < rng.uniform(2, 4)
        light[spot & nucleus] += 500


def smooth(rng: np.random.Generator, scale: float) -> np.ndarray:
    """Noise float64 [SIZE, SIZE] without details below `scale` pixels, with a standard deviation of 1."""
    noise = cv2.GaussianBlur(rng.normal(size=(SIZE, SIZE)), (0, 0), scale)
    return noise / noise.std()


def turned(row: float, column: float, angle: float) -> tuple[np.ndarray, np.ndarray]:
    """Each pixel's coordinates along two axes through a point, turned by an angle."""
    rows, columns = np.mgrid[:SIZE, :SIZE]
    rows, columns = rows - row, columns - column
    return rows * np.cos(angle) + columns * np.sin(angle), columns * np.cos(angle) - rows * np.sin(angle)


if __name__ == "__main__":
    write(parsed(__doc__, train=60, val=30), draw, ".tif", tifffile.imwrite)
