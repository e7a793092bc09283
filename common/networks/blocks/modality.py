"""A small classifier of the modality whose answer conditions every layer of a segmentation network.

Paper: Baydar et al., "Cross-Domain Segmentation with Adversarial Loss and Covariate Shift for Biomedical
Imaging", arXiv 2020.
Implements: what the paper says of its baseline "Cond-DCN": an auxiliary network classifies the modality, and
its prediction conditions all layers.
Differs from the paper: it gives no form, and the work that it cites for this baseline is of another kind. All
details are our choice: three strided convolutions, the mean over the image, and a scale and a shift per
channel that are linear in the softmax of two modalities.
Axes: B batch, C channels, H W space.
"""

from collections.abc import Sequence

from torch import Tensor, nn

NUM_MODALITIES = 2
CLASSIFIER_WIDTHS = (16, 32, 32)


def modulate(features: Tensor, condition: Tensor) -> Tensor:
    """Scale and shift the channels of each sample.

    Args:
        features: float (B, C, H, W).
        condition: float (B, 2 C), by how much each channel's scale differs from 1, then the shifts.

    Returns:
        (B, C, H, W).
    """
    scale, shift = condition.unsqueeze(-1).unsqueeze(-1).chunk(2, dim=1)
    return features * (1 + scale) + shift


class ModalityCondition(nn.Module):
    """Classifier of the modality, and what its answer means for each layer.

    The segmentation loss reaches the classifier through the softmax; its own loss is up to the training step.
    It has no normalization, so that it can be called twice per step without a trace.

    Args:
        in_channels: channels of the image.
        layer_channels: C of each layer to condition.
        weight_std: standard deviation of the initial scales and shifts. Zero would cut the classifier off.
    """

    def __init__(self, in_channels: int, layer_channels: Sequence[int], weight_std: float) -> None:
        super().__init__()
        stages: list[nn.Module] = []
        for width in CLASSIFIER_WIDTHS:
            stages += [nn.Conv2d(in_channels, width, 5, stride=2, padding=2), nn.ReLU(inplace=True)]
            in_channels = width
        self.stages = nn.Sequential(*stages)
        self.classifier = nn.Linear(in_channels, NUM_MODALITIES)
        # No bias: the shares add up to 1, so any common part is in the weights already.
        self.tables = nn.ModuleList(
            nn.Linear(NUM_MODALITIES, 2 * channels, bias=False) for channels in layer_channels
        )
        for module in self.stages:
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias)
        for table in self.tables:
            nn.init.normal_(table.weight, std=weight_std)

    def forward(self, image: Tensor) -> Tensor:
        """Logits of the modalities, (B, 2), of an image (B, in_channels, H, W) of any size."""
        return self.classifier(self.stages(image).mean([2, 3]))

    def conditions(self, modality_logits: Tensor) -> list[Tensor]:
        """What :func:`modulate` needs at each layer.

        Args:
            modality_logits: float (B, 2).

        Returns:
            One (B, 2 C) per layer.
        """
        shares = modality_logits.softmax(dim=1)
        results: list[Tensor] = []
        for table in self.tables:
            results.append(table(shares))
        return results
