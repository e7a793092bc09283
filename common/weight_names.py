"""Names of tensors in weight files that others have released, and where they belong in our networks.

Tables only: :mod:`common.import_weights` applies them. One entry of :data:`RELEASED` per kind of file; a new
method adds an entry and nothing else.

Sources: Zhao et al., "M2SNet: Multi-scale in Multi-scale Subtraction Network for Medical Image Segmentation",
2023, arXiv:2303.10894, and its released code (M2SNet and MSNet); Gao et al., "Res2Net: A New Multi-scale
Backbone Architecture", TPAMI 2021, arXiv:1904.01169; torchvision's VGG-16; Zhang et al., "A Semantic
Knowledge Complementarity based Decoupling Framework for Semi-supervised Class-imbalanced Medical Image
Segmentation" (SKCDF), CVPR 2025, and its released code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import nn

from common.networks.encoders.res2net import CLASSIFIER, Res2Net
from common.networks.m2snet import M2SNet, MSNet
from common.networks.skcdf import SKCDF

# The address that the authors' own model code uses.
RES2NET_URL = "https://shanghuagao.oss-cn-beijing.aliyuncs.com/res2net/res2net50_v1b_26w_4s-3cf99910.pth"


@dataclass(frozen=True)
class ReleasedNames:
    """How one kind of weight file names its tensors.

    Attributes:
        title: what the file is, for messages.
        build: makes the network in its published form. Called on the meta device, for names and shapes only.
        part: submodule of a bundle's network that the file fills, "" for all of it; ``None`` if the file is
            no part of a bundle's network.
        has: the file is of this kind if for each of these a tensor's name begins with it ...
        lacks: ... and for none of these.
        prefixes: pairs (beginning of a name in the file, beginning of our name), one to one. A name that no
            pair fits is the same on both sides.
        unused: full names of tensors that may be present and have no counterpart.
        constants: the same for tensors whose elements must all have one value, because our network computes
            with this value instead of a tensor.
        url: public address of such a file, whose name ends with the start of its SHA-256; ``None`` if none is
            known.
    """

    title: str
    build: Callable[[], nn.Module]
    part: str | None = ""
    has: tuple[str, ...] = ()
    lacks: tuple[str, ...] = ()
    prefixes: tuple[tuple[str, str], ...] = ()
    unused: tuple[str, ...] = ()
    constants: Mapping[str, float] = field(default_factory=dict)
    url: str | None = None

    def name_in_file(self, own_name: str) -> str:
        """Name that a tensor of our network has in the file; of several prefixes that fit, the longest."""
        pairs = [pair for pair in self.prefixes if own_name.startswith(pair[1])]
        theirs, ours = max(pairs, key=lambda pair: len(pair[1]), default=("", ""))
        return theirs + own_name.removeprefix(ours)


def _pyramid_prefixes() -> list[tuple[str, str]]:
    """Units are called after the levels that they have seen: ``x4_x3_x2`` is order 3 at level 2."""
    pairs = []
    for order in range(2, 6):
        for level in range(6 - order, 0, -1):
            seen = range(level + order - 1, level - 1, -1)
            pairs.append(("_".join(f"x{i}" for i in seen) + ".", f"pyramid.orders.{order}.{level}."))
    return pairs


_M2SNET = (
    ("resnet.", "encoder."),
    *((f"x{level}_dem_1.", f"reduce.{level}.") for level in (5, 4, 3, 2)),
    *_pyramid_prefixes(),
    ("x5_dem_4.", "pyramid.before_last."),
    ("x5_dem_5.", "deepest."),
    *((f"level{level}.", f"complements.{level}.") for level in (3, 2, 1)),
    *((f"output{level}.", f"decoders.{level}.") for level in (4, 3, 2)),
    ("output1.0.", "head."),
    # MSNet has no filters.
    *((f"conv_{size}.norm.", f"pyramid.difference.filters.{size}.norm.") for size in (3, 5)),
)
# Files of the released class hold no weights of the filters of ones, others may.
_ONES = {f"conv_{size}.{name}": value for size in (3, 5) for name, value in (("weight", 1.0), ("bias", 0.0))}
_ENCODER_CLASSIFIER = tuple(f"resnet.{name}" for name in CLASSIFIER)

# Number of the layer in torchvision's ``features``: channels in, channels out.
_VGG16_USED = {0: (3, 64), 2: (64, 64), 5: (64, 128), 7: (128, 128), 10: (128, 256), 12: (256, 256)}
_VGG16_USED |= {14: (256, 256), 17: (256, 512), 19: (512, 512), 21: (512, 512)}
_VGG16_UNUSED = tuple(
    f"{layer}.{name}"
    for layer in ("features.24", "features.26", "features.28", "classifier.0", "classifier.3", "classifier.6")
    for name in ("weight", "bias")
)


# Blocks of the released V-Net are numbered through; a decoder's first step up follows the encoder's fifth.
_VNET_BLOCKS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_SKCDF_BLOCKS = ("cross_attention_local.", "cross_attention_global.")
_SKCDF_LAYERS = (
    ("token_learner.proj.", "projection."),
    ("attn_norm.", "attention_norm."),
    ("attn.q.", "query."),
    ("attn.k.", "key."),
    ("attn.v.", "value."),
    ("attn.out.", "out."),
    ("ffn_norm.", "output_norm."),
    ("map_out.0.", "mix."),
)
# A second projection, which the released network has but never calls.
_SKCDF_UNUSED = tuple(
    f"{block}token_learner.map_in.0.{name}" for block in _SKCDF_BLOCKS for name in ("weight", "bias")
)


def _skcdf_prefixes() -> list[tuple[str, str]]:
    pairs = []
    for level, name in enumerate(_VNET_BLOCKS[:5]):
        pairs.append((f"encoder.block_{name}.conv.", f"encoder.stages.{level}."))
        pairs.append((f"encoder.block_{name}_dw.conv.", f"encoder.downs.{level + 1}."))
    for theirs, ours in (("decoder_l.", "labeled_decoder."), ("decoder_u.", "unlabeled_decoder.")):
        for index in range(4):
            up, stage = _VNET_BLOCKS[4 + index : 6 + index]
            pairs.append((f"{theirs}block_{up}_up.conv.", f"{ours}ups.{index}."))
            pairs.append((f"{theirs}block_{stage}.conv.", f"{ours}stages.{index}."))
        pairs.append((f"{theirs}out_conv9.", f"{ours}main_head."))
        pairs.append((f"{theirs}out_conv9_abc.", f"{ours}balanced_head."))
    for index, block in enumerate(_SKCDF_BLOCKS):
        pairs += [(block + theirs, f"attention.{index}.{ours}") for theirs, ours in _SKCDF_LAYERS]
    return pairs


def _vgg16() -> nn.Module:
    """The convolutions of VGG-16 that the feature distance uses, by torchvision's names."""
    layers = {str(number): nn.Conv2d(*channels, 3) for number, channels in _VGG16_USED.items()}
    return nn.ModuleDict({"features": nn.ModuleDict(layers)})


