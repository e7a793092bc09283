"""Loading trained weights into networks."""

import pytest
import torch
from ignite.engine import Engine
from torch import nn

from common.engines.weights import WeightsLoader, load_weights
from common.errors import InputError


def network(width=2):
    return nn.Sequential(nn.Linear(3, width), nn.Linear(width, 1))


@pytest.fixture
def trained():
    return network()


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("nested_under", [None, "network", "model", "state_dict"])
def test_accepted_forms(tmp_path, trained, nested_under, prefix):
    weights = {prefix + key: value for key, value in trained.state_dict().items()}
    torch.save({nested_under: weights, "epoch": 3} if nested_under else weights, tmp_path / "weights.pt")
    loaded = network()
    load_weights(loaded, tmp_path / "weights.pt")
    assert torch.equal(loaded[0].weight, trained[0].weight)
    assert torch.equal(loaded[1].bias, trained[1].bias)


def test_handler_loads_when_the_engine_starts(tmp_path, trained):
    torch.save(trained.state_dict(), tmp_path / "weights.pt")
    loaded = network()
    engine = Engine(lambda engine, batch: torch.equal(loaded[0].weight, trained[0].weight))
    WeightsLoader(loaded, str(tmp_path / "weights.pt"), map_location=torch.device("cpu")).attach(engine)
    assert not torch.equal(loaded[0].weight, trained[0].weight)
    assert engine.run([0]).output is True


def test_load_hooks_of_the_network_may_convert_keys(tmp_path, trained):
    class Fused(nn.Linear):
        def _load_from_state_dict(self, state, prefix, *args):
            state[prefix + "weight"] = state.pop(prefix + "1.weight") @ state.pop(prefix + "0.weight")
            state[prefix + "bias"] = state.pop(prefix + "1.bias")
            del state[prefix + "0.bias"]
            super()._load_from_state_dict(state, prefix, *args)

    torch.save(trained.state_dict(), tmp_path / "weights.pt")
    fused = Fused(3, 1)
    load_weights(fused, tmp_path / "weights.pt")
    assert torch.allclose(fused.weight, trained[1].weight @ trained[0].weight)


def test_missing_file_says_where_weights_come_from(tmp_path, trained):
    with pytest.raises(InputError, match=r"none\.pt: expected trained weights, found no file; train first"):
        load_weights(trained, tmp_path / "none.pt")
    with pytest.raises(InputError, match="found no file"):
        load_weights(trained, tmp_path)


def test_pickled_module_is_refused_unopened(tmp_path, trained):
    torch.save(trained, tmp_path / "module.pt")
    with pytest.raises(InputError, match=r"module\.pt: .*\(UnpicklingError\).*pickled objects"):
        load_weights(trained, tmp_path / "module.pt")


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 neither"])
def test_other_files_are_refused(tmp_path, trained, content):
    (tmp_path / "weights.pt").write_bytes(content)
    with pytest.raises(InputError, match="no checkpoint"):
        load_weights(trained, tmp_path / "weights.pt")


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_torchscript_archive_is_refused_without_a_warning(tmp_path, trained):
    torch.jit.save(torch.jit.trace(trained, torch.zeros(1, 3)), tmp_path / "model.ts")
    with pytest.raises(InputError, match=r"model\.ts"):
        load_weights(trained, tmp_path / "model.ts")


def test_list_is_refused(tmp_path, trained):
    torch.save([1, 2], tmp_path / "weights.pt")
    with pytest.raises(InputError, match="expected a dictionary of tensors, found list"):
        load_weights(trained, tmp_path / "weights.pt")


def test_weights_of_another_network_are_described(tmp_path, trained):
    torch.save(
        network(width=5).state_dict() | {f"extra.{i}": torch.zeros(1) for i in range(5)}, tmp_path / "w.pt"
    )
    with pytest.raises(InputError) as caught:
        load_weights(nn.Sequential(*trained, nn.Linear(1, 1)), tmp_path / "w.pt")
    assert str(caught.value).splitlines() == [
        f"{tmp_path / 'w.pt'}: holds the weights of another network",
        "  - 2 missing: 2.weight, 2.bias",
        "  - 5 unexpected: extra.0, extra.1, extra.2, ...",
        "  - 3 of another shape: 0.weight (expected [2, 3], found [5, 3]), 0.bias (expected [2], found [5]),"
        " 1.weight (expected [1, 2], found [1, 5])",
    ]


def test_number_in_place_of_a_tensor_is_described(tmp_path, trained):
    torch.save({**trained.state_dict(), "0.bias": 3.0}, tmp_path / "w.pt")
    with pytest.raises(InputError, match=r"0\.bias"):
        load_weights(network(), tmp_path / "w.pt")
