"""Charts of scores, drawn with matplotlib: SVG for pages, pixels for TensorBoard."""

import base64
import contextlib
import io

import numpy as np

HEIGHT = 4.2  # inches
_LEAST = 100  # pixels that a point of a reliability curve must rest on


@contextlib.contextmanager
def as_typed():
    """Within this, names are drawn as they are: matplotlib reads what is between two dollar signs as a formula.

    Not for logarithmic axes, whose numbers are such formulas.
    """
    import matplotlib

    with matplotlib.rc_context({"text.parse_math": False}):
        yield


@as_typed()
def precision_recall(curves, labels: list[int], names: list[str]) -> str:
    """A line a class of Curves, with its average precision."""
    (precision, recall), area = curves.precision_recall(), curves.average_precision()
    figure, axes = _axes("recall", "precision", "Precision over recall, by threshold")
    for c in labels:
        axes.plot(recall[c], precision[c], label=f"{names[c]} {100 * area[c]:.1f}")
    _legend(axes, "average precision, %")
    return _svg(figure)


@as_typed()
def reliability(curves, labels: list[int], names: list[str]) -> str:
    """Frequency of a class among the pixels of a predicted probability; a line a class of Curves."""
    (probability, share, pixels), error = curves.reliability(), curves.expected_error()
    figure, axes = _axes("predicted probability", "frequency", "Reliability: calibrated on the diagonal")
    axes.plot([0, 1], [0, 1], color="#bbb", linewidth=1)
    for c in labels:
        enough, named = pixels[c] >= _LEAST, f"{names[c]} {100 * error[c]:.1f}"
        axes.plot(probability[c][enough], share[c][enough], ".-", label=named)
    _legend(axes, "calibration error, %")
    return _svg(figure)


@as_typed()
def grouped_bars(values: np.ndarray, labels: list[str], names: list[str], title: str) -> str:
    """Bars of shares [classes, labels], those of a label side by side; NaN is n/a."""
    figure, axes = _axes("", "", title)
    width = 0.8 / len(values)
    for i, (row, name) in enumerate(zip(values, names, strict=True)):
        x = np.arange(len(labels)) - 0.4 + (i + 0.5) * width
        axes.bar(x, row, width, label=name)
        for left in x[np.isnan(row)]:
            axes.text(left, 0.01, "n/a", rotation=90, ha="center", va="bottom", fontsize=7, color="#777")
    axes.set_xticks(np.arange(len(labels)), labels)
    axes.set_xlim(-0.5, len(labels) - 0.5)
    _legend(axes)
    return _svg(figure)


