"""Cross-domain U-Net: normalization before each convolution, one network for CT and MR slices.

Paper: Baydar et al., "Cross-Domain Segmentation with Adversarial Loss and Covariate Shift for Biomedical
Imaging", arXiv 2020.
Implements: the segmentation network ("DCN") of Tables 2 and 5, with the normalization of equations 3 and 4 in
either order, and a form of its two baselines Att-DCN and Cond-DCN.
Differs from the paper: it leaves most of the architecture open. Depth, widths, kernels, activation, initial
weights and the normalization of the input follow the authors' released code. Besides:
- padding is symmetric, and bilinear upsampling keeps pixel centers. The released code inherits other grids
  from its framework, which makes no difference to training from scratch.
- ``post`` changes the order alone; the released code's version differs in more, see :class:`CrossDomainUNet`.
- the baselines' form is our choice, see :class:`~common.networks.blocks.normalized_conv.UpNormalizedConv` and
  :class:`~common.networks.blocks.modality.ModalityCondition`.
Axes: B batch, C channels, K classes, H W space.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from common.networks.blocks.bounded_prelu import BoundedPReLU, project_slopes
from common.networks.blocks.conv_norm_folding import fold_modules, fold_state
from common.networks.blocks.modality import ModalityCondition, modulate
from common.networks.blocks.normalized_conv import (
    NORMS,
    WEIGHT_STD,
    NormalizedConv,
    UpNormalizedConv,
    initialize,
    normalization,
)
from common.networks.blocks.upsample import upsample

STRUCTURES = ("pre", "post")
DECODER_ACTIVATIONS = ("prelu", "relu")
KERNEL_SIZE = 5
SIZE_MULTIPLE = 16
INPUT_NORM_PAIR = (("", "input_norm"),)


class CrossDomainUNet(nn.Module):
    """U-Net of strided convolutions with summed skips, for slices or stacks of neighboring slices.

    Five encoder layers (strides 2, 2, 2, 2, 1), three decoder layers and a head, one convolution each. The
    defaults are the paper's Pre-BN-DCN; Pre-IN-DCN has ``norm="instance"``. The released code's conventional
    network is ``structure="post", first_kernel=5, input_norm="none", decoder_activation="relu"``.

    Call :meth:`project_slopes` after each step of the optimizer, or set ``clamp_in_forward``.

    Args:
        in_channels: slices of a stack, 2 T + 1.
        num_classes: classes including background, K.
        structure: ``pre`` (normalize before each convolution, the paper's proposal) or ``post`` (after it).
        norm: ``batch`` or ``instance``.
        input_norm: normalization of the image itself: ``instance``, ``batch`` or ``none``. Statistics of each
            slice by itself take out most of the offset between modalities.
        widths: channels of the five encoder layers.
        first_kernel: odd edge length of the first kernel, in pixels; the others have 5.
        decoder_activation: ``prelu`` or ``relu``.
        attention: gate the skips (Att-DCN).
        conditional: let a classifier of the modality scale and shift all layers (Cond-DCN). Its own loss is
            the caller's: ``cross_entropy(network.classify_modality(image), modality)``.
        clamp_in_forward: see :class:`~common.networks.blocks.bounded_prelu.BoundedPReLU`.
        fused: deployment form: batch normalizations folded into the convolutions. Accepts checkpoints of the
            training form; cannot be trained.

    Raises:
        ValueError: an argument outside the values above.
    """

    def __init__(  # noqa: PLR0913  (each argument is a factor of the paper's tables)
        self,
        in_channels: int = 3,
        num_classes: int = 2,
        structure: str = "pre",
        norm: str = "batch",
        input_norm: str = "instance",
        widths: Sequence[int] = (32, 64, 128, 256, 256),
        first_kernel: int = 11,
        decoder_activation: str = "prelu",
        attention: bool = False,
        conditional: bool = False,
        clamp_in_forward: bool = False,
        fused: bool = False,
    ) -> None:
        super().__init__()
        _check_choices(structure, norm, input_norm, decoder_activation)
        _check_sizes(widths, first_kernel)
        is_pre = structure == "pre"
        self.fused = False
        self.size_multiple = SIZE_MULTIPLE
        self.needs_two_pixels = norm == "instance"
        self.input_norm = normalization(input_norm, in_channels)
        self.encoder = nn.ModuleList()
        given = in_channels
        for index, width in enumerate(widths):
            # In the pre order the normalization before the first convolution is that of the input.
            own_norm = "none" if is_pre and index == 0 else norm
            kernel, stride = (first_kernel if index == 0 else KERNEL_SIZE), (2 if index < 4 else 1)
            activation: nn.Module = BoundedPReLU(width, clamp_in_forward)
            self.encoder.append(NormalizedConv(given, width, kernel, stride, own_norm, is_pre, activation))
            given = width
        self.decoder = nn.ModuleList()
        for width in widths[2::-1]:
            is_prelu = decoder_activation == "prelu"
            activation = BoundedPReLU(width, clamp_in_forward) if is_prelu else nn.ReLU()
            self.decoder.append(
                UpNormalizedConv(given, width, KERNEL_SIZE, norm, is_pre, activation, attention)
            )
            given = width
        self.head = nn.Conv2d(given, num_classes, KERNEL_SIZE, padding=KERNEL_SIZE // 2)
        self.apply(initialize)
        layers = [*widths, *widths[2::-1]]
        self.modality = ModalityCondition(in_channels, layers, WEIGHT_STD) if conditional else None
        if fused:
            self.fuse()

    def forward(self, image: Tensor) -> Tensor:
        """Logits of the image, in training and in evaluation.

        Args:
            image: float (B, in_channels, H, W), H and W divisible by 16; with instance normalization larger
                than 16 x 16, which would leave single pixels to normalize.

        Returns:
            (B, K, H, W).

        Raises:
            ValueError: another size.
            RuntimeError: a fused network in training mode.
        """
        if self.fused and self.training:
            raise RuntimeError("a fused network cannot be trained; build it with fused=False")
        self._check_image(image)
        conditions: list[Tensor] = []
        if self.modality is not None:
            conditions = self.modality.conditions(self.modality(image))
        features = self.input_norm(image)
        skips: list[Tensor] = []
        for index, layer in enumerate(self.encoder):
            features = layer(features)
            if self.modality is not None:
                features = modulate(features, conditions[index])
            skips.append(features)
        for index, layer in enumerate(self.decoder):
            features = layer(features, skips[2 - index])
            if self.modality is not None:
                features = modulate(features, conditions[5 + index])
        return self.head(upsample(features, 2))

    @torch.jit.export
    def classify_modality(self, image: Tensor) -> Tensor:
        """Logits of the image's modality, for the classifier's own loss: one tensor leaves ``forward``.

        Args:
            image: float (B, in_channels, H, W), as for ``forward``.

        Returns:
            (B, 2). The classifier keeps no statistics, so a training step may call this before or after
            ``forward``.

        Raises:
            ValueError: the network was built without ``conditional``.
        """
        if self.modality is not None:
            return self.modality(image)
        raise ValueError("classify_modality needs a network built with conditional=True")

    @torch.jit.unused
    def project_slopes(self) -> None:
        """Move all slopes of the activations back into [0.01, 0.1]; due after each step of the optimizer."""
        project_slopes(self)

    @torch.jit.unused
    def fuse(self) -> None:
        """Turn this network into its deployment form, for good: it cannot be trained any more.

        Batch normalizations go into the convolutions, with which their place relative to the upsampling no
        longer matters; instance normalizations stay, as their statistics differ from image to image.
        """
        if self.fused:
            return
        for layer in (*self.encoder, *self.decoder):
            layer.fuse()
        if isinstance(self.input_norm, nn.BatchNorm2d):
            fold_modules(self, INPUT_NORM_PAIR)
        self.fused = True

    def _check_image(self, image: Tensor) -> None:
        height, width = image.shape[-2], image.shape[-1]
        multiple = self.size_multiple
        if height % multiple != 0 or width % multiple != 0:
            raise ValueError(
                f"image: expected a height and a width divisible by {multiple}, got {height} x {width}"
            )
        if self.needs_two_pixels and height * width == multiple * multiple:
            raise ValueError(f"image: norm 'instance' needs more than {height} x {width} pixels")

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        if self.fused:
            fold_state(state_dict, prefix, INPUT_NORM_PAIR)
        super()._load_from_state_dict(state_dict, prefix, *args)


def _check_choices(structure: str, norm: str, input_norm: str, decoder_activation: str) -> None:
    for name, value, allowed in (
        ("structure", structure, STRUCTURES),
        ("norm", norm, NORMS[:2]),
        ("input_norm", input_norm, NORMS),
        ("decoder_activation", decoder_activation, DECODER_ACTIVATIONS),
    ):
        if value not in allowed:
            raise ValueError(f"{name} must be one of {allowed}, got {value!r}")


def _check_sizes(widths: Sequence[int], first_kernel: int) -> None:
    if len(widths) != 5 or min(widths) < 1:
        raise ValueError(f"widths must be five positive numbers, got {widths}")
    if first_kernel < 1 or first_kernel % 2 == 0:
        raise ValueError(f"first_kernel must be odd and positive, got {first_kernel}")
