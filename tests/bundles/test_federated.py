"""MONAI's federated client trains a round with every bundle, from its unmodified ``train.json``."""

import copy
import json

import pytest
import torch
from monai.bundle import ConfigParser
from monai.fl.client import MonaiAlgo
from monai.fl.utils.constants import ExtraItems, ModelType, WeightType
from monai.fl.utils.exchange_object import ExchangeObject

from tests.helpers.tiny_cases import TINY_CASES
from tests.helpers.workflows import REPOSITORY, config_files, places

# What MonaiAlgo says whenever it runs a config: it is code. docs/security.md says so, too.
pytestmark = pytest.mark.filterwarnings("ignore:executing the bundle config:UserWarning")
# MonaiAlgo makes the length of a round that of the training; these let the schedule span all rounds.
ACROSS_ROUNDS = {
    "kcbac_mmwhs": {"lr_scheduler::total_iters": "$@max_epochs * @iterations_per_epoch"},
    "crossdomain_liver": {"lr_scheduler::total_iters": "$@max_epochs * @iterations_per_epoch"},
    "dmnet_kits": {
        "lr_scheduler::total_iters": "$@max_epochs * @batches",
        "discriminator_lr_scheduler::total_iters": "$@max_epochs * @batches",
    },
    "m2snet_polyp": {"lr_scheduler::lr_lambda": "$lambda epoch: schedules.triangle(epoch, @max_epochs)"},
    "skc_synapse": {"last_epoch": "$max(1, @max_epochs - 1)"},
}
# MonaiAlgo adds a setting `run_name`, for trackers; the check of settings wants it used.
FOR_MONAI_ALGO = {"_run_name": "@run_name"}


def client(bundle, folder, **settings) -> MonaiAlgo:
    """A client as an FL system makes it: from file names and settings."""
    settings |= {**FOR_MONAI_ALGO, "dataset_dir": str(folder / "data"), **places(folder)}
    settings["bundle_root"] = str(REPOSITORY / "bundles" / bundle)
    algorithm = MonaiAlgo(
        bundle_root=settings["bundle_root"],
        train_kwargs=dict(settings),
        config_evaluate_filename="configs/train.json",
        eval_kwargs=dict(settings),
        best_model_filepath=str(folder / "models" / "model_best.pt"),
        final_model_filepath=str(folder / "models" / "model.pt"),
    )
    algorithm.initialize({ExtraItems.CLIENT_NAME: "site-1"})
    return algorithm


def weights_of_server(bundle, **settings) -> dict[str, torch.Tensor]:
    """Weights as a server begins with them: of the bundle's network, but other ones than the client's."""
    parser = ConfigParser()
    parser.read_config(config_files(bundle, "train"))
    parser.update(settings)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return copy.deepcopy(parser.get_parsed_content("network_def").state_dict())


def rates(algorithm):
    return [group["lr"] for group in algorithm.trainer.optimizer.param_groups]


@pytest.mark.bundle
@pytest.mark.slow
@pytest.mark.parametrize("bundle", TINY_CASES)
def test_client_trains_a_round_from_the_weights_of_the_server(bundle, tmp_path):
    case = TINY_CASES[bundle]
    case.write(tmp_path / "data")
    settings = {**case.settings, **ACROSS_ROUNDS[bundle], "max_epochs": 2}
    algorithm, given = client(bundle, tmp_path, **settings), weights_of_server(bundle, **case.settings)
    handed_over = ExchangeObject(weights=copy.deepcopy(given))
    before = algorithm.evaluate(handed_over).metrics
    assert algorithm.evaluator.state.key_metric_name in before
    algorithm.train(handed_over)
    sent = algorithm.get_weights()
    assert sent.weight_type == WeightType.WEIGHT_DIFF
    assert sent.statistics["num_executed_iterations"] == 2
    assert sent.statistics["total_epochs"] == 1
    assert sent.weights.keys() == given.keys()
    trained = algorithm.trainer.network.state_dict()
    for name, difference in sent.weights.items():
        torch.testing.assert_close(given[name] + difference, trained[name], rtol=1e-4, atol=1e-5)
    assert all(torch.isfinite(difference.double()).all() for difference in sent.weights.values())
    moved = [
        name for name, parameter in algorithm.trainer.network.named_parameters() if sent.weights[name].any()
    ]
    assert len(moved) > len(given) // 4
    assert min(rates(algorithm)) > 0
    assert (tmp_path / "models" / "model.pt").is_file()  # and is left aside when the server's are judged
    assert algorithm.evaluate(ExchangeObject(weights=copy.deepcopy(given))).metrics == before
    judged = algorithm.evaluator.network.state_dict()
    assert all(torch.equal(judged[name], value) for name, value in given.items())
    saved = algorithm.get_weights({ExtraItems.MODEL_TYPE: ModelType.FINAL_MODEL})
    assert all(torch.equal(value, trained[name]) for name, value in saved.weights.items())
    algorithm.finalize()


@pytest.mark.bundle
@pytest.mark.slow
def test_second_round_goes_on_from_the_average_of_two_clients(tmp_path):
    bundle = "m2snet_polyp"
    case = TINY_CASES[bundle]
    settings = {**case.settings, **ACROSS_ROUNDS[bundle], "max_epochs": 2}
    clients = []
    for number in range(2):
        folder = tmp_path / str(number)
        case.write(folder / "data")
        clients.append(client(bundle, folder, **settings, seed=number))
    shared = weights_of_server(bundle, **case.settings)
    for epoch in (1, 2):
        for algorithm in clients:
            algorithm.train(ExchangeObject(weights=copy.deepcopy(shared)))
        first, second = (algorithm.get_weights() for algorithm in clients)
        assert first.statistics["current_epoch"] == second.statistics["current_epoch"] == epoch
        name = next(iter(dict(clients[0].trainer.network.named_parameters())))
        assert first.weights[name].any()
        assert not torch.equal(first.weights[name], second.weights[name])
        for name, value in shared.items():
            mean = (first.weights[name].double() + second.weights[name].double()) / 2
            shared[name] = (value.double() + mean).to(value.dtype)
    assert all(torch.isfinite(value.double()).all() for value in shared.values())


def test_documents_give_these_settings():
    text = (REPOSITORY / "docs" / "scaling_out.md").read_text()
    settings = [FOR_MONAI_ALGO, *ACROSS_ROUNDS.values()]
    lines = [json.dumps(one).strip("{}") for part in settings for one in ({k: v} for k, v in part.items())]
    assert [line for line in lines if line not in text] == []