@as_typed()
def stacked_bars(values: np.ndarray, labels: list[str], names: list[str], title: str) -> str:
    """A horizontal bar a class of shares [classes, 3] that add up to 1."""
    figure, axes = _axes("", "", title)
    left = np.zeros(len(values))
    for part, name, colour in zip(np.nan_to_num(values).T, labels, ("#9ecae1", "#4292c6", "#d64541"), strict=True):
        axes.barh(np.arange(len(values)), part, left=left, color=colour, label=name)
        left += part
    axes.set_yticks(np.arange(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    _legend(axes)
    return _svg(figure)


def learning_rates(rates: np.ndarray, losses: np.ndarray, smooth: np.ndarray, suggested: float) -> bytes:
    """SVG file: the loss over the learning rate, as it is and smoothed, and the rate that is suggested."""
    figure, axes = _axes("learning rate", "training loss", f"suggested: {suggested:g}")
    axes.plot(rates, losses, ".", color="#9ecae1")
    axes.plot(rates, smooth)
    axes.axvline(suggested, color="#d64541", linewidth=1)
    low, high = losses.min(), losses[: len(losses) // 2].max()
    axes.set(xscale="log", xlim=(rates[0], rates[-1]), ylim=(low - 0.1 * (high - low), high + 0.3 * (high - low)))
    return _svg_file(figure)


@as_typed()
def lines_with_intervals(lines: dict[str, list[tuple]], x: str, y: str, unit: str) -> str:
    """A line a name through points (x, value, low, high)."""
    figure, axes = _axes(x, y, f"{y} over {x}, with 95 % intervals")
    _in_unit(axes.yaxis, unit)
    for name, points in lines.items():
        at, values, low, high = np.array(points, float).T
        axes.errorbar(at, values, [values - low, high - values], marker="o", capsize=3, label=name or y)
    axes.autoscale()
    _legend_below(axes)
    return _svg(figure)


@as_typed()
def points(of: dict[str, tuple[float, float]], others: list[tuple[float, float]], x: str, y: str) -> str:
    """A point a name of two shares (x, y), before the grey ones of `others`."""
    figure, axes = _axes(x, y, "What is gained, and what is lost for it")
    axes.xaxis.get_major_locator().set_params(nbins=4)  # labels of close values are long
    _in_unit(axes.xaxis, "%")
    _in_unit(axes.yaxis, "%")
    if others:
        axes.plot(*zip(*others, strict=True), "o", color="#c5ccd4", label="other settings")
    for name, (across, up) in of.items():
        axes.plot(across, up, "o", label=name)
    axes.autoscale()
    _legend_below(axes)
    return _svg(figure)


@as_typed()
def curves_by_epoch(lines: dict[str, np.ndarray], y: str, title: str, unit: str, best: int | None = None) -> str:
    """A line a name, a value an epoch; `best` is an epoch to mark."""
    figure, axes = _axes("epoch", y, title)
    _in_unit(axes.yaxis, unit)
    for name, values in lines.items():
        values = np.array(values, float)  # None becomes NaN
        axes.plot(np.arange(1, len(values) + 1), values, label=name, marker="." if len(values) < 30 else None)
    if best is not None:
        axes.axvline(best, color="#d64541", linewidth=1)
    axes.autoscale()
    axes.xaxis.get_major_locator().set_params(integer=True)
    _legend_below(axes)
    return _svg(figure)


@as_typed()
def confusion_matrix(matrix: np.ndarray, names: list[str]) -> np.ndarray:
    """uint8 [H, W, 3]: the confusion matrix, each row (ground truth) in shares of its pixels."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    side = min(12.0, 2.5 + 0.45 * len(names))
    figure = Figure(figsize=(side, side), dpi=100, layout="constrained")
    axes, canvas = figure.subplots(), FigureCanvasAgg(figure)
    shares = row_shares(matrix)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(names)), names, rotation=90)
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="prediction", ylabel="ground truth")
    centred = {"ha": "center", "va": "center", "fontsize": 8, "in_layout": False}  # the layout need not measure each
    if len(names) <= 20:
        for (row, column), value in np.ndenumerate(shares):
            if value >= 0.005:
                colour = "white" if value > 0.5 else "black"
                axes.text(column, row, f"{100 * value:.0f}", color=colour, **centred)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def row_shares(matrix: np.ndarray) -> np.ndarray:
    """Each row divided by its sum."""
    return matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)


def _axes(x: str, y: str, title: str):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, HEIGHT), layout="constrained")
    axes = figure.subplots()
    axes.set(xlabel=x, ylabel=y, xlim=(0, 1), ylim=(0, 1.02))
    axes.set_title(title, fontsize=10, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _in_unit(axis, unit: str) -> None:
    """Numbers as the tables have them: a share in percent."""
    from matplotlib.ticker import PercentFormatter

    if unit == "%":
        axis.set_major_formatter(PercentFormatter(1, symbol=" %"))


def _legend(axes, title: str | None = None) -> None:
    axes.legend(title=title, fontsize=8, title_fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))


def _legend_below(axes) -> None:
    """For long names. The figure grows by them."""
    axes.figure.set_figheight(HEIGHT + 0.17 * len(axes.get_legend_handles_labels()[0]))
    axes.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(-0.1, -0.16))


def _svg(figure) -> str:
    """A data: address."""
    return f"data:image/svg+xml;base64,{base64.b64encode(_svg_file(figure)).decode()}"


def _svg_file(figure) -> bytes:
    """The same bytes for the same figure."""
    from matplotlib import rc_context

    stream = io.BytesIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "segtrain"}):
        figure.savefig(stream, format="svg", metadata={"Date": None})
    return stream.getvalue()
