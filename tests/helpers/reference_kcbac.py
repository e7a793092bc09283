"""kCBAC-Net spelled out block by block from the method's tables: slow, obvious, and with other operations.

Finer features are pooled in one step, coarser ones upsampled before (not after) their 1x1 convolution, and
the branches of a convolution are summed as in the paper. Only the weights come from the network under test.
"""

import torch
import torch.nn.functional as F  # noqa: N812


def _asymmetric(module, x):
    total = 0
    for branch in module.branches:
        weight = branch.conv.weight
        padding = [edge // 2 for edge in weight.shape[2:]]
        convolve = F.conv3d if x.dim() == 5 else F.conv2d
        norm = branch.norm
        y = convolve(x, weight, padding=padding)
        total = total + F.batch_norm(y, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=1e-5)
    return total


def _block(module, parts):
    x = torch.cat(parts, dim=1)
    return F.relu(_asymmetric(module[2], F.relu(_asymmetric(module[0], x))))


def _pool(x, factor):
    if factor == 1:
        return x
    return F.max_pool3d(x, factor) if x.dim() == 5 else F.max_pool2d(x, factor)


def _up(x, factor):
    mode = "trilinear" if x.dim() == 5 else "bilinear"
    return x if factor == 1 else F.interpolate(x, scale_factor=factor, mode=mode, align_corners=False)


def _network(module, image, guests):
    """``guests`` maps E1.., B, D1.. to lists of tensors; returns the same names mapped to outputs."""
    scales = len(module.encoders)
    out = {}
    below = image
    for i in range(1, scales + 1):
        out[f"E{i}"] = _block(module.encoders[i - 1], [below, *guests.get(f"E{i}", [])])
        below = _pool(out[f"E{i}"], 2)
    out["B"] = _block(module.bridge, [below, *guests.get("B", [])])
    y = out["B"]
    for j in range(1, scales + 1):
        decoder = module.decoders[j - 1]
        level = scales + 1 - j
        parts = [decoder.up(y)]
        for i in range(1, scales + 1):
            encoded = out[f"E{i}"]
            if i <= level:
                parts.append(_pool(encoded, 2 ** (level - i)))
            else:
                parts.append(decoder.adapters[i - level - 1](_up(encoded, 2 ** (i - level))))
        y = _block(decoder.block, [*parts, *guests.get(f"D{j}", [])])
        out[f"D{j}"] = y
    return out


def reference_two_networks(net, image):
    """Main logits of a k=2, ``reduce``, ``same_scale`` network in evaluation mode; sizes must fit."""
    coarse = _network(net.networks[0], _pool(image, 2), {})
    scales = len(net.networks[0].encoders)
    guests = {f"E{i + 1}": [coarse[f"E{i}"]] for i in range(1, scales)}
    guests["B"] = [coarse[f"E{scales}"], coarse["D1"]]
    guests.update({f"D{j - 1}": [coarse[f"D{j}"]] for j in range(2, scales + 1)})
    return net.heads[0](_network(net.networks[1], image, guests)[f"D{scales}"])
