"""The record of a score: what it means, which direction is better, its unit, where it is shown."""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Score:
    """A score, or a kind of score from which `part` makes those of means and of classes.

    Attributes:
        name: as `compute()` gives it, such as iou/mean.
        meaning: in a few words.
        unit: "%" for a share from 0 to 1, which is shown in percent; else the unit of the number, or "".
        kind, part: name is kind/part, such as iou and mean; part is "" for a score that has none.
        class_name: the class whose score it is.
        summary: whether it is one of the few to read first.
        section: heading of the table of classes that has a column for this kind.
        chart, label: title of the chart that has a bar for this kind, and the bar's name.
        tensorboard: tag in TensorBoard where it is not that of `tag`.
    """

    name: str
    meaning: str
    higher_is_better: bool = True
    unit: str = "%"
    part: str = ""
    class_name: str | None = None
    summary: bool = False
    section: str = ""
    chart: str = ""
    label: str = ""
    tensorboard: str = ""

    @property
    def kind(self) -> str:
        return self.name.removesuffix(f"/{self.part}") if self.part else self.name

    @property
    def tag(self) -> str:
        """In TensorBoard, which groups by what is before the first slash."""
        return self.tensorboard or (self.name if "/" in self.name else f"means/{self.name}")

    def of(self, part: str, words: str = "") -> "Score":
        """The record of kind/part; `words` go behind the meaning."""
        meaning = f"{self.meaning}; {words}" if words else self.meaning
        return replace(self, name=f"{self.name}/{part}", part=part, meaning=meaning)

    def means(self) -> list["Score"]:
        """kind/mean, kind/foreground."""
        over = "mean over the classes"
        return [self.of("mean", over), self.of("foreground", f"{over} without the background")]

    def of_classes(self, names: list[str]) -> list["Score"]:
        """kind/<class> for each class."""
        return [replace(self.of(name), class_name=name) for name in names]

    def everywhere(self, names: list[str]) -> list["Score"]:
        """As mean, foreground and of each class."""
        return self.means() + self.of_classes(names)


LOSS = Score("loss", "validation loss, with the terms and weights of training", False, unit="", tensorboard="loss/val")


def all_records(scores) -> dict[str, Score]:
    """A record for each score of a Metric, and for the loss."""
    return {**scores.records(), LOSS.name: LOSS}
