"""Channel attention: a reference with stored logits, published parameter counts, who learns from whom."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from common.networks.blocks.channel_attention import ChannelAttention, logit_scale
from common.networks.blocks.conv_norm_folding import fold_affines

GRID = (2, 4, 2)
SCOPES = ("local", "global")


def small(scope, **arguments):
    block = ChannelAttention(3, GRID, scope, **arguments).double().eval()
    for norm in (block.attention_norm, block.output_norm):
        torch.nn.init.normal_(norm.weight, 1, 0.2)
        torch.nn.init.normal_(norm.bias, 0, 0.2)
    return block


def normalized(logits):
    """Instance normalization of one matrix, then softmax over the keys."""
    return F.instance_norm(logits[None, None], eps=1e-5)[0, 0].softmax(1)


def reference(block, features, is_paired, permuted=True):
    """The block by loops over windows, samples and heads, with the whole matrix of logits."""
    batch, channels, (p, q, r) = len(features), features.shape[1], block.window
    kernel, output = block.projection.weight.flatten(1), torch.zeros_like(features)
    for d in range(0, GRID[0], p):
        for h in range(0, GRID[1], q):
            for w in range(0, GRID[2], r):
                at = (slice(d, d + p), slice(h, h + q), slice(w, w + r))
                values = features[:, :, at[0], at[1], at[2]].flatten(2)
                tokens = (values @ kernel.T + block.projection.bias).transpose(1, 2)
                z = F.layer_norm(
                    tokens, (channels,), block.attention_norm.weight, block.attention_norm.bias, 1e-6
                )
                query, key, value = (z @ part.weight.T for part in (block.query, block.key, block.value))
                for sample in range(batch):
                    mixed = torch.zeros(len(tokens[0]), 2 * channels, dtype=features.dtype)
                    is_plain = block.is_global and not permuted
                    if is_paired:
                        half = batch // 2
                        others = range(half, batch) if sample < half else range(half)
                        keys = torch.cat([key[i] for i in others], 1)
                        weights = normalized(query[sample].T @ keys)
                        mixed = (weights @ torch.cat([value[i] for i in others], 1).T).T
                    else:
                        for head in range(2):
                            split = slice(head, None, 2)
                            if block.is_global:
                                split = slice(head * channels, (head + 1) * channels)
                            weights = normalized(query[sample][:, split].T @ key[sample][:, split])
                            mixed[:, split if is_plain else slice(head, None, 2)] = (
                                weights @ value[sample][:, split].T
                            ).T
                    summed = mixed @ block.out.weight.T + tokens[sample]
                    norm = block.output_norm
                    summed = F.layer_norm(summed, (channels,), norm.weight, norm.bias, 1e-6)
                    output[sample][:, at[0], at[1], at[2]] = summed.T.reshape(channels, p, q, r)
    mixed = torch.einsum("oc,bcdhw->bodhw", block.mix.weight.flatten(1), output)
    return F.gelu(mixed + block.mix.bias[:, None, None, None])


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize(("batch", "is_paired"), [(1, False), (3, False), (2, True), (4, True), (6, True)])
@torch.no_grad()
def test_block_equals_a_reference_with_stored_logits(scope, batch, is_paired):
    block, features = small(scope), torch.randn(batch, 3, *GRID, dtype=torch.float64)
    expected = reference(block, features, is_paired)
    torch.testing.assert_close(block(features, is_paired), expected, atol=1e-9, rtol=1e-9)
    assert torch.equal(torch.jit.script(block)(features, is_paired), block(features, is_paired))


@torch.no_grad()
def test_heads_are_merged_as_they_were_split_on_demand():
    features = torch.randn(2, 3, *GRID, dtype=torch.float64)
    for scope in SCOPES:
        block = small(scope, permuted_heads=False)
        expected = reference(block, features, False, permuted=False)
        torch.testing.assert_close(block(features), expected, atol=1e-9, rtol=1e-9)
        assert torch.equal(torch.jit.script(block)(features), block(features))
    permuted = small("global")
    permuted.load_state_dict(block.state_dict())
    # A permutation of the columns of `out` is all the difference.
    columns = permuted.out.weight.unflatten(1, (3, 2)).transpose(1, 2).flatten(1)
    assert not torch.allclose(permuted(features), block(features))
    block.out.weight.copy_(columns)
    torch.testing.assert_close(permuted(features), block(features), atol=1e-12, rtol=1e-12)
    # Between samples heads are not split: there the released columns are as they are.
    assert not torch.allclose(permuted(features, True), block(features, True))


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize(("batch", "is_paired"), [(1, False), (2, False), (2, True), (6, True)])
def test_attention_gets_what_fused_kernels_accept(monkeypatch, scope, batch, is_paired):
    """Four axes, the last one dense; otherwise PyTorch stores the logits without a word."""
    given, attend = [], F.scaled_dot_product_attention

    def recorded(*tensors, **options):
        given.extend(tensors)
        return attend(*tensors, **options)

    monkeypatch.setattr(F, "scaled_dot_product_attention", recorded)
    small(scope)(torch.randn(batch, 3, *GRID, dtype=torch.float64), is_paired)
    assert len(given) == (6 if is_paired else 3)
    assert {(tensor.dim(), tensor.stride(-1)) for tensor in given} == {(4, 1)}
    # Neither are keys copied for each sample that shares them.
    assert all(tensor.stride(0) == 0 or len(tensor) == 1 or not is_paired for tensor in given[1::3])


@pytest.mark.parametrize("scope", SCOPES)
@torch.no_grad()
def test_folding_the_normalizations_keeps_the_output(scope):
    block, features = small(scope), torch.randn(4, 3, *GRID, dtype=torch.float64)
    expected = [block(features, is_paired) for is_paired in (False, True)]
    fold_affines(block, block.affine_pairs())
    assert list(block.attention_norm.parameters()) == list(block.output_norm.parameters()) == []
    for is_paired in (False, True):
        torch.testing.assert_close(block(features, is_paired), expected[is_paired], atol=1e-10, rtol=1e-10)


def test_scale_by_hand():
    """Queries 1, -1 and keys 1, 0: products 1, 0, -1, 0, mean 0, variance 1/2. With keys 1, 1: variance 1."""
    queries, keys = torch.tensor([[1.0], [-1.0]]), torch.tensor([[1.0], [0.0]])
    assert logit_scale(queries, keys).item() == pytest.approx(0.50001**-0.5)
    assert logit_scale(queries, torch.ones(2, 1)).item() == pytest.approx(1.00001**-0.5)
    # Queries 1, 1: the products 1, 0, 1, 0 have the mean 1/2 and the variance 1/4.
    assert logit_scale(torch.ones(2, 1), keys).item() == pytest.approx(0.25001**-0.5)
    # Equal products have no deviation; only the small constant is left.
    assert logit_scale(torch.ones(2, 1), torch.ones(3, 1)).item() == pytest.approx(1e5**0.5)
    assert logit_scale(queries.half(), keys.half()).dtype == torch.float32


@pytest.mark.parametrize("voxels", [8, 256])
def test_single_precision_is_enough_for_the_scale_of_published_sizes(voxels):
    queries, keys = torch.randn(2, 1, 512, voxels, dtype=torch.float64) + 0.5
    expected = (queries @ keys.transpose(1, 2)).var(unbiased=False).add(1e-5).rsqrt().item()
    assert logit_scale(queries, keys).item() == pytest.approx(expected, rel=1e-9)
    assert logit_scale(queries.float(), keys.float()).item() == pytest.approx(expected, rel=1e-4)


def test_untrained_weights_follow_xavier():
    """Convolutions: normal, variance 2 / (inputs + outputs). Linear layers: uniform of that variance."""
    block = ChannelAttention(64, GRID)
    assert block.mix.weight.std().item() == pytest.approx((2 / 128) ** 0.5, rel=0.05)
    assert block.mix.weight.abs().max().item() > 3 * (2 / 128) ** 0.5
    bound = (6 / (64 + 128)) ** 0.5
    for linear in (block.query, block.key, block.value, block.out):
        assert 0.99 * bound < linear.weight.abs().max().item() <= bound


@pytest.mark.parametrize(("scope", "published"), [("local", 2_362_000 - 72), ("global", 2_493_440 - 65_792)])
def test_parameters_are_those_of_the_released_block_without_its_idle_projection(scope, published):
    with torch.device("meta"):
        block = ChannelAttention(512, (4, 8, 8), scope)
    assert sum(p.numel() for p in block.parameters()) == published


@pytest.mark.parametrize("scope", SCOPES)
def test_labeled_samples_learn_and_unlabeled_ones_only_by_their_residual(scope):
    block, features = small(scope), torch.randn(4, 3, *GRID, dtype=torch.float64, requires_grad=True)
    block(features, True)[:2].square().sum().backward()
    assert features.grad[:2].any()
    assert not features.grad[2:].any()
    features.grad = None
    block(features, True)[2:].square().sum().backward()
    assert features.grad[:2].any()
    assert features.grad[2:].any()
    assert all(p.grad.any() for p in block.parameters())


@pytest.mark.parametrize("scope", SCOPES)
def test_a_sample_alone_equals_the_sample_in_a_batch(scope):
    block, features = small(scope), torch.randn(3, 3, *GRID, dtype=torch.float64)
    torch.testing.assert_close(block(features)[1:2], block(features[1:2]))


@pytest.mark.parametrize("scope", SCOPES)
def test_dropout_acts_in_training_only(scope):
    block, features = small(scope, dropout=0.5), torch.randn(2, 3, *GRID, dtype=torch.float64)
    assert torch.equal(block(features), block(features))
    block.train()
    assert not torch.equal(block(features), block(features))
    assert not torch.equal(block(features, True), block(features, True))


@pytest.mark.parametrize(("scope", "is_paired"), [(s, paired) for s in SCOPES for paired in (True, False)])
def test_only_the_local_block_within_a_sample_leaves_its_output_whole(scope, is_paired):
    block, dropped = small(scope), []
    block.dropout.register_forward_hook(lambda *_: dropped.append(True))
    block(torch.randn(2, 3, *GRID, dtype=torch.float64), is_paired)
    assert bool(dropped) == (scope == "global" or is_paired)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"scope must be one of \('local', 'global'\), got 'near'"):
        ChannelAttention(4, GRID, "near")
    with pytest.raises(ValueError, match=r"grid must be three even numbers, got \(2, 3, 2\)"):
        ChannelAttention(4, (2, 3, 2))
    with pytest.raises(ValueError, match="channels and heads must be at least 1, got 0 and 2"):
        ChannelAttention(0, GRID)
    with pytest.raises(ValueError, match=r"features: expected the grid \(2, 4, 2\), got .*2, 2, 2"):
        small("local")(torch.zeros(1, 3, 2, 2, 2))
    with pytest.raises(ValueError, match="features: expected an even batch of pairs, got 3"):
        small("local")(torch.zeros(3, 3, *GRID), True)
