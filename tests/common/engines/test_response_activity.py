"""Activity of layers in an evaluator: numbers by hand, the spelled-out network, hooks that come and go."""

import json
import logging
import math

import numpy as np
import pytest
import torch
import torch.distributed
import torch.multiprocessing
import torch.nn.functional as F  # noqa: N812
from matplotlib.figure import Figure
from monai.data import DataLoader, Dataset, MetaTensor
from monai.engines import SupervisedEvaluator
from PIL import Image
from torch import nn

from common.data.slice_stacks import slice_stack
from common.engines import activity
from common.engines.activity import ResponseActivity
from common.engines.input_errors import ReportInputErrors
from common.engines.slice_inferer import SliceStackInferer
from common.errors import InputError
from common.networks.crossdomain_unet import CrossDomainUNet
from tests.helpers.parallel_training import join
from tests.helpers.reference_crossdomain import ReferenceCrossDomain, randomize

SMALL = {"widths": (4, 6, 8, 10, 12)}


class Chain(nn.Module):
    """Two activations: of the image, and at half the resolution of 1 minus what the first lets through."""

    def __init__(self):
        super().__init__()
        self.first = nn.ModuleDict({"activation": nn.ReLU(inplace=True)})
        self.second = nn.ModuleDict({"activation": nn.ReLU()})

    def forward(self, image):
        features = F.avg_pool2d(1 - self.first["activation"](image.clone()), 2)
        return F.interpolate(self.second["activation"](features), scale_factor=2)


def constant_slices(domain, *values):
    volume = torch.tensor(values).expand(1, 16, 16, -1).contiguous()
    return {"image": MetaTensor(volume), "domain": domain}


def half_empty(domain="MR"):
    volume = torch.zeros(1, 16, 16, 1)
    volume[:, :8] = 4
    return {"image": MetaTensor(volume), "domain": domain}


CT, MR = constant_slices("CT", 2.0, 3.0, 0.5, -1.0), half_empty()


def evaluate(network, handlers, cases, batch_size=1, neighbors=0, mode="eval"):
    """Run MONAI's evaluator; its outputs are collected in the list that is returned."""
    outputs = []
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(Dataset(cases), batch_size=batch_size),
        network=network,
        inferer=SliceStackInferer(neighbors, batch_size=2),
        postprocessing=lambda case: outputs.append(case["pred"]) or case,
        val_handlers=handlers,
        mode=mode,
    )
    evaluator.run()
    return outputs


def count(folder, cases=(CT, MR), network=None, **arguments):
    """Content of ``activity.json`` after a run over the cases."""
    network = network or Chain()
    evaluate(network, [ResponseActivity(network, folder, **arguments)], cases)
    return json.loads((folder / "activity.json").read_text())


def num_hooks(network):
    return sum(len(module._forward_pre_hooks) + len(module._forward_hooks) for module in network.modules())


def test_numbers_by_hand(tmp_path):
    # First layer, CT: 2, 3, 0.5, -1, so 3 of 4 slices of 256; MR: half of 256, as 0 is not above 0.
    # Second: 1 minus these, negative ones cut off: CT -1, -2, 0.5, 1, so 2 of 4 slices of 64; MR -3 and 1.
    # Separation, first: means 4.5 / 4 and 2, variances 14.25 / 4 - 1.125^2 = 2.296875 and 4. Second: means
    # -0.375 and -1, variances 6.25 / 4 - 0.375^2 = 1.421875 and 4.
    content = count(tmp_path)
    assert content["cases"] == {"CT": 1, "MR": 1}
    assert content["layers"] == ["first.activation", "second.activation"]
    ct, mr = content["domains"]["CT"], content["domains"]["MR"]
    assert (ct["active"], ct["responses"], ct["fraction"]) == ([768, 128], [1024, 256], [0.75, 0.5])
    assert (mr["active"], mr["responses"], mr["fraction"]) == ([128, 32], [256, 64], [0.5, 0.5])
    assert (ct["mean_over_layers"], ct["mean_over_responses"]) == (0.625, 0.7)
    assert (mr["mean_over_layers"], mr["mean_over_responses"]) == (0.5, 0.5)
    expected = [0.875 / math.sqrt(6.296875 / 2), 0.625 / math.sqrt(5.421875 / 2)]
    separation = content["separation"]["CT - MR"]
    assert separation["mean_over_channels"] == pytest.approx(expected)
    assert separation["mean_over_layers"] == pytest.approx(sum(expected) / 2)
    channels = content["channels"]["first.activation"]
    assert channels["mean"] == {"CT": [1.125], "MR": [2.0]}
    assert channels["variance"] == {"CT": [2.296875], "MR": [4.0]}
    # Beyond 0.1 of a standard deviation is all but the zeros of MR.
    assert (ct["beyond_eps"], mr["beyond_eps"]) == ([1, 1], [0.5, 1])


