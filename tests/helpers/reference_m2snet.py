"""M2SNet spelled out from the method's tables, with dense filters of ones: slow, obvious, no modules.

It runs on a plain dictionary of tensors under the names of the authors' checkpoints. In training the running
statistics in that dictionary change as a batch normalization would change them.
"""

import re

import torch
import torch.nn.functional as F  # noqa: N812

_FIXED_NAMES = (
    ("encoder.", "resnet."),
    ("pyramid.difference.filters.", "conv_"),
    ("pyramid.before_last.", "x5_dem_4."),
    ("deepest.", "x5_dem_5."),
    ("complements.", "level"),
    ("decoders.", "output"),
    ("head.", "output1.0."),
)


def authors_name(name):
    """Name that an entry of our state dict has in the authors' checkpoints."""
    if match := re.fullmatch(r"pyramid\.orders\.(\d)\.(\d)\.(.*)", name):
        order, level = int(match[1]), int(match[2])
        compared = "_".join(f"x{i}" for i in range(level + order - 1, level - 1, -1))
        return f"{compared}.{match[3]}"
    if match := re.fullmatch(r"reduce\.(\d)\.(.*)", name):
        return f"x{match[1]}_dem_1.{match[2]}"
    return next(theirs + name.removeprefix(own) for own, theirs in _FIXED_NAMES if name.startswith(own))


class ReferenceM2SNet:
    """The method as a function of its weights."""

    def __init__(self, weights, training=False, with_filters=True):
        self.weights = weights
        self.training = training
        self.with_filters = with_filters

    def conv(self, name, x, stride=1):
        weight = self.weights[f"{name}.weight"]
        return F.conv2d(x, weight, self.weights.get(f"{name}.bias"), stride, weight.shape[-1] // 2)

    def norm(self, name, x):
        entries = [self.weights[f"{name}.{e}"] for e in ("running_mean", "running_var", "weight", "bias")]
        return F.batch_norm(x, *entries, training=self.training, momentum=0.1, eps=1e-5)

    def cbr(self, name, x):
        return F.relu(self.norm(f"{name}.1", self.conv(f"{name}.0", x)))

    def filtered(self, size, x):
        channels = x.shape[1]
        ones = torch.ones(channels, channels, size, size, dtype=x.dtype)
        return F.relu(self.norm(f"conv_{size}.norm", F.conv2d(x, ones, padding=size // 2)))

    def difference(self, a, b):
        total = (a - b).abs()
        if self.with_filters:
            for size in (3, 5):
                total = total + (self.filtered(size, a) - self.filtered(size, b)).abs()
        return total

    def unit(self, name, a, b):
        return self.cbr(name, self.difference(_up(a, b), b))

    def block(self, name, x, stride, is_first):
        groups = F.relu(self.norm(f"{name}.bn1", self.conv(f"{name}.conv1", x))).chunk(4, dim=1)
        y = []
        for i in range(3):
            given = groups[i] if i == 0 or is_first else groups[i] + y[i - 1]
            y.append(F.relu(self.norm(f"{name}.bns.{i}", self.conv(f"{name}.convs.{i}", given, stride))))
        y.append(F.avg_pool2d(groups[3], 3, stride, 1) if is_first else groups[3])
        out = self.norm(f"{name}.bn3", self.conv(f"{name}.conv3", torch.cat(y, dim=1)))
        if is_first:
            x = F.avg_pool2d(x, stride, stride, ceil_mode=True, count_include_pad=False)
            x = self.norm(f"{name}.downsample.2", self.conv(f"{name}.downsample.1", x))
        return F.relu(out + x)

    def encode(self, image):
        x = image
        for conv, norm, stride in (
            ("conv1.0", "conv1.1", 2),
            ("conv1.3", "conv1.4", 1),
            ("conv1.6", "bn1", 1),
        ):
            x = F.relu(self.norm(f"resnet.{norm}", self.conv(f"resnet.{conv}", x, stride)))
        levels = [F.max_pool2d(x, 3, 2, 1)]
        for stage in (1, 2, 3, 4):
            x, index = levels[-1], 0
            while f"resnet.layer{stage}.{index}.conv1.weight" in self.weights:
                stride = 2 if stage > 1 and index == 0 else 1
                x = self.block(f"resnet.layer{stage}.{index}", x, stride, is_first=index == 0)
                index += 1
            levels.append(x)
        return levels

    def __call__(self, image):
        e1, e2, e3, e4, e5 = self.encode(image)
        x5, x4 = self.cbr("x5_dem_1", e5), self.cbr("x4_dem_1", e4)
        x3, x2, x1 = self.cbr("x3_dem_1", e3), self.cbr("x2_dem_1", e2), e1
        x54, x43 = self.unit("x5_x4", x5, x4), self.unit("x4_x3", x4, x3)
        x32, x21 = self.unit("x3_x2", x3, x2), self.unit("x2_x1", x2, x1)
        x543, x432 = self.unit("x5_x4_x3", x54, x43), self.unit("x4_x3_x2", x43, x32)
        x321 = self.unit("x3_x2_x1", x32, x21)
        x5432, x4321 = self.unit("x5_x4_x3_x2", x543, x432), self.unit("x4_x3_x2_x1", x432, x321)
        x54321 = self.unit("x5_x4_x3_x2_x1", self.cbr("x5_dem_4", x5432), x4321)
        level3 = self.cbr("level3", x43 + x543)
        level2 = self.cbr("level2", x32 + x432 + x5432)
        level1 = self.cbr("level1", x21 + x321 + x4321 + x54321)
        output4 = self.cbr("output4", _up(self.cbr("x5_dem_5", e5), x54) + x54)
        output3 = self.cbr("output3", _up(output4, level3) + level3)
        output2 = self.cbr("output2", _up(output3, level2) + level2)
        return _up(self.conv("output1.0", _up(output2, level1) + level1), image)


def _up(x, other):
    return F.interpolate(x, size=other.shape[2:], mode="bilinear", align_corners=False)
