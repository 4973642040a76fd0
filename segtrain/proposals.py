"""Sampling of the crops that a coarse network proposes: what the fine one will be shown, false alarms included."""

import numpy as np
import torch

from segtrain.arguments import Fraction, TrainedRun, checked
from segtrain.data.resize import Resize
from segtrain.data.sampling import Samples, Sampling
from segtrain.errors import counted
from segtrain.inference.regions import Foreground

LOCATIONS = 64  # of an image that are kept


class Proposals(Sampling):
    """Every image once an epoch; a share of the crops is centred where a coarse network sees foreground.

    Images in which it sees none are cropped anywhere.

    Args:
        coarse: a trained run (segtrain.runs.trained.Trained) on small images of the same dataset.
        share: of the crops.
        threshold: probability of foreground above which a pixel is proposed.
        resize: how the training images are resized.

    Raises ConfigError for a run without a background class.
    """

    @checked
    def __init__(self, coarse: TrainedRun, share: Fraction = 0.66, threshold: Fraction = 0.1, resize: Resize = None):
        self.coarse, self.foreground_share, self.threshold, self.resize = coarse, share, threshold, resize
        self.locations = np.zeros((0, LOCATIONS), int)

    def prepare(self, dataset, device: torch.device) -> None:
        """Find the foreground of every training image once."""
        foreground = Foreground.of_run(self.coarse, device, self.resize)
        self.locations = np.full((len(dataset.names), LOCATIONS), -1)
        for index in range(len(dataset.names)):
            image = dataset.image(index)
            seen = foreground(torch.tensor(image).permute(2, 0, 1)[None].to(device))[0].cpu().numpy()
            found = np.argwhere(seen > self.threshold)
            chosen = np.random.default_rng(index).permutation(len(found))[:LOCATIONS]
            scale = np.array(image.shape[:2]) / seen.shape
            rows, columns = ((found[chosen] + 0.5) * scale).astype(int).T
            self.locations[index, : len(chosen)] = rows * image.shape[1] + columns
        self.coarse.network.cpu()

    def __call__(self, counts, seed: int, epoch: int) -> Samples:
        rng = np.random.default_rng([seed, epoch])
        order = rng.permutation(counts.num_images)
        number = (self.locations >= 0).sum(axis=1)[order]
        place = self.locations[order, (rng.random(len(order)) * number).astype(int)]
        return Samples(order, np.where(rng.random(len(order)) < self.foreground_share, place, -1))

    def summary(self, counts) -> str:
        seen = int((self.locations[:, 0] >= 0).sum())
        images = f"{seen} of {counted(len(self.locations), 'training image')}"
        return f"{self.coarse.run} predicts foreground in {images}: {100 * self.foreground_share:.0f} % of their crops are taken there"