def test_files(tmp_path, caplog):
    with caplog.at_level(logging.INFO, "common.engines.activity"):
        count(tmp_path, [CT, MR, CT], eps=0.25)
    written = (tmp_path / "activity.md").read_text()
    assert written.startswith("# Response activity, cases: 2 CT, 1 MR\n\n| layer               | CT: > 0 |")
    assert "MR: beyond 0.25 std" in written
    assert "| mean over layers    | 0.625   | 0.500   |" in caplog.text
    with Image.open(tmp_path / "activity.png") as picture:
        assert picture.width > picture.height > 100
    assert {path.name for path in tmp_path.iterdir()} == {"activity.json", "activity.md", "activity.png"}


class Listening(ReferenceCrossDomain):
    """The network spelled out; keeps what enters its activations."""

    def act(self, name, x):
        self.heard = getattr(self, "heard", {}) | {name: x}
        return super().act(name, x)


@pytest.mark.parametrize("form", [{}, {"structure": "post", "norm": "instance"}])
def test_equals_the_network_spelled_out(tmp_path, monkeypatch, form):
    monkeypatch.setattr(activity, "draw_activity", lambda responses: Figure())  # the slow part
    network = randomize(CrossDomainUNet(**SMALL, **form)).eval()
    cases = [
        {"image": MetaTensor(torch.rand(1, 32, 48, 3, dtype=torch.float64) + shift), "domain": domain}
        for shift, domain in ((0, "CT"), (5, "MR"), (-2, "MR"))
    ]
    evaluate(network, [ResponseActivity(network, tmp_path)], cases, neighbors=1)
    content = json.loads((tmp_path / "activity.json").read_text())
    for domain, share in (("CT", cases[:1]), ("MR", cases[1:])):
        volumes = [case["image"].as_tensor()[0] for case in share]
        stacks = [slice_stack(volume, z, 1) for volume in volumes for z in range(3)]
        reference = Listening(network.state_dict(), **form)
        reference.segment(torch.stack(stacks))
        assert content["layers"] == list(reference.heard)
        for index, (name, heard) in enumerate(reference.heard.items()):
            found = content["domains"][domain]
            assert found["responses"][index] == heard.numel()
            assert found["active"][index] == int((heard > 0).sum())
            rows = heard.transpose(0, 1).flatten(1).numpy()
            channels = content["channels"][name]
            np.testing.assert_allclose(channels["mean"][domain], rows.mean(axis=1), rtol=1e-6, atol=1e-9)
            np.testing.assert_allclose(channels["variance"][domain], rows.var(axis=1), rtol=1e-6)


@pytest.mark.parametrize(
    "form",
    [{}, {"structure": "post", "decoder_activation": "relu"}, {"attention": True, "conditional": True}],
)
def test_the_eight_layers_of_encoder_and_decoder_are_found(tmp_path, form):
    handler = ResponseActivity(CrossDomainUNet(**SMALL, **form), tmp_path)
    assert list(handler.layers) == [f"encoder.{i}.activation" for i in range(5)] + [
        f"decoder.{i}.activation" for i in range(3)
    ]


