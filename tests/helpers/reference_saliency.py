"""Slow, obvious forms of the measures of soft maps: one loop per pixel or threshold, as in the papers."""

import math

import numpy as np


def threshold_scores(prediction, reference):
    """Dice, IoU, recall, specificity and E at 0, 1/255, ..., 1, each (256,), one pass for each."""
    rows = []
    for level in range(256):
        mask = prediction >= level / 255
        tp, fp = (mask & reference).sum(), (mask & ~reference).sum()
        fn, tn = (~mask & reference).sum(), (~mask & ~reference).sum()
        overlap = [2 * tp / (2 * tp + fp + fn), tp / (tp + fp + fn), tp / (tp + fn), tn / (tn + fp)]
        rows.append([*(overlap if tp else [0, 0, 0, 0]), e_measure(mask, reference)])
    return np.array(rows).T


def e_measure(mask, reference):
    """Enhanced alignment of two binary masks, pixel by pixel."""
    total, mean_m, mean_r = 0.0, mask.mean(), reference.mean()
    for m, r in zip(mask.ravel().tolist(), reference.ravel().tolist()):
        if mean_r == 0:
            total += 1 - m
        elif mean_r == 1:
            total += m
        else:
            a, b = m - mean_m, r - mean_r
            total += (2 * a * b / (a * a + b * b) + 1) ** 2 / 4
    return total / (mask.size - 1)


def weighted_f(prediction, reference):
    """Weighted F with beta 1 by a search for the nearest object pixel and sums over neighborhoods."""
    height, width = reference.shape
    error = np.abs(prediction - reference)
    objects = list(zip(*np.nonzero(reference)))
    carried, weight = error.copy(), np.ones_like(error)
    for y in range(height):
        for x in range(width):
            if not reference[y, x]:
                squared, (ny, nx) = min(((y - v) ** 2 + (x - u) ** 2, (v, u)) for v, u in objects)
                carried[y, x] = error[ny, nx]
                weight[y, x] = 2 - math.exp(math.log(0.5) / 5 * math.sqrt(squared))
    window = range(-3, 4)
    gauss = {(v, u): math.exp(-(v * v + u * u) / 50) for v in window for u in window}
    normal = sum(gauss.values())
    final = error.copy()
    for y, x in objects:
        smooth = sum(
            g / normal * carried[y + v, x + u]
            for (v, u), g in gauss.items()
            if 0 <= y + v < height and 0 <= x + u < width
        )
        final[y, x] = min(error[y, x], smooth)
    final *= weight
    tp = reference.sum() - final[reference].sum()
    precision = tp / (tp + final[~reference].sum() + 1e-6)
    recall = 1 - final[reference].mean()
    return 2 * precision * recall / (precision + recall + 1e-6)


def s_measure(prediction, reference):
    """Structure measure by lists of pixels."""
    mean_of_reference = reference.mean()
    scores = []
    for values in (prediction[reference], 1 - prediction[~reference]):
        mean = sum(values) / len(values)
        deviation = math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1))
        scores.append(2 * mean / (mean**2 + 1 + deviation))
    objects = mean_of_reference * scores[0] + (1 - mean_of_reference) * scores[1]
    rows, columns = np.nonzero(reference)
    row, column = round(rows.mean()) + 1, round(columns.mean()) + 1
    regions = 0.0
    for part in np.ndindex(2, 2):
        pixels = [
            (prediction[y, x], float(reference[y, x]))
            for y, x in np.ndindex(reference.shape)
            if (y >= row, x >= column) == tuple(map(bool, part))
        ]
        regions += len(pixels) / reference.size * _similarity(pixels)
    return max(0.0, 0.5 * objects + 0.5 * regions)


def _similarity(pixels):
    n = len(pixels)
    mean_p, mean_r = (sum(column) / n for column in zip(*pixels))
    spread = sum((p - mean_p) ** 2 + (r - mean_r) ** 2 for p, r in pixels) / (n - 1)
    together = sum((p - mean_p) * (r - mean_r) for p, r in pixels) / (n - 1)
    numerator = 4 * mean_p * mean_r * together
    denominator = (mean_p**2 + mean_r**2) * spread
    return numerator / denominator if numerator else float(denominator == 0)


def edge_distance(prediction, reference):
    """Mean difference of first and last rows over the columns that hold both."""
    differences = []
    for x in range(reference.shape[1]):
        p, r = (np.flatnonzero(mask[:, x]) for mask in (prediction, reference))
        if len(p) and len(r):
            differences += [abs(p[0] - r[0]), abs(p[-1] - r[-1])]
    return float(np.mean(differences))
