"""How often `segtrain compare` calls a difference real that is not there, and finds one that is.

    python scripts/simulate_comparison.py [REPEATS]

Made-up trainings: images of very different sizes of the class, in scenes; a setting's effect differs by scene, a seed's by
image. The table is in docs/comparison.md.
"""

import sys

import numpy as np

from segtrain.comparison.draws import draw_groups, pooled_score, without_each
from segtrain.comparison.statistics import (
    LEVEL,
    Scores,
    apart_from_best,
    classes_apart,
    estimate,
    holm,
    seed_noise,
)

ONE, FOREGROUND = ["class"], np.array([True])


def trainings(
    rng: np.random.Generator,
    settings: int,
    seeds: int,
    images: int,
    scene: int,
    shift: float,
    spread: float = 1.0,
    sizes: float = 1.0,
    effect: float = 0.2,
    half: bool = False,
):
    """For each setting and seed float [images, 4, 1]; and the scene of each image.

    The first setting is shifted; the seeds of the second one differ by `spread` times as much.

    Args:
        sizes: standard deviation of the logarithm of the pixels of the class.
        effect: of a setting's effect between scenes.
        half: one scene has half of the images, instead of `scene` of them.
    """
    scenes = np.repeat(np.arange(images // scene), scene)
    if half:
        scenes[: images // 2] = 0
    size = np.exp(rng.normal(6, sizes, images))
    ease = 0.5 + rng.normal(0, 0.8, images // scene)[scenes] + rng.normal(0, 0.4, images)
    found = []
    for setting in range(settings):
        own = ease + rng.normal(0, effect, images // scene)[scenes] + shift * (setting == 0)
        noise = (spread if setting == 1 else 1) * rng.normal(0, 0.15, (seeds, 1)) + rng.normal(0, 0.3, (seeds, images))
        right = size / (1 + np.exp(-(own + noise)))
        counts = np.stack([right, 0.7 * (size - right), size - right, np.broadcast_to(size, right.shape)], axis=2)
        found.append(counts[..., None])
    return found, scenes


def scores_of(found: list[np.ndarray], scenes: np.ndarray, draws: int, seed: int) -> Scores:
    weights = draw_groups(scenes, draws, seed).astype(np.float64)

    def score(sums: np.ndarray) -> np.ndarray:
        return pooled_score("iou/class", sums, ONE, FOREGROUND)

    full = [score(counts.sum(axis=1)) for counts in found]
    drawn = [score(np.einsum("dn,snkc->sdkc", weights, counts)) for counts in found]
    left_out = [score(np.stack([without_each(scenes, table) for table in counts])) for counts in found]
    return Scores(full, drawn, len(np.unique(scenes)), left_out)


def simulate(
    repeats: int,
    settings: int,
    seeds: int,
    images: int,
    scene: int,
    shift: float = 0.0,
    spread: float = 1.0,
    draws: int = 400,
    **uneven: float,
):
    """Shares of repeats: `found`, a difference to the last setting (with a shift: of the first one) is called real;
    `covered`, the interval of the first difference holds the true one. `uneven`: sizes, effect and half of `trainings`."""
    rng, truth = np.random.default_rng(0), 0.0
    if shift:
        many, scenes = trainings(np.random.default_rng(1), 2, 30, 40_000, 1, shift)
        first, last = scores_of(many, scenes, 2, 0).means
        truth = first - last
    found = covered = 0
    for repeat in range(repeats):
        scores = scores_of(*trainings(rng, settings, seeds, images, scene, shift, spread, **uneven), draws, repeat)
        noise = seed_noise(scores)
        estimates = [estimate(scores, noise, i, settings - 1) for i in range(settings - 1)]
        real = holm(np.array([one.p for one in estimates])) < LEVEL
        found += real[0] if shift else real.any()
        covered += estimates[0].low <= truth <= estimates[0].high
    return {"found": found / repeats, "covered": covered / repeats}


def simulate_choice(repeats: int, settings: int, seeds: int = 3, images: int = 100, classes: int = 3, draws: int = 400):
    """Without a true difference, shares of repeats: `best`, it is told apart from any other setting; `classes`, from the last
    setting in any class."""
    rng, best, in_class = np.random.default_rng(0), 0, 0
    for repeat in range(repeats):
        each = [
            scores_of(*trainings(rng, settings, seeds, images, 1, 0.0), draws, classes * repeat + c)
            for c in range(classes)
        ]
        best += apart_from_best(each[0], seed_noise(each[0]), int(each[0].means.argmax())).any()
        chosen = int(np.mean([scores.means for scores in each], axis=0)[:-1].argmax())
        p = np.array([estimate(scores, seed_noise(scores), chosen, settings - 1).p for scores in each])
        in_class += classes_apart(p, settings).any()
    return {"best": best / repeats, "classes": in_class / repeats}


def main() -> None:
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    print(
        "| settings | seeds | images | in scenes of | shift | seeds of one differ by | called real | interval holds the truth |\n"
        "|---|---|---|---|---|---|---|---|"
    )
    cases = [
        (s, r, i, g, 0.0)
        for s in (2, 6, 12)
        for r in (1, 2, 3, 5)
        for i, g in ((20, 1), (100, 1), (100, 10), (500, 25))
    ]
    cases = [(*case, 1) for case in [*cases, (2, 3, 200, 1, 0.5), (2, 5, 200, 1, 0.35)]]
    cases += [(s, r, 100, 1, 0.0, spread) for s in (3, 6, 12) for r in (2, 3, 5) for spread in (3, 10)]
    for settings, seeds, images, scene, shift, spread in cases:
        found = simulate(repeats, settings, seeds, images, scene, shift, spread)
        words = f"{100 * found['found']:.1f} % | {100 * found['covered']:.1f} %"
        print(f"| {settings} | {seeds} | {images} | {scene} | {shift} | ×{spread} | {words} |", flush=True)
    print("\n| images | log of the class's pixels differs by | scenes | called real |\n|---|---|---|---|")
    for images in (20, 100):
        for sizes, half in ((1, False), (2, False), (3, False), (1, True)):
            found = simulate(repeats, 2, 3, images, 1, sizes=sizes, effect=0.5, half=half)
            scenes = "one has half of the images" if half else "one per image"
            print(f"| {images} | {sizes} | {scenes} | {100 * found['found']:.1f} % |", flush=True)
    print("\n| settings | the best told apart from any other | from the last in any of three classes |\n|---|---|---|")
    for settings in (2, 3, 6, 12):
        found = simulate_choice(repeats, settings)
        print(f"| {settings} | {100 * found['best']:.1f} % | {100 * found['classes']:.1f} % |", flush=True)


if __name__ == "__main__":
    main()
