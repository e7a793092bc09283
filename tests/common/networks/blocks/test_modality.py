import math

import torch

from common.networks.blocks.modality import ModalityCondition, modulate


def test_modulation_by_hand():
    """Scales differ from 1 by the first half of the condition: 3 (1 + 2) + 5 = 14, 3 (1 - 1) + 7 = 7."""
    features = torch.full((2, 2, 1, 2), 3.0)
    condition = torch.tensor([[2.0, -1.0, 5.0, 7.0], [0.0, 0.0, 0.0, 0.0]])
    assert modulate(features, condition).tolist() == [[[[14, 14]], [[7, 7]]], [[[3, 3]], [[3, 3]]]]


@torch.no_grad()
def test_conditions_are_shared_out_by_the_softmax():
    """Logits 0 and log 3 are shares of 1/4 and 3/4: 4 / 4 + 8 * 3 / 4 = 7."""
    modality = ModalityCondition(1, (1, 3), 0.02)
    modality.tables[0].weight.copy_(torch.tensor([[4.0, 8.0], [0.0, 1.0]]))
    conditions = modality.conditions(torch.tensor([[0.0, math.log(3)]]))
    torch.testing.assert_close(conditions[0], torch.tensor([[7.0, 0.75]]))
    assert [c.shape for c in conditions] == [(1, 2), (1, 6)]


@torch.no_grad()
def test_the_classifier_takes_any_size_and_judges_each_image_by_itself():
    modality = ModalityCondition(3, (4,), 0.02).double()
    for size in ((16, 16), (33, 50)):
        images = torch.rand(2, 3, *size, dtype=torch.float64)
        logits = modality(images)
        assert logits.shape == (2, 2)
        torch.testing.assert_close(modality(images[1:]), logits[1:])


def test_two_modalities_are_told_apart_after_a_few_steps():
    modality = ModalityCondition(1, (1,), 0.02)
    optimizer = torch.optim.Adam(modality.parameters(), lr=0.01)
    labels = torch.arange(8) % 2
    for _ in range(30):
        images = torch.rand(8, 1, 16, 16)
        images = torch.where(labels.bool().reshape(8, 1, 1, 1), images, 1 - images.square())
        loss = torch.nn.functional.cross_entropy(modality(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.3
