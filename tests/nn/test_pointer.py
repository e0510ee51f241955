"""Encoders of sets, pointers and exchangeable layers: order, padding, batches of one, the type of their inputs."""

import copy
import itertools

import pytest
import torch

from pyro_ext.nn import AttentionEncoder, ExchangeableLayer, MaskedBatchNorm, PointerDecoder
from tests.contracts.test_devices import WAYS, elsewhere


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_without_padding_is_that_of_torch(dtype, training):
    ours, theirs = MaskedBatchNorm(3).to(dtype), torch.nn.BatchNorm1d(3).to(dtype)
    for norm in (ours, theirs):
        torch.nn.init.constant_(norm.weight, 2.0)
    x = torch.randn(4, 5, 3, dtype=dtype)
    for _ in range(2):
        ours(x), theirs(x.flatten(0, 1))
    ours.train(training), theirs.train(training)
    torch.testing.assert_close(ours(x).flatten(0, 1), theirs(x.flatten(0, 1)))
    torch.testing.assert_close(ours.running_variance, theirs.running_var)
    torch.testing.assert_close(ours.running_mean, theirs.running_mean)


def test_batch_norm_leaves_padding_out():
    norm, x = MaskedBatchNorm(3), torch.randn(2, 5, 3)
    mask = torch.tensor([[True] * 3 + [False] * 2, [True] * 5])
    y = norm(x.masked_fill(~mask.unsqueeze(-1), 1e6), mask)
    expected = MaskedBatchNorm(3)(x[mask])
    torch.testing.assert_close(y[mask], expected)
    assert (y[~mask] == 0).all()


def test_batch_norm_of_a_single_item_uses_the_running_averages():
    norm = MaskedBatchNorm(3)
    norm(torch.randn(2, 5, 3))
    before = norm.running_variance.clone()
    x = torch.randn(1, 1, 3, requires_grad=True)
    y = norm(x)
    torch.testing.assert_close(y, norm.eval()(x))
    y.sum().backward()
    assert x.grad.isfinite().all()
    assert torch.equal(before, norm.running_variance)
    assert norm.train()(x.expand(1, 2, 3), torch.zeros(1, 2, dtype=torch.bool)).isfinite().all()


@pytest.mark.parametrize("blocks", [0, 2])
def test_a_permutation_of_items_permutes_their_codes(dtype, blocks):
    encoder = AttentionEncoder(4, 8, 2, blocks).to(dtype)
    x, order = torch.randn(3, 7, 4, dtype=dtype), torch.randperm(7)
    torch.testing.assert_close(encoder(x)[:, order], encoder(x[:, order]))


@pytest.mark.parametrize("training", [True, False])
def test_padding_changes_no_code(training):
    encoder = AttentionEncoder(4, 8, 2, 2).train(training)
    x = torch.randn(2, 7, 4)
    mask = torch.arange(7).expand(2, 7) < 5
    codes = copy.deepcopy(encoder)(x, mask)
    torch.testing.assert_close(codes[:, :5], encoder(x[:, :5]))
    assert (codes[:, 5:] == 0).all()
    nothing = torch.tensor([[True] * 7, [False] * 7])
    assert encoder(x, nothing).isfinite().all()


def test_published_sizes_are_the_defaults():
    encoder = AttentionEncoder(4)
    assert encoder.embedding.weight.shape == (128, 4)
    assert [block.num_heads for block in encoder.blocks] == [16, 16, 16]
    assert encoder.blocks[0].perceptron[0].weight.shape == (512, 128)


@pytest.mark.parametrize("call", [lambda: AttentionEncoder(4, 10, 4), lambda: AttentionEncoder(4)(torch.zeros(5, 4))])
def test_encoders_refuse(call):
    with pytest.raises(
        ValueError, match=r"width must be a multiple of num_heads|x must have shape \(batch, items, 4\)"
    ):
        call()


def sequence(decoder, items, lead=(), allowed=None, extra=None, steps=None):
    state, positions, total = decoder.start(items, allowed), [], 0
    for _ in range(items.shape[1] if steps is None else steps):
        state, logits = decoder.step(state, extra)
        d = torch.distributions.Categorical(logits=logits.expand(*lead, *logits.shape[-2:]), validate_args=False)
        positions.append(d.sample())
        total = total + d.log_prob(positions[-1])
        state = decoder.visit(state, positions[-1])
    return torch.stack(positions, -1), total, state


