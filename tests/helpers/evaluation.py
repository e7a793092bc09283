"""A MONAI evaluator that judges given masks: the network returns its input, postprocessing one-hot masks."""

from __future__ import annotations

import torch
from monai.data import DataLoader, Dataset, MetaTensor
from monai.engines import SupervisedEvaluator
from monai.handlers import MeanDice, from_engine
from monai.transforms import AsDiscreted


def located(labels, spacing_mm=None, name="case"):
    """Label map or image (C, spatial...) as a MetaTensor with a diagonal affine and a file name."""
    tensor = torch.as_tensor(labels, dtype=torch.float32)
    spacing_mm = spacing_mm or [1.0] * (tensor.ndim - 1)
    affine = torch.diag(torch.tensor([*spacing_mm, *[1.0] * (5 - tensor.ndim), 1.0][:4], dtype=torch.float64))
    return MetaTensor(tensor, affine=affine, meta={"filename_or_obj": f"/data/{name}.nii.gz"})


def evaluate(cases, num_classes, handlers, additional_metrics=None, batch_size=1):
    """Run an evaluator over dicts of ``image`` (the predicted label map) and ``label``; return its state."""
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(Dataset(cases), batch_size=batch_size),
        network=torch.nn.Identity(),
        postprocessing=AsDiscreted(["pred", "label"], to_onehot=num_classes),
        key_val_metric={"val_mean_dice": MeanDice(False, output_transform=from_engine(["pred", "label"]))},
        additional_metrics=additional_metrics,
        val_handlers=handlers,
    )
    evaluator.run()
    return evaluator.state