def test_outputs_stay_the_same_and_hooks_go(tmp_path):
    network = CrossDomainUNet(**SMALL).eval()
    cases = [{"image": MetaTensor(torch.rand(1, 32, 32, 3)), "domain": name} for name in ("CT", "MR")]
    plain = evaluate(network, [], cases, neighbors=1)
    watched = evaluate(network, [ResponseActivity(network, tmp_path, ["encoder.0"])], cases, neighbors=1)
    assert all(torch.equal(first, second) for first, second in zip(plain, watched, strict=True))
    assert num_hooks(network) == 0


@pytest.mark.parametrize("first", [[], [ReportInputErrors()]])
def test_hooks_go_and_the_error_comes_through(tmp_path, first):
    network = Chain()
    handler = ResponseActivity(network, tmp_path)
    broken = constant_slices("MR", 1.0, math.nan)
    with pytest.raises(InputError, match="first.activation: responses: expected finite values, got NaN"):
        evaluate(network, [*first, handler], [CT, broken])
    assert num_hooks(network) == 0
    assert list(tmp_path.iterdir()) == []
    # Nothing of the run that failed is left in the next one.
    evaluate(network, [handler], [MR])
    assert json.loads((tmp_path / "activity.json").read_text())["cases"] == {"MR": 1}


def test_one_domain_has_nothing_to_be_separated_from(tmp_path):
    content = count(tmp_path, [CT], layers=["second.activation"])
    assert (content["layers"], content["separation"]) == (["second.activation"], {})
    assert "separation" not in (tmp_path / "activity.md").read_text()


def test_cases_of_a_batch_share_their_domain(tmp_path):
    network = Chain()
    handler = ResponseActivity(network, tmp_path)
    evaluate(network, [handler], [CT, CT, CT], batch_size=2)
    assert json.loads((tmp_path / "activity.json").read_text())["cases"] == {"CT": 3}
    with pytest.raises(
        InputError, match="group_key: expected batches of one domain each, found one of A, CT"
    ):
        evaluate(network, [handler], [CT, CT | {"domain": "A"}], batch_size=2)
    with pytest.raises(
        InputError, match="group_key: expected an entry of every case, found no 'domain' among"
    ):
        evaluate(network, [handler], [{"image": CT["image"]}])


def test_unusable_networks_and_arguments_are_refused(tmp_path):
    network = CrossDomainUNet(**SMALL)
    with pytest.raises(InputError, match="network: expected evaluation mode, found training mode"):
        evaluate(network, [ResponseActivity(network, tmp_path)], [half_empty()], neighbors=1, mode="train")
    handler = ResponseActivity(network, tmp_path)
    network.eval().fuse()
    with pytest.raises(InputError, match=r"network: expected its training form.* fuse=False"):
        evaluate(network, [handler], [CT], neighbors=1)
    with pytest.raises(InputError, match="layers: expected modules of the network .*, found .'head.0'"):
        ResponseActivity(network, tmp_path, ["head", "head.0"])
    with pytest.raises(InputError, match="layers: expected some, or modules called 'activation'"):
        ResponseActivity(nn.Conv2d(1, 1, 1), tmp_path)
    with pytest.raises(InputError, match="eps: expected a positive number, found 0"):
        ResponseActivity(network, tmp_path, eps=0)
    with pytest.raises(InputError, match="that every image goes through first, found none of CT"):
        count(tmp_path, [CT], layers=["first"])


def judge_share(rank, folder):
    """Worker: one CT scan, and one CT and one MR scan."""
    join(rank, folder / "rendezvous")
    network = Chain()
    handler = ResponseActivity(network, folder / "both")
    evaluate(network, [handler], [[CT], [constant_slices("CT", -2.0), MR]][rank])
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_see_all_cases(tmp_path):
    torch.multiprocessing.spawn(judge_share, (tmp_path,), nprocs=2)
    expected = count(tmp_path / "one", [CT, constant_slices("CT", -2.0), MR])
    assert json.loads((tmp_path / "both" / "activity.json").read_text()) == expected
    assert expected["cases"] == {"CT": 2, "MR": 1}
