"""Draw a dataset of boats from the air: 1000×1000 pixels, two classes of 0.02 and 0.08 % of them, in half of the images.

    python scripts/make_boats.py DIR --train 50 --val 20 --size 1000
    segtrain dataset=folder dataset.root=DIR dataset.num_classes=3 'dataset.class_names=[background,boat,ship]'

Water with waves and whitecaps as bright as boats; land with houses of the size of boats.
"""

import cv2
import numpy as np
from drawn import parsed, write

SHIPS = 0.25  # of the boats
SOME = 2 / 3  # of the images, that may have boats


def draw(seed: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Image uint8 [size, size, 3] and mask uint8 [size, size]."""
    rng = np.random.default_rng(seed)
    image = water(rng, size)
    land = smooth(rng, size, 900) > rng.uniform(0.3, 1.5)
    image[land] = ground(rng, size)[land]
    mask, area = np.zeros((size, size), np.uint8), size**2 / 1000**2
    for _ in range(int(area * rng.integers(4, 15))):
        place = rng.uniform(0, size, 2)
        if land[tuple(place.astype(int))]:
            house = cv2.boxPoints((place[::-1], rng.uniform(12, 40, 2), rng.uniform(0, 180)))
            cv2.fillPoly(image, [house.astype(int)], rng.uniform(100, 230, 3))
    for _ in range(rng.poisson(3 * area) if rng.random() < SOME else 0):
        place = rng.uniform(0, size, 2)
        if not land[tuple(place.astype(int))]:
            boat(image, mask, rng, place[::-1])
    image = cv2.GaussianBlur(image, (0, 0), 0.8) + rng.normal(0, 4, image.shape)
    return image.clip(0, 255).astype(np.uint8), mask


def water(rng: np.random.Generator, size: int) -> np.ndarray:
    """float32 [size, size, 3]."""
    colour = rng.uniform((20, 60, 70), (50, 90, 110)).astype(np.float32)
    waves = sum(height * smooth(rng, size, length) for length, height in ((600, 6), (60, 3), (6, 5), (2, 5)))
    image = colour + waves[:, :, None]
    for _ in range(int(rng.integers(0, 35) * size**2 / 1000**2)):
        place, length = rng.integers(0, size, 2).tolist(), int(rng.integers(2, 7))
        cv2.ellipse(image, place, (2 * length, length // 2 + 1), rng.uniform(0, 180), 0, 360, (200, 200, 200), -1)
    return image


def ground(rng: np.random.Generator, size: int) -> np.ndarray:
    """float32 [size, size, 3]."""
    return np.array([90, 90, 60], np.float32) + (12 * smooth(rng, size, 40) + 10 * smooth(rng, size, 8))[:, :, None]


def boat(image: np.ndarray, mask: np.ndarray, rng: np.random.Generator, place: np.ndarray) -> None:
    """Draw a boat, or a ship with its load, at (x, y)."""
    ship = rng.random() < SHIPS
    length = rng.uniform(50, 110) if ship else rng.uniform(14, 34)
    width, angle = length * rng.uniform(0.25, 0.35), rng.uniform(0, 2 * np.pi)
    along, across = np.array([np.cos(angle), np.sin(angle)]), np.array([-np.sin(angle), np.cos(angle)])
    hull = [(-0.5, -0.5), (0.25, -0.5), (0.5, 0), (0.25, 0.5), (-0.5, 0.5)]
    corners = np.array([place + length * x * along + width * y * across for x, y in hull]).astype(int)
    cv2.fillPoly(image, [corners], rng.uniform(60, 200, 3) if ship else rng.uniform(150, 240, 3))
    cv2.fillPoly(mask, [corners], 2 if ship else 1)
    for part in np.linspace(-0.3, 0.2, 4) if ship else ():
        crate = (place + length * part * along).astype(int).tolist()
        cv2.circle(image, crate, max(2, int(width / 3)), rng.uniform(60, 230, 3), -1)


def smooth(rng: np.random.Generator, size: int, scale: float) -> np.ndarray:
    """float32 [size, size]: noise without details below `scale` pixels, whatever the size."""
    points = max(2, round(size / scale))
    return cv2.resize(rng.normal(size=(points, points)).astype(np.float32), (size, size), interpolation=cv2.INTER_CUBIC)


if __name__ == "__main__":
    arguments = parsed(__doc__, train=50, val=20, size=1000)
    write(arguments, lambda seed: draw(seed, arguments.size), ".jpg")
