"""Names of released SKCDF weights; those of the other methods are tested with the import itself."""

import json
import math

import torch

from common.import_weights import import_weights
from common.networks.skcdf import SKCDF
from common.weight_names import RELEASED
from tests.helpers.deterministic_weights import deterministic_weight
from tests.helpers.reference_skcdf import released_shapes

SMALL = {"num_classes": 3, "roi_size": [32, 32, 32], "width": 2}
IDLE = [
    f"cross_attention_{scope}.token_learner.map_in.0.{entry}"
    for scope in ("global", "local")
    for entry in ("bias", "weight")
]
# Neighbors of the same shape, which a wrong table could exchange without an error.
COUNTERPARTS = {
    "encoder.stages.4.3.weight": "encoder.block_five.conv.3.weight",
    "encoder.stages.4.7.running_var": "encoder.block_five.conv.7.running_var",
    "encoder.downs.1.1.bias": "encoder.block_one_dw.conv.1.bias",
    "labeled_decoder.stages.0.3.weight": "decoder_l.block_six.conv.3.weight",
    "labeled_decoder.ups.0.0.weight": "decoder_l.block_five_up.conv.0.weight",
    "labeled_decoder.main_head.weight": "decoder_l.out_conv9.weight",
    "labeled_decoder.balanced_head.weight": "decoder_l.out_conv9_abc.weight",
    "unlabeled_decoder.stages.3.0.weight": "decoder_u.block_nine.conv.0.weight",
    "unlabeled_decoder.ups.3.1.running_mean": "decoder_u.block_eight_up.conv.1.running_mean",
    "unlabeled_decoder.main_head.bias": "decoder_u.out_conv9.bias",
    "unlabeled_decoder.balanced_head.bias": "decoder_u.out_conv9_abc.bias",
}
for index, scope in enumerate(("local", "global")):
    for ours, theirs in (
        ("projection.weight", "token_learner.proj.weight"),
        ("attention_norm.weight", "attn_norm.weight"),
        ("query.weight", "attn.q.weight"),
        ("key.weight", "attn.k.weight"),
        ("value.weight", "attn.v.weight"),
        ("out.weight", "attn.out.weight"),
        ("output_norm.weight", "ffn_norm.weight"),
        ("mix.bias", "map_out.0.bias"),
    ):
        COUNTERPARTS[f"attention.{index}.{ours}"] = f"cross_attention_{scope}.{theirs}"


def test_the_published_network_has_all_tensors_of_the_file_but_the_idle_ones():
    """330 entries: 50,917,320 parameters, 65,864 of them idle, and 14,826 values of statistics."""
    shapes = released_shapes()
    buffers = [name for name in shapes if name.endswith(("running_mean", "running_var", "tracked"))]
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    assert len(shapes) == 330
    assert sum(map(sizes.get, buffers)) == 14_826
    assert sum(sizes.values()) - 14_826 == 50_917_320
    assert sum(map(sizes.get, IDLE)) == 65_864
    released = RELEASED["skc_synapse"]
    with torch.device("meta"):
        state = released.build().state_dict()
    used = {released.name_in_file(name): tuple(value.shape) for name, value in state.items()}
    assert len(used) == len(state)
    assert used == {name: shape for name, shape in shapes.items() if name not in released.unused}
    assert sorted(released.unused) == IDLE


def test_a_released_file_fills_the_network_of_a_bundle(tmp_path):
    theirs = {n: deterministic_weight(n, shape) for n, shape in released_shapes(2, 3, (2, 2, 2)).items()}
    torch.save({f"module.{name}": value for name, value in theirs.items()}, tmp_path / "best.pth")
    (tmp_path / "configs").mkdir()
    network = {"_target_": "common.networks.skcdf.SKCDF", **SMALL}
    (tmp_path / "configs/inference.json").write_text(json.dumps({"network_def": network}))
    said = import_weights(tmp_path / "best.pth", tmp_path / "model.pt", tmp_path)
    title = "SKCDF as its authors' code saves it"
    assert said.endswith(f"326 tensors of skc_synapse ({title}), left out as unused: {', '.join(IDLE)}")
    weights = torch.load(tmp_path / "model.pt", weights_only=True)
    SKCDF(**SMALL).load_state_dict(weights)
    for ours, name in COUNTERPARTS.items():
        assert torch.equal(weights[ours], theirs[name].to(weights[ours])), ours
