"""The losses: values, signs, rows without labels, weights."""

import math

import pytest
import torch

from pyro_ext.models.drmm import DRMM, Layer
from pyro_ext.models.drmm.objective import (
    LossWeights,
    entropy_loss,
    kl_loss,
    label_loss,
    nonnegativity_loss,
    reconstruction_loss,
    training_losses,
)


def test_label_loss_is_of_labelled_rows_alone(dtype):
    logits = torch.randn(6, 4, dtype=dtype, requires_grad=True)
    y = torch.tensor([1, -1, 3, -1, -1, 0])
    known = y >= 0
    expected = -logits.log_softmax(-1)[known, y[known]].mean()
    torch.testing.assert_close(label_loss(logits, y), expected)
    label_loss(logits, torch.full((6,), -1)).backward()
    assert label_loss(logits, torch.full((6,), -1)) == 0
    assert logits.grad.abs().sum() == 0


def test_entropy_and_divergence_have_opposite_signs(dtype):
    logits = torch.randn(6, 4, dtype=dtype)
    uniform = torch.full((4,), 0.25, dtype=dtype).log()
    torch.testing.assert_close(entropy_loss(logits), math.log(4) - kl_loss(logits, uniform))
    q = torch.distributions.Categorical(logits=logits)
    torch.testing.assert_close(entropy_loss(logits), q.entropy().mean())
    prior = torch.randn(4, dtype=dtype).log_softmax(-1)
    expected = torch.distributions.kl_divergence(q, torch.distributions.Categorical(logits=prior)).mean()
    torch.testing.assert_close(kl_loss(logits, prior), expected)


def test_descending_entropy_decides_and_descending_divergence_spreads():
    for loss, sharper in ((entropy_loss, True), (lambda z: kl_loss(z, torch.full((3,), 1 / 3).log()), False)):
        logits = torch.tensor([[1.0, 0.5, 0.0]], requires_grad=True)
        before = logits.softmax(-1).max().item()
        (slope,) = torch.autograd.grad(loss(logits), logits)
        assert ((logits - slope).softmax(-1).max().item() > before) == sharper


def test_nonnegativity_is_of_all_levels_but_the_image():
    levels = [torch.tensor([-9.0]), torch.tensor([-1.0, 1.0]), torch.tensor([2.0, -2.0, 0.0, 0.0])]
    assert nonnegativity_loss(levels) == 0.5 + 1.0


def test_training_losses_are_those_of_one_pass():
    model = DRMM([Layer(3, 3, pool=2), Layer(4, 2)], 3, (1, 7, 7), noise=0.5).double()
    x = torch.randn(6, 1, 7, 7, dtype=torch.float64)
    y = torch.tensor([-1, -1, 1, -1, 0, 2])
    losses = training_losses(model, x, y, num_with_label=2)
    logits = model.dcn(x) / 0.25
    rendering = model.rendering(torch.where(y >= 0, y, logits.argmax(-1)), model.switches(x))
    assert losses.keys() == vars(LossWeights()).keys()
    torch.testing.assert_close(losses["label"], label_loss(logits, y))
    torch.testing.assert_close(losses["reconstruction"], reconstruction_loss(x[:4], rendering.image[:4]))
    torch.testing.assert_close(losses["entropy"], entropy_loss(logits[:4]))
    torch.testing.assert_close(losses["kl"], kl_loss(logits[:4], torch.full((3,), 1 / 3).double().log()))
    torch.testing.assert_close(losses["nonnegativity"], nonnegativity_loss([h[:4] for h in rendering.levels]))


@pytest.mark.parametrize("name", ["label", "reconstruction", "entropy", "kl", "nonnegativity"])
@pytest.mark.parametrize("value", [-0.5, math.inf, math.nan])
def test_bad_weights(name, value):
    with pytest.raises(ValueError, match=f"{name}_weight must be a finite number of at least 0, got {value}"):
        LossWeights(**{name: value})
