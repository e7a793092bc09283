"""The frozen form: the same outputs, and nothing but constants inside."""

import functools

import fire
import pytest
import torch
from torch import nn

from benchmarks import frozen_speed
from benchmarks.form_table import averaging, form_table
from benchmarks.frozen_speed import METHODS, Method, forms_of, frozen
from benchmarks.side_by_side import settled
from common.networks.crossdomain_unet import CrossDomainUNet
from common.networks.kcbac import KCBACNet

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.*:DeprecationWarning")
Small = functools.partial(KCBACNet, 2, 1, 3, base_width=2, num_scales=2)


def test_frozen_form_is_last_and_agrees():
    network = settled(lambda: averaging(Small()), (2, 1, 16, 16), 2)
    image = torch.randn(1, 1, 16, 24)
    forms = forms_of(network, METHODS["kcbac"].forms, image)
    assert [form.title for form in forms] == [
        "as printed",
        "deployment form",
        "+ channels_last",
        "deployment form, frozen",
    ]
    rows = [line.split(" | ") for line in form_table(forms, image, 1).splitlines()[2:]]
    assert all(float(row[5]) < 1e-4 for row in rows)
    assert isinstance(forms[-1].network, torch.jit.ScriptModule)
    assert not network.fused


@torch.no_grad()
def test_weights_are_constants_and_any_size_will_do():
    network = Small(fused=True).eval()
    script = frozen(network, torch.randn(1, 1, 16, 16))
    image = torch.randn(3, 1, 24, 40)
    expected = network(image)
    torch.testing.assert_close(script(image), expected, atol=1e-4, rtol=1e-4)
    nn.init.zeros_(network.heads[0].weight)
    torch.testing.assert_close(script(image), expected, atol=1e-4, rtol=1e-4)


def test_all_five_networks_are_there():
    assert set(METHODS) == {"kcbac", "m2snet", "dmnet", "crossdomain", "skcdf"}


def test_command_line_prints_the_machine_and_a_table_per_method(monkeypatch, capsys):
    build = functools.partial(CrossDomainUNet, widths=(2, 2, 2, 2, 2))
    small = Method(build, METHODS["crossdomain"].forms, (3, 32, 32), (32, 32))
    monkeypatch.setattr(frozen_speed, "METHODS", {"one": small})
    fire.Fire(frozen_speed.frozen_speed, ["--methods", "one", "--repeats", "1"])
    printed = capsys.readouterr().out
    assert f"1 thread(s), PyTorch {torch.__version__}" in printed
    assert "one, 1 x 32 x 32, 1 repeats" in printed
    assert printed.count("| deployment form, frozen |") == 1


def test_compiled_forms_are_added_when_asked_for_and_agree(monkeypatch, capsys):
    # Compiling takes a C++ compiler and a minute; the graph that it would compile runs as it is here.
    plainly = functools.partial(torch.compile, backend="eager")
    monkeypatch.setattr(torch, "compile", plainly)
    build = functools.partial(CrossDomainUNet, widths=(2, 2, 2, 2, 2))
    small = Method(build, METHODS["crossdomain"].forms, (3, 32, 32), (32, 32))
    monkeypatch.setattr(frozen_speed, "METHODS", {"one": small})
    fire.Fire(frozen_speed.frozen_speed, ["--methods", "one", "--repeats", "1", "--compiled", "True"])
    lines = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if "compiled in" in line]
    assert [line[0].split(",")[0] for line in lines] == ["| folded", "| folded + channels_last"]
    assert all(float(line[5]) < 1e-4 for line in lines)
