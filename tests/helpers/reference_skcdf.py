"""SKCDF spelled out on a dictionary of weights, and the names and shapes of the authors' checkpoint.

Written after the method page alone: transposed convolutions, stored logits with instance normalization, loops
over samples and windows. Without dropout.
"""

import math

import torch
import torch.nn.functional as F  # noqa: N812

BLOCKS = ("one", "two", "three", "four", "five")
SCOPES = {
    "none": (),
    "local": ("local",),
    "global": ("global",),
    "local_global": ("local", "global"),
    "global_local": ("global", "local"),
    "parallel": ("local", "global"),
}


class ReferenceSKCDF:
    """Both passes with batch statistics in training, whose running averages are updated in ``weights``."""

    def __init__(self, weights, training, attention="local_global", pairing="cross", permuted_heads=True):
        self.weights = {n: v.clone() if "running" in n else v for n, v in weights.items()}
        self.training, self.attention, self.pairing = training, attention, pairing
        self.permuted_heads = permuted_heads

    def __call__(self, image, num_labeled=0):
        if not self.training:
            return self.decode(self.levels(image, False), "unlabeled")[:, 0]
        single = lambda: self.decode(self.levels(image[num_labeled:], False), "unlabeled")  # noqa: E731
        if not num_labeled:
            return single()
        is_decoupled = any(name.startswith("labeled_decoder") for name in self.weights)
        levels = self.levels(image, self.pairing == "cross")
        paired = self.decode(levels, "labeled" if is_decoupled else "unlabeled")
        return torch.cat([paired, single()])

    def of(self, name, *entries):
        return [self.weights.get(f"{name}.{entry}") for entry in entries]

    def normalized(self, features, name):
        statistics = self.of(name, "running_mean", "running_var", "weight", "bias")
        return F.relu(F.batch_norm(features, *statistics, training=self.training, momentum=0.1, eps=1e-5))

    def stage(self, features, name):
        index = 0
        while f"{name}.{index}.weight" in self.weights:
            features = F.conv3d(features, *self.of(f"{name}.{index}", "weight", "bias"), padding=1)
            features, index = self.normalized(features, f"{name}.{index + 1}"), index + 3
        return features

    def levels(self, image, is_paired):
        features, levels = image, []
        for level in range(5):
            if level:
                down = f"encoder.downs.{level}"
                features = F.conv3d(features, *self.of(f"{down}.0", "weight", "bias"), stride=2)
                features = self.normalized(features, f"{down}.1")
            features = self.stage(features, f"encoder.stages.{level}")
            levels.append(features)
        outputs = []
        for index, scope in enumerate(SCOPES[self.attention]):
            outputs.append(self.block(features, f"attention.{index}", scope, is_paired))
            if self.attention != "parallel":
                features = outputs[-1]
        return [*levels[:4], sum(outputs) if self.attention == "parallel" else features]

    def decode(self, levels, kind):
        features, name = levels[4], f"{kind}_decoder"
        for index in range(4):
            up = f"{name}.ups.{index}"
            features = F.conv_transpose3d(features, *self.of(f"{up}.0", "weight", "bias"), stride=2)
            features = self.normalized(features, f"{up}.1") + levels[3 - index]
            features = self.stage(features, f"{name}.stages.{index}")
        heads = [f"{name}.main_head", f"{name}.balanced_head"]
        found = [self.of(head, "weight", "bias") for head in heads if f"{head}.weight" in self.weights]
        return torch.stack([F.conv3d(features, *head) for head in found], 1)

    def block(self, features, name, scope, is_paired):
        batch, channels, *grid = features.shape
        window = (2, 2, 2) if scope == "local" else tuple(grid)
        kernel, bias = self.of(f"{name}.projection", "weight", "bias")
        columns, norm = (channels,), self.of(f"{name}.attention_norm", "weight", "bias")
        result = torch.zeros_like(features)
        for d in range(0, grid[0], window[0]):
            for h in range(0, grid[1], window[1]):
                for w in range(0, grid[2], window[2]):
                    at = [slice(start, start + size) for start, size in zip((d, h, w), window)]
                    voxels = features[:, :, at[0], at[1], at[2]].flatten(2)
                    tokens = (voxels @ kernel.flatten(1).T + bias).transpose(1, 2)
                    z = F.layer_norm(tokens, columns, *norm, eps=1e-6)
                    attended = self.across(z, name) if is_paired else self.within(z, name, scope, channels)
                    summed = attended @ self.weights[f"{name}.out.weight"].T + tokens
                    last = self.of(f"{name}.output_norm", "weight", "bias")
                    summed = F.layer_norm(summed, columns, *last, eps=1e-6)
                    result[:, :, at[0], at[1], at[2]] = summed.transpose(1, 2).unflatten(2, window)
        return F.gelu(F.conv3d(result, *self.of(f"{name}.mix", "weight", "bias")))

    def projected(self, z, name):
        parts = ("query", "key", "value")
        return [(z @ self.weights[f"{name}.{part}.weight"].T).transpose(1, 2) for part in parts]

    def across(self, z, name):
        """Rows of each query, key and value are the channels."""
        half = len(z) // 2
        query, key, value = self.projected(torch.cat([z[:half], z[half:].detach()]), name)
        rows = []
        for sample in range(2 * half):
            others = range(half, 2 * half) if sample < half else range(half)
            keys, values = (torch.cat([part[other] for other in others]) for part in (key, value))
            rows.append(softmax_of_normalized(query[sample] @ keys.T) @ values)
        return torch.stack(rows).transpose(1, 2)

    def within(self, z, name, scope, channels):
        query, key, value = self.projected(z, name)
        merged = torch.zeros_like(query)
        for sample in range(len(z)):
            for head in range(2):
                in_turns = torch.arange(head, 2 * channels, 2)
                in_blocks = torch.arange(head * channels, (head + 1) * channels)
                split = in_turns if scope == "local" else in_blocks
                merge = in_turns if scope == "local" or self.permuted_heads else in_blocks
                logits = query[sample, split] @ key[sample, split].T
                merged[sample, merge] = softmax_of_normalized(logits) @ value[sample, split]
        return merged.transpose(1, 2)


