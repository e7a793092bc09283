"""Evaluator handler that reports overlap from counts over all images, also as key metric."""

from __future__ import annotations

from ignite.engine import Engine

from common.engines.case_metrics import MaskMetrics
from common.errors import InputError
from common.metrics.averages import mean_over_classes
from common.metrics.confusion import confusion_matrix, dice_per_class, iou_per_class

NAMES = ("miou", "mdice", "foreground_iou", "foreground_dice", "image_miou")


class ConfusionMetrics(MaskMetrics):
    """Sum one confusion matrix over all images and processes, and report IoU and Dice of it.

    After each epoch ``engine.state.metrics`` holds, each name after ``prefix``: ``miou`` and ``mdice``, means
    over all classes with background; ``foreground_iou`` and ``foreground_dice``, means over the other
    classes; ``image_miou``, IoU of every image, averaged over images, then classes.
    ``engine.state.metric_details`` holds the values per class, background first: float64 (1, K) of ``miou``
    and ``mdice``, float64 (images, K) of ``image_miou``. Classes that are neither predicted nor there are
    ``nan`` and left out of means.

    In the table of ``EvaluationReport`` its rows are the classes with background, and the row ``mean`` is
    mIoU. It can be the key metric, and is then not listed among the handlers: ``key_val_metric={"val_miou":
    ConfusionMetrics(2)}`` publishes all of the above and compares ``val_miou``.

    MONAI's ``ConfusionMatrix`` handler counts in float32, from one-hot masks, and gives values per class, so
    that it cannot be a key metric; ignite's ``mIoU`` counts an absent class as 0.

    Args:
        num_classes: K, background included.
        prefix: start of all names.
        prediction_key: entry of the decollated output with class indices (1, spatial...).
        reference_key: likewise.

    Raises:
        InputError: fewer than two classes; attached under another name than its own; while running, shapes
            that differ or are not (1, spatial...), or values that are no class indices.
    """

    @property
    def names(self) -> list[str]:
        """Of all metrics."""
        return list(NAMES)

    def _measure(self, engine: Engine) -> None:
        for case in engine.state.output:
            prediction, reference = (case[key] for key in self.keys)
            for key, labels in zip(self.keys, (prediction, reference)):
                if labels.ndim < 2 or labels.shape[0] != 1:
                    raise InputError(
                        f"{key}: expected class indices (1, spatial...), found {tuple(labels.shape)}"
                    )
            try:
                matrix = confusion_matrix(prediction, reference, self.num_classes)
            except ValueError as error:
                raise InputError(f"{' and '.join(self.keys)}: {error}") from error
            self._values.append(matrix.cpu())

    def _publish(self, engine: Engine) -> None:
        matrices = self._values.get_buffer()  # (images, K, K)
        matrix = matrices.sum(dim=0)
        per_class = {"iou": iou_per_class(matrix), "dice": dice_per_class(matrix)}
        for measure, values in per_class.items():
            engine.state.metric_details[f"{self.prefix}m{measure}"] = values[None]
            engine.state.metrics[f"{self.prefix}m{measure}"] = mean_over_classes(values.numpy())
            foreground = mean_over_classes(values[1:].numpy())
            engine.state.metrics[f"{self.prefix}foreground_{measure}"] = foreground
        self._publish_details(engine, f"{self.prefix}image_miou", iou_per_class(matrices))
