"""The metric on which runs are compared: an accuracy of this package's trials, or a column of imported results."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Metric:
    """A number measured for each finished run.

    Attributes:
        name: Key of the number in a record.
        noun: Its name in a sentence.
        share: Whether it is a fraction of 1, shown in percent, with intervals inside 0 and 1. Otherwise a plain number.
        lower_is_better: Whether the best cell is that of lowest mean.
        of_images: Whether it is the share of images that are right, so that the step between two values is known, and
            intervals may refer to new images.
    """

    name: str
    noun: str
    share: bool = True
    lower_is_better: bool = False
    of_images: bool = True

    @property
    def sign(self) -> float:
        """1, or -1 where lower is better: sign * value is larger for the better run."""
        return -1.0 if self.lower_is_better else 1.0


VALIDATION = Metric("val_accuracy", "validation accuracy")
TEST = Metric("test_accuracy", "test accuracy")
ACCURACIES = {metric.name: metric for metric in (VALIDATION, TEST)}
