"""Labels of a scan in two ways: the same, and other ones would show."""

import fire
import nibabel as nib
import numpy as np
import pytest
import torch
from monai.inferers import SlidingWindowInferer

from benchmarks import whole_scan
from benchmarks.whole_scan import scan_table, settle
from common.networks.kcbac import KCBACNet


@pytest.fixture
def network():
    torch.manual_seed(0)
    return KCBACNet(3, 1, 3, base_width=2, num_scales=2).eval()


def test_both_ways_have_the_same_labels(network):
    image = torch.randn(1, 1, 20, 16, 24)
    settle(network, image, (16, 16, 16))
    windows = SlidingWindowInferer((16, 16, 16), overlap=0.25)
    rows = [line.split(" | ") for line in scan_table(image, network, windows).splitlines()[2:]]
    assert [row[-1].rstrip(" |") for row in rows] == ["0 of 7680"] * 2
    assert rows[0][2] == "1.00"
    assert not network.fused


def test_other_labels_show(network, monkeypatch):
    class Shifted(whole_scan.LabelInferer):
        def __call__(self, *arguments):
            return super().__call__(*arguments) + 1

    monkeypatch.setattr(whole_scan, "LabelInferer", Shifted)
    windows = SlidingWindowInferer((16, 16, 16), overlap=0.25)
    table = scan_table(torch.randn(1, 1, 16, 16, 16), network, windows)
    assert table.endswith("4096 of 4096 |")


def test_statistics_are_those_of_the_scan(network):
    """A scan of zeros has variance zero behind the first convolution, where new statistics have one."""
    settle(network, torch.zeros(1, 1, 8, 16, 16), (16, 16, 16))
    norm = network.networks[1].encoders[0][0].branches[0].norm
    assert norm.running_var.abs().max() == 0
    assert not network.training


@pytest.mark.bundle
def test_command_line_reads_a_scan_and_prints_a_table(tmp_path, capsys):
    voxels = np.random.default_rng(0).integers(-1000, 1000, (36, 34, 32)).astype(np.int16)
    nib.save(nib.Nifti1Image(voxels, np.eye(4)), tmp_path / "scan.nii.gz")
    arguments = ["--scan", str(tmp_path / "scan.nii.gz"), "--spacing_mm", "2.0,2.0,2.0"]
    fire.Fire(whole_scan.whole_scan, [*arguments, "--roi_size", "16,16,16"])
    printed = capsys.readouterr().out
    assert "voxels, windows of 16 x 16 x 16, overlap 0.25, constant" in printed
    assert "| deployment form, LabelInferer |" in printed
