"""The cross-domain method's networks spelled out from their tables: slow, obvious, no modules.

They run on a plain dictionary of tensors under the names of our state dicts and tell what is there from the
names: attention gates, a condition, activations without slopes.
"""

import torch
import torch.nn.functional as F  # noqa: N812


def randomize(module):
    """Give every entry of a module's state dict a random value usual for its kind, in float64."""
    values = {}
    for key, value in module.state_dict().items():
        kind = key.rpartition(".")[2]
        if kind == "num_batches_tracked":
            values[key] = value
        elif kind == "slope":
            values[key] = torch.empty(value.shape, dtype=torch.float64).uniform_(0.01, 0.1)
        elif kind == "running_var":
            values[key] = torch.empty(value.shape, dtype=torch.float64).uniform_(0.5, 2)
        else:
            fan_in = value[0].numel() if value.dim() > 1 else 4
            values[key] = torch.randn(value.shape, dtype=torch.float64) / fan_in**0.5
    module.double().load_state_dict(values)
    return module


class ReferenceCrossDomain:
    """Generator and discriminator as functions of their weights."""

    def __init__(self, weights, structure="pre", norm="batch", input_norm="instance", training=False):
        self.weights = {key: value.clone() for key, value in weights.items()}
        self.structure, self.kind, self.input_kind, self.training = structure, norm, input_norm, training

    def conv(self, name, x, stride=1):
        weight = self.weights[f"{name}.weight"]
        return F.conv2d(x, weight, self.weights[f"{name}.bias"], stride, weight.shape[-1] // 2)

    def norm(self, name, x, kind="batch"):
        if kind == "none":
            return x
        axes = (0, 2, 3) if kind == "batch" else (2, 3)
        mean, variance = x.mean(axes, keepdim=True), x.var(axes, correction=0, keepdim=True)
        if kind == "batch" and not self.training:
            mean, variance = (
                self.weights[f"{name}.running_{e}"].reshape(1, -1, 1, 1) for e in ("mean", "var")
            )
        scale, shift = (self.weights[f"{name}.{e}"].reshape(1, -1, 1, 1) for e in ("weight", "bias"))
        return (x - mean) / (variance + 1e-5).sqrt() * scale + shift

    def act(self, name, x):
        if f"{name}.slope" not in self.weights:
            return torch.maximum(x, torch.zeros_like(x))
        slope = self.weights[f"{name}.slope"].reshape(1, -1, *[1] * (x.dim() - 2))
        return torch.where(x > 0, x, slope * x)

    def gated(self, name, x, skip):
        if f"{name}.W_g.0.conv.weight" not in self.weights:
            return skip
        both = [
            self.norm(f"{name}.{b}.1", self.conv(f"{name}.{b}.0.conv", v))
            for b, v in (("W_g", x), ("W_x", skip))
        ]
        answer = self.norm(f"{name}.psi.1", self.conv(f"{name}.psi.0.conv", torch.relu(both[0] + both[1])))
        return skip / (1 + torch.exp(-answer))

    def layer(self, name, x, stride, skip=None):
        is_first = name == "encoder.0"
        if self.structure == "pre" and not is_first:
            x = self.norm(f"{name}.norm", x, self.kind)
        x = self.conv(f"{name}.conv", x, stride)
        x = x if skip is None else x + skip
        if self.structure == "post":
            x = self.norm(f"{name}.norm", x, self.kind)
        return self.act(f"{name}.activation", x)

    def modality(self, image):
        x = image
        for index in (0, 2, 4):
            x = torch.relu(self.conv(f"modality.stages.{index}", x, 2))
        weight, bias = (self.weights[f"modality.classifier.{e}"] for e in ("weight", "bias"))
        return x.mean((2, 3)) @ weight.T + bias

    def conditioned(self, index, x, image):
        if f"modality.tables.{index}.weight" not in self.weights:
            return x
        shares = torch.exp(self.modality(image))
        shares = shares / shares.sum(1, keepdim=True)
        scale, shift = (shares @ self.weights[f"modality.tables.{index}.weight"].T).split(x.shape[1], dim=1)
        return x + x * scale[:, :, None, None] + shift[:, :, None, None]

    def segment(self, image):
        x = self.norm("input_norm", image, self.input_kind)
        encoded = []
        for index, stride in enumerate((2, 2, 2, 2, 1)):
            x = self.conditioned(index, self.layer(f"encoder.{index}", x, stride), image)
            encoded.append(x)
        for index, skip in enumerate((encoded[2], encoded[1], encoded[0])):
            x = _up(x)
            skip = self.gated(f"decoder.{index}.gate", x, skip)
            x = self.conditioned(5 + index, self.layer(f"decoder.{index}", x, 1, skip), image)
        return self.conv("head", _up(x))

    def judge(self, image, masks):
        x = torch.cat([image, masks], dim=1)
        for index in range(5):
            x = self.norm(f"features.{index}.norm", self.conv(f"features.{index}.conv", x, 2))
            x = self.act(f"features.{index}.activation", x)
        dense = [[self.weights[f"judge.{i}.{e}"] for e in ("weight", "bias")] for i in (1, 3)]
        x = self.act("judge.2", x.reshape(x.shape[0], -1) @ dense[0][0].T + dense[0][1])
        return x @ dense[1][0].T + dense[1][1]


def _up(x):
    size = [2 * edge for edge in x.shape[2:]]
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)