RELEASED: dict[str, ReleasedNames] = {
    "m2snet": ReleasedNames(
        title="M2SNet as its authors released it",
        build=M2SNet,
        has=("resnet.", "x5_x4.", "conv_"),
        prefixes=_M2SNET,
        unused=_ENCODER_CLASSIFIER,
        constants=_ONES,
    ),
    "msnet": ReleasedNames(
        title="MSNet as its authors released it",
        build=MSNet,
        has=("resnet.", "x5_x4."),
        lacks=("conv_",),
        prefixes=_M2SNET,
        unused=_ENCODER_CLASSIFIER,
    ),
    "res2net50_v1b": ReleasedNames(
        title="Res2Net-50 v1b 26w x 4s trained on ImageNet (its authors' file, or timm's res2net50d)",
        build=Res2Net,
        part="encoder",
        has=("conv1.0.", "bn1.", "layer1.0.convs."),
        unused=CLASSIFIER,
        url=RES2NET_URL,
    ),
    "vgg16": ReleasedNames(
        title="torchvision's VGG-16 without batch normalization, trained on ImageNet, for the feature loss",
        build=_vgg16,
        part=None,
        has=("features.0.", "features.21."),
        lacks=("features.1.",),
        unused=_VGG16_UNUSED,
    ),
    "skc_synapse": ReleasedNames(
        title="SKCDF as its authors' code saves it",
        build=SKCDF,
        has=("encoder.block_one.", "decoder_l.", "decoder_u.", *_SKCDF_BLOCKS),
        prefixes=tuple(_skcdf_prefixes()),
        unused=_SKCDF_UNUSED,
    ),
}
