"""Describe the best epoch of a training: intervals, thresholds, and the run's page."""

from segtrain.class_counts import ClassCounts
from segtrain.commands.scoring import groups_of, intervals_of
from segtrain.config.saved import choices_of, defaults_of, settings_of
from segtrain.errors import ConfigError
from segtrain.report.pages.evaluation import write_evaluation_page
from segtrain.report.pages.training import training_facts
from segtrain.report.pictures import example
from segtrain.runs import checkpoints
from segtrain.runs.folder import RunFolder
from segtrain.runs.sweep import command_of
from segtrain.signals import leave_if_stopped
from segtrain.training import Parts, predict_one


def describe_best(run: RunFolder, parts: Parts, trainer, train_counts: ClassCounts) -> None:
    """Add intervals and thresholds of the best epoch to the run's result, and write its page."""
    scores, val_set = parts.scores, parts.val.dataset
    if not (counts := run.best_counts()):
        return  # a metric of the user's that keeps none
    try:
        if not set(counts["names"].tolist()) <= set(val_set.names):
            raise ValueError("other images")
        scores.restore(**{name: array for name, array in counts.items() if name != "groups"})
    except (KeyError, TypeError, ValueError) as error:
        what, file = f"not the counts of the best epoch: {error}", run.path / "per_image.npz"
        raise ConfigError(what, str(file), "restore the file") from error
    groups = groups_of(val_set, scores.names)
    run.result.intervals = intervals_of(scores, groups)
    if val_set.multilabel:
        run.result.thresholds = scores.best_thresholds()
    if val_set.multilabel and parts.inference.presence is None:
        run.result.cross_fitted = scores.cross_fitted(groups)
    parts.model.load_state_dict(checkpoints.read_weights(run.checkpoints, "best"))
    predictor = trainer.predictor(parts.model, val_set, parts.inference)

    def draw(index: int, label: int | None):
        leave_if_stopped()  # what is missing of the page is made by `resume`
        return example(val_set, index, [predict_one(predictor, val_set.image(index))], True, label)

    best, settings = run.result.best, settings_of(run.path)
    defaults, command = defaults_of(choices_of(run.path), settings), command_of(run.path)
    weights, monitor = settings["class_weights"], trainer.monitored(scores)
    facts = training_facts(settings, defaults, train_counts, weights, run.rows, best, monitor, command)
    title = f"{run.path.name}, best epoch {best['epoch']}"
    write_evaluation_page(run.path / "page.html", title, scores, run.result, val_set, draw, facts)
