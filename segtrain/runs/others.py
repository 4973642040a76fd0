"""The folder of a run, for the processes that train with the one that writes it."""

from segtrain.runs.folder import RunFolder


class OthersFolder(RunFolder):
    """The folder of a run that another process writes: this one, which trains with it, only reads what is resumed."""

    def __enter__(self) -> "OthersFolder":
        return self

    def _nothing(self, *_, **__) -> None:
        pass

    _lock = __exit__ = begin = write_environment = write_counts = write_class_weights = _nothing
    add_start = record_failure = _nothing
