"""DMNet spelled out from the method's tables: slow, obvious, no modules.

It runs on a plain dictionary of tensors under the names of our state dicts and tells what is there from the
names: kinds of blocks and decoders, one encoder or two. Running statistics in the dictionary change in
training as batch normalizations would change them.
"""

import torch
import torch.nn.functional as F  # noqa: N812


class ReferenceDMNet:
    """The method as a function of its weights."""

    def __init__(self, weights, training=False):
        self.weights = {key: value.clone() for key, value in weights.items()}
        self.training = training

    def conv(self, name, x, stride=1, rate=1):
        weight = self.weights[f"{name}.weight"]
        margin = weight.shape[-1] // 2 * rate
        return F.conv2d(x, weight, self.weights.get(f"{name}.bias"), stride, margin, rate)

    def norm(self, name, x):
        entries = [self.weights[f"{name}.{e}"] for e in ("running_mean", "running_var", "weight", "bias")]
        return F.batch_norm(x, *entries, training=self.training, momentum=0.1, eps=1e-5)

    def cbr(self, name, x, rate=1):
        return F.relu(self.norm(f"{name}.1", self.conv(f"{name}.0", x, 1, rate)))

    def block(self, name, x, stride, first_rate, rate):
        """``first_rate`` belongs to the convolution that has the stride, ``rate`` to those after it."""
        if f"{name}.conv3.weight" in self.weights:
            steps = [(1, 1), (stride, first_rate), (1, 1)]
        else:
            steps = [(stride, first_rate), (1, rate)]
        y = x
        for index, (step, distance) in enumerate(steps, start=1):
            y = self.norm(f"{name}.bn{index}", self.conv(f"{name}.conv{index}", y, step, distance))
            y = F.relu(y) if index < len(steps) else y
        if f"{name}.downsample.0.weight" in self.weights:
            x = self.norm(f"{name}.downsample.1", self.conv(f"{name}.downsample.0", x, stride))
        return F.relu(x + y)

    def encode(self, prefix, image):
        levels = [F.relu(self.norm(f"{prefix}bn1", self.conv(f"{prefix}conv1", image, 2)))]
        x = F.max_pool2d(levels[0], 3, 2, 1)
        for stage in (1, 2, 3, 4):
            index = 0
            while f"{prefix}layer{stage}.{index}.conv1.weight" in self.weights:
                stride = 2 if stage in (2, 3) and index == 0 else 1
                rate = 2 if stage == 4 else 1
                first_rate = 1 if index == 0 else rate
                x = self.block(f"{prefix}layer{stage}.{index}", x, stride, first_rate, rate)
                index += 1
            levels.append(x)
        return levels

    def unet(self, prefix, levels, size):
        f0, f1, f2, f3, f4 = levels
        x = torch.cat([f4, f3], 1)
        for index, skip in enumerate((f2, f1, f0, None)):
            x = self.cbr(f"{prefix}steps.{index}.1", self.cbr(f"{prefix}steps.{index}.0", x))
            x = _up(x, size) if skip is None else torch.cat([_up(x, skip.shape[2:]), skip], 1)
        x = self.cbr(f"{prefix}steps.4.1", self.cbr(f"{prefix}steps.4.0", x))
        return self.conv(f"{prefix}head", x)

    def pyramid(self, prefix, x):
        parts = [self.cbr(f"{prefix}branches.{i}", x, rate) for i, rate in enumerate((1, 6, 12, 18))]
        mean = x.sum((2, 3), keepdim=True) / (x.shape[2] * x.shape[3])
        parts.append(self.cbr(f"{prefix}whole", mean).repeat(1, 1, *x.shape[2:]))
        return self.cbr(f"{prefix}projection", torch.cat(parts, 1))

    def deeplab(self, prefix, levels, size):
        fine = self.cbr(f"{prefix}reduce", levels[1])
        x = torch.cat([_up(self.pyramid(f"{prefix}context.", levels[4]), fine.shape[2:]), fine], 1)
        x = self.cbr(f"{prefix}refine.1", self.cbr(f"{prefix}refine.0", x))
        return _up(self.conv(f"{prefix}head", x), size)

    def __call__(self, image):
        """Stacked logits in training, else the logarithm of the mean of probabilities."""
        last = "encoders.1." if "encoders.1.conv1.weight" in self.weights else "encoders.0."
        branches = []
        pyramids = {prefix: self.encode(prefix, image) for prefix in sorted({"encoders.0.", last})}
        for prefix, levels in (("decoders.0.", pyramids["encoders.0."]), ("decoders.1.", pyramids[last])):
            is_unet = f"{prefix}steps.0.0.0.weight" in self.weights
            branches.append((self.unet if is_unet else self.deeplab)(prefix, levels, image.shape[2:]))
        if self.training:
            return torch.stack(branches, 1)
        odds = [torch.exp(branch - branch.amax(1, keepdim=True)) for branch in branches]
        return torch.log(sum(x / x.sum(1, keepdim=True) for x in odds) / 2)


def judge(weights, masks):
    """The discriminator; its transposed convolutions as convolutions of images with zeros in between."""
    x = masks
    for index in (0, 2, 4):
        x = F.relu(F.conv2d(x, weights[f"layers.{index}.weight"], weights[f"layers.{index}.bias"], 2, 1))
    for index in (6, 8, 10):
        spread = x.new_zeros(*x.shape[:2], 2 * x.shape[2] - 1, 2 * x.shape[3] - 1)
        spread[:, :, ::2, ::2] = x
        kernel = weights[f"layers.{index}.weight"].transpose(0, 1).flip(2, 3)
        x = F.conv2d(spread, kernel, weights[f"layers.{index}.bias"], padding=2)
        x = F.relu(x) if index < 10 else x
    return x


def dice_loss(first, second, squared=False):
    """One minus the mean Dice of each image and class of two stacks of maps (B, K, H, W)."""
    total, power = 0.0, 2 if squared else 1
    batch, classes = first.shape[:2]
    for b in range(batch):
        for k in range(classes):
            both = sum(x * y for x, y in zip(first[b, k].flatten(), second[b, k].flatten()))
            each = sum(x**power + y**power for x, y in zip(first[b, k].flatten(), second[b, k].flatten()))
            total = total + 2 * both / each
    return 1 - total / (batch * classes)


def _up(x, size):
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)