def softmax_of_normalized(logits):
    return F.instance_norm(logits[None, None], eps=1e-5)[0, 0].softmax(1)


def layer(name, kernel, outputs=None):
    return {f"{name}.weight": kernel, f"{name}.bias": (kernel[0] if outputs is None else outputs,)}


def norm(name, channels):
    entries = ("weight", "bias", "running_mean", "running_var")
    return {f"{name}.{entry}": (channels,) for entry in entries} | {f"{name}.num_batches_tracked": ()}


def stage(name, given, channels, depth):
    shapes = {}
    for index in range(depth):
        shapes |= layer(f"{name}.conv.{3 * index}", (channels, given if index == 0 else channels, 3, 3, 3))
        shapes |= norm(f"{name}.conv.{3 * index + 1}", channels)
    return shapes


def decoder(name, sizes, classes):
    shapes, ups, blocks = {}, ("five", "six", "seven", "eight"), ("six", "seven", "eight", "nine")
    for up, block, channels, depth in zip(ups, blocks, sizes[3::-1], (3, 3, 2, 1)):
        shapes |= layer(f"{name}.block_{up}_up.conv.0", (2 * channels, channels, 2, 2, 2), channels)
        shapes |= norm(f"{name}.block_{up}_up.conv.1", channels)
        shapes |= stage(f"{name}.block_{block}", channels, channels, depth)
    for head in ("out_conv9", "out_conv9_abc"):
        shapes |= layer(f"{name}.{head}", (classes, sizes[0], 1, 1, 1))
    return shapes


def attention(name, channels, window):
    shapes = {f"{name}.attn.{part}.weight": (2 * channels, channels) for part in ("q", "k", "v")}
    shapes[f"{name}.attn.out.weight"] = (channels, 2 * channels)
    for projection in ("proj", "map_in.0"):
        shapes |= layer(f"{name}.token_learner.{projection}", (math.prod(window), 1, *window))
    for normalization in ("attn_norm", "ffn_norm"):
        shapes |= layer(f"{name}.{normalization}", (channels,))
    return shapes | layer(f"{name}.map_out.0", (channels, channels, 1, 1, 1))


def released_shapes(width=32, classes=14, grid=(4, 8, 8)):
    """Names and shapes of all entries of the authors' checkpoint."""
    shapes, sizes = {}, [width * 2**level for level in range(5)]
    for block, given, channels, depth in zip(BLOCKS, (1, *sizes[1:]), sizes, (1, 2, 3, 3, 3)):
        shapes |= stage(f"encoder.block_{block}", given, channels, depth)
        if block != "five":
            shapes |= layer(f"encoder.block_{block}_dw.conv.0", (2 * channels, channels, 2, 2, 2))
            shapes |= norm(f"encoder.block_{block}_dw.conv.1", 2 * channels)
    for kind in "lu":
        shapes |= decoder(f"decoder_{kind}", sizes, classes)
    for scope, window in (("local", (2, 2, 2)), ("global", tuple(grid))):
        shapes |= attention(f"cross_attention_{scope}", sizes[4], window)
    return shapes
