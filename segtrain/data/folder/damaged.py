"""dataset.on_error=skip: images that cannot be used are left out once, when the dataset is built."""

import logging

from segtrain.data.threads import in_threads, tried
from segtrain.data.views import EveryAnnotator, read_checked
from segtrain.errors import DataError, counted

MOST_SKIPPED = 0.01  # share of the images of a split

log = logging.getLogger("segtrain")


def without_damaged(dataset) -> tuple[list, list, list]:
    """Names, images and masks of a Folder but for those that cannot be read, do not fit or hold wrong values.

    What is left out is logged with its reason. Raises DataError when more than 1 %, and more than one, are left out.
    """
    masks = EveryAnnotator(dataset) if dataset.num_annotators > 1 else dataset

    def read(index: int) -> None:
        dataset.check_pair(index)
        read_checked(masks, index)

    indices = range(len(dataset.names))
    found = list(in_threads(lambda index: tried(read, index), indices, "reading images and masks"))
    errors = {index: error for index, error in enumerate(found) if error is not None}
    for index, error in errors.items():
        log.warning(f"skipped {dataset.names[index]}: {error.what}: {error.where}")
    if len(errors) > max(1, MOST_SKIPPED * len(indices)) or 0 < len(errors) == len(indices):
        first = next(iter(errors.values()))
        what = f"{first.what} ({counted(len(errors), 'image')} of the split cannot be read, more than 1 %)"
        raise DataError(what, first.where, "`segtrain check` lists them all; dataset.on_error=skip is for a few")
    kept = [index for index in indices if index not in errors]
    return tuple([entries[index] for index in kept] for entries in (dataset.names, dataset.images, dataset.masks))
