"""Expected failures: what happened, where, and how to fix it; each has an exit code."""

import contextlib
import errno


class SegtrainError(Exception):
    """An expected failure. `what` happened, `where` (file, key, class), `fix`: what the user can do."""

    exit_code = 1
    label = "error"

    def __init__(self, what: str, where: str = "", fix: str = ""):
        super().__init__(what, where, fix)  # all three: exceptions travel between processes as their args
        self.what, self.where, self.fix = what, where, fix

    def __str__(self) -> str:
        lines = [f"{self.label}: {self.what}"]
        lines += [f"  where: {self.where}"] if self.where else []
        lines += [f"  fix: {self.fix}"] if self.fix else []
        return printable("\n".join(lines))


class ConfigError(SegtrainError):
    exit_code, label = 2, "config error"


class DataError(SegtrainError):
    exit_code, label = 3, "data error"


class OutOfMemory(SegtrainError):
    exit_code, label = 4, "out of memory"


@contextlib.contextmanager
def out_of_memory_explained(describe=lambda: ("", "lower loader.batch_size, or the size of images or windows")):
    """Within this, an error that Python, NumPy, OpenCV, PyTorch or a CUDA library raises for want of memory is OutOfMemory.

    Args:
        describe: gives `where` and `fix`.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, SegtrainError):
            raise
        lines = [line for line in str(error).splitlines() if line.strip()]
        sentences = [sentence for line in lines for sentence in line.split(". ")]
        found = [text for text in sentences if any(sign in text for sign in NO_MEMORY)]
        of_system = isinstance(error, OSError) and error.errno == errno.ENOMEM
        if not (found or of_system or isinstance(error, MemoryError)):
            raise
        # Of a MemoryError of a loader's process the last line is that error, after its traceback.
        what = [*found, *lines[-1:], "memory ran out"][0].removeprefix("MemoryError: ")
        raise OutOfMemory(what, *describe()) from error


# In the texts of: torch.OutOfMemoryError and CUDA; PyTorch on the CPU; cuBLAS, cuDNN and cuSOLVER; OpenCV; and what
# PyTorch says when each way of cuDNN to compute a convolution failed, mostly for want of memory.
NO_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "ALLOC_FAILED", "Insufficient memory")
NO_MEMORY += ("unable to find an engine",)


@contextlib.contextmanager
def batch_norm_explained():
    """Within this, batch norm's error for a single value is a ConfigError."""
    try:
        yield
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise ConfigError(
            "batch norm cannot learn from a single value per channel",
            "a batch of one image, or a crop no larger than the network's stride",
            "raise loader.batch_size or augment.size",
        ) from error


class DiskError(SegtrainError):
    exit_code, label = 5, "disk error"


class Pruned(SegtrainError):
    """Not a failure: a search ended the training, which was worse than others."""

    exit_code, label = 0, "pruned"


class NotFinite(SegtrainError):
    """A loss, gradient or prediction that is not finite. `seen`: what is known of the step, for the run's folder."""

    exit_code, label = 6, "not finite"

    def __init__(self, what: str, where: str = "", fix: str = "", seen: dict | None = None):
        super().__init__(what, where, fix)
        self.seen = seen


class Preempted(SegtrainError):
    exit_code, label = 75, "preempted"


def did_you_mean(word: str, known) -> str:
    """`, did you mean 'x'?` when something in `known` is close to `word`, else nothing."""
    from difflib import get_close_matches

    close = get_close_matches(str(word), [str(k) for k in known], n=1, cutoff=0.6)
    return f", did you mean {close[0]!r}?" if close else ""


def printable(text: str) -> str:
    """Text without what a terminal would obey: names in files are a stranger's. Escapes such as \\x1b stand for it."""
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)


def counted(number: int, noun: str) -> str:
    """1 image, 2 images."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def listed(texts: list[str]) -> str:
    """a, b and c."""
    return " and ".join([", ".join(texts[:-1]), texts[-1]] if len(texts) > 1 else texts)


def few(texts: list[str], count: int = 5) -> str:
    """The first of `texts`, with an ellipsis when there are more."""
    return ", ".join(texts[:count]) + (" …" if len(texts) > count else "")
