"""Discriminators: networks that tell reference masks from predicted ones, needed in training only.

Paper: Baydar et al., "Cross-Domain Segmentation with Adversarial Loss and Covariate Shift for Biomedical
Imaging", arXiv 2020.
Implements: the conditional adversarial network ("CAN").
Differs from the paper: it says no more than that the image is an input, too. Layers, widths and activation
follow the authors' released code. The dense layer follows the configured size.
Axes: B batch, C channels, K classes, H W space.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from common.networks.blocks.bounded_prelu import BoundedPReLU, project_slopes
from common.networks.blocks.normalized_conv import NormalizedConv, initialize

KERNEL_SIZE = 5


class ConditionalDiscriminator(nn.Module):
    """One logit per sample: does this mask belong to this image, and did it come from a person?

    Strided convolutions in the conventional order, then two dense layers, so that it is tied to one image
    size. Keep it in training mode in the steps of both players, and give it real and predicted masks in
    separate batches, each with its own statistics. Call :meth:`project_slopes` after each step of its
    optimizer, or set ``clamp_in_forward``.

    Args:
        in_channels: channels of image and masks together (the paper's setting: 3 slices + 2 classes).
        image_size: edge length in pixels, or (height, width); divisible by 32 with five widths.
        widths: output channels of the convolutions, each of which halves the size.
        hidden: width of the first dense layer.
        clamp_in_forward: see :class:`~common.networks.blocks.bounded_prelu.BoundedPReLU`.

    Raises:
        ValueError: the size is not divisible.
    """

    def __init__(
        self,
        in_channels: int,
        image_size: int | Sequence[int] = 256,
        widths: Sequence[int] = (32, 32, 32, 32, 32),
        hidden: int = 256,
        clamp_in_forward: bool = False,
    ) -> None:
        super().__init__()
        height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
        multiple = 2 ** len(widths)
        if min(height, width) < 1 or height % multiple or width % multiple:
            raise ValueError(f"image_size must be divisible by {multiple}, got {height} x {width}")
        self.in_channels = in_channels
        self.height, self.width = height, width
        layers = []
        given = in_channels
        for channels in widths:
            activation = BoundedPReLU(channels, clamp_in_forward)
            layers.append(NormalizedConv(given, channels, KERNEL_SIZE, 2, "batch", False, activation))
            given = channels
        self.features = nn.Sequential(*layers)
        self.judge = nn.Sequential(
            nn.Flatten(),
            nn.Linear(given * (height // multiple) * (width // multiple), hidden),
            BoundedPReLU(hidden, clamp_in_forward),
            nn.Linear(hidden, 1),
        )
        self.apply(initialize)

    def forward(self, image: Tensor, masks: Tensor) -> Tensor:
        """Logits: high for what looks like a reference (with ``literal_sigmoid`` losses: low).

        Args:
            image: float (B, C, H, W), the preprocessed intensities that the segmentation network gets.
            masks: float (B, K, H, W): reference as one map per class, or softmax probabilities, with their
                gradient where the segmentation network is to learn from the answer.

        Returns:
            (B, 1).

        Raises:
            ValueError: another size than ``image_size``, or another number of channels than ``in_channels``.
        """
        for name, given in (("image", image), ("masks", masks)):
            if given.shape[-2] != self.height or given.shape[-1] != self.width:
                raise ValueError(
                    f"{name}: expected {self.height} x {self.width}, the image_size of this discriminator,"
                    f" got {given.shape[-2]} x {given.shape[-1]}"
                )
        pair = torch.cat([image, masks], 1)
        if pair.shape[1] != self.in_channels:
            raise ValueError(
                f"image and masks: expected {self.in_channels} channels together, got {pair.shape[1]}"
            )
        return self.judge(self.features(pair))

    @torch.jit.unused
    def project_slopes(self) -> None:
        """Move all slopes of the activations back into [0.01, 0.1]; due after each step of the optimizer."""
        project_slopes(self)
