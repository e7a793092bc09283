"""Two domains of the same shapes with inverted contrast: one network learns both by heart."""

import pytest
import torch
from monai.data import DataLoader
from monai.engines import SupervisedTrainer

from common.engines.adversarial import AdversarialStep
from common.engines.domain_sampler import DomainBatchSampler
from common.losses.deep_supervision import LabelCrossEntropy
from common.networks.crossdomain_unet import CrossDomainUNet
from common.networks.discriminators import ConditionalDiscriminator

WIDTHS = (8, 16, 32, 64, 64)


def toy_slices(count=6, size=64):
    """Ellipses, bright on dark in CT and dark on bright in MR, three equal slices as channels."""
    generator = torch.Generator().manual_seed(0)
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    cases = []
    for index in range(2 * count):
        center = 24 + 16 * torch.rand(2, generator=generator)
        radii = 10 + 8 * torch.rand(2, generator=generator)
        label = (((y - center[0]) / radii[0]) ** 2 + ((x - center[1]) / radii[1]) ** 2 <= 1).float()[None]
        domain = ("CT", "MR")[index % 2]
        clean = label if domain == "CT" else 1 - label
        image = clean.repeat(3, 1, 1) + 0.1 * torch.randn(3, size, size, generator=generator)
        cases.append({"image": image, "label": label, "domain": domain})
    return cases


@pytest.mark.slow
def test_both_domains_are_learned_by_heart():
    torch.manual_seed(0)
    cases = toy_slices()
    network = CrossDomainUNet(widths=WIDTHS)
    discriminator = ConditionalDiscriminator(5, 64, widths=(8,) * 5, hidden=16)
    sampler = DomainBatchSampler([case["domain"] for case in cases], batch_size=6, num_batches=300)
    trainer = SupervisedTrainer(
        device="cpu",
        max_epochs=1,
        train_data_loader=DataLoader(cases, batch_sampler=sampler),
        network=network,
        optimizer=torch.optim.Adam(network.parameters(), 0.001),
        loss_function=LabelCrossEntropy(),
        iteration_update=AdversarialStep(discriminator, torch.optim.Adam(discriminator.parameters(), 0.001)),
        decollate=False,
    )
    trainer.run()
    network.eval()
    for domain in ("CT", "MR"):
        chosen = [case for case in cases if case["domain"] == domain]
        image, label = (torch.stack([case[key] for case in chosen]) for key in ("image", "label"))
        with torch.no_grad():
            prediction = network(image).argmax(1, keepdim=True) > 0
        reference = label > 0
        overlap = (prediction & reference).sum() / (prediction | reference).sum()
        assert 100 * overlap > 95, (domain, overlap)