@pytest.mark.parametrize("lead", [(), (3,), (2, 3)])
def test_no_item_comes_twice(dtype, lead):
    decoder = PointerDecoder(8).to(dtype)
    positions, log_prob, _ = sequence(decoder, torch.randn(4, 6, 8, dtype=dtype), lead)
    assert positions.shape == (*lead, 4, 6)
    assert (positions.sort(-1).values == torch.arange(6)).all()
    assert log_prob.dtype == dtype
    log_prob.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in decoder.parameters())


def test_probabilities_of_all_sequences_sum_to_one():
    decoder, items = PointerDecoder(4).double(), torch.randn(1, 4, 4, dtype=torch.float64)
    total = 0
    for order in itertools.permutations(range(4), 3):
        state, log_prob = decoder.start(items), 0
        for place in order:
            state, logits = decoder.step(state)
            log_prob = log_prob + logits.log_softmax(-1)[0, place]
            state = decoder.visit(state, torch.tensor([place]))
        total = total + log_prob.exp()
    assert total.item() == pytest.approx(1.0)


def test_what_is_not_allowed_is_not_pointed_at_and_not_seen():
    decoder, items = PointerDecoder(8), torch.randn(2, 6, 8)
    allowed = torch.arange(6).expand(2, 6) < 4
    _, logits = decoder.step(decoder.start(items, allowed))
    _, short = decoder.step(decoder.start(items[:, :4]))
    torch.testing.assert_close(logits[:, :4], short)
    assert (logits[:, 4:] == -torch.inf).all()
    positions, _, _ = sequence(decoder, items, allowed=allowed, steps=4)
    assert (positions < 4).all()


def test_logits_are_clipped_and_extra_changes_them():
    decoder, items = PointerDecoder(8, clip=2.0), torch.randn(2, 6, 8)
    state = decoder.start(items)
    _, plain = decoder.step(state)
    _, changed = decoder.step(state, 100 * torch.randn(5, 2, 6, 8))
    assert plain.abs().max() <= 2
    assert changed.abs().max() <= 2
    assert changed.shape == (5, 2, 6)
    assert not torch.allclose(plain.expand(5, 2, 6), changed)


def test_where_nothing_is_left_all_may_come_again():
    decoder, items = PointerDecoder(8), torch.randn(2, 3, 8)
    positions, log_prob, _ = sequence(decoder, items, steps=5)
    assert (positions[:, :3].sort(-1).values == torch.arange(3)).all()
    assert log_prob.isfinite().all()


@pytest.mark.parametrize("lead", [(), (2,), (2, 3)])
def test_exchangeable_layers_commute_with_permutations(dtype, lead):
    layer = ExchangeableLayer(3, 5).to(dtype)
    x, rows, columns = torch.randn(*lead, 6, 4, 3, dtype=dtype), torch.randperm(6), torch.randperm(4)
    torch.testing.assert_close(layer(x)[..., rows, :, :][..., columns, :], layer(x[..., rows, :, :][..., columns, :]))


def test_exchangeable_layers_leave_padding_out():
    layer, x = ExchangeableLayer(3, 5), torch.randn(2, 6, 4, 3)
    mask = torch.zeros(2, 6, 4, dtype=torch.bool)
    mask[:, :5, :3] = True
    torch.testing.assert_close(layer(x, mask)[:, :5, :3], layer(x[:, :5, :3]))


@pytest.mark.parametrize("way", WAYS)
def test_they_keep_to_the_device_and_type_of_their_inputs(way):
    layers = AttentionEncoder(4, 8, 2, 1), PointerDecoder(8), ExchangeableLayer(4, 3)
    items, mask, matrix = torch.randn(2, 6, 4), torch.ones(2, 6, dtype=torch.bool), torch.randn(2, 3, 2, 4)
    with elsewhere(way) as (_, device):
        encoder, decoder, layer = (each.to(device) for each in layers)
        codes = encoder(items.to(device), mask.to(device))
        _, log_prob, _ = sequence(decoder, codes, lead=(3,))
        assert (log_prob.device, log_prob.dtype) == (device, torch.float32)
        assert layer(matrix.to(device), mask.to(device).view(2, 3, 2)).device == device
        log_prob.sum().backward()
