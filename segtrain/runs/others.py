"""The folder of a run, for the processes that train with the one that writes it."""

from segtrain.runs.folder import RunFolder


class SilentRunFolder(RunFolder):
    """The run folder of the processes that train with the first one: it is read to resume, and never written."""

    def __enter__(self) -> "SilentRunFolder":
        return self

    def _nothing(self, *_, **__) -> None:
        pass

    _lock = __exit__ = begin = write_environment = write_counts = write_class_weights = _nothing
    add_start = record_failure = _nothing
