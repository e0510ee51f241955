"""Batch norm on both ways, folded into templates, and with images of two kinds."""

import pyro
import pytest
import torch

from pyro_ext.models.drmm import DRMM, Layer
from pyro_ext.models.drmm.conversion import fold_batch_norm, scale_and_shift
from pyro_ext.models.drmm.exact import exact_map

LAYERS = [Layer(4, 3, pool=2, padding=1), Layer(6, 2)]
SHAPE = (1, 7, 7)


def trained(batch_norm, dtype=torch.float64, switch="relu"):
    model = DRMM(LAYERS, 3, SHAPE, batch_norm=batch_norm, switch=switch).to(dtype)
    with torch.no_grad():
        for layer in model.layers:
            layer.biases.normal_()
            layer.norm_up.weight.normal_()  # of any sign
            layer.norm_up.bias.normal_()
        for _ in range(5):
            model.reconstruct(2 * torch.randn(20, *SHAPE, dtype=dtype) + 1)
    return model


@pytest.mark.parametrize("switch", ["relu", "leaky", "abs"])
@pytest.mark.parametrize("batch_norm", ["up", "both"])
def test_folded_scores_are_those_of_evaluation(batch_norm, switch, dtype):
    model = trained(batch_norm, dtype, switch)
    x = torch.randn(5, *SHAPE, dtype=dtype)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    plain = fold_batch_norm(model)
    assert plain.batch_norm == "none"
    assert not any("norm_" in name for name in plain.state_dict())
    torch.testing.assert_close(plain.dcn(x), model.eval().dcn(x), rtol=1e-4, atol=1e-4)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in before.items())


def test_folded_model_scores_what_it_renders():
    plain = fold_batch_norm(trained("both"))
    x = torch.randn(5, *SHAPE, dtype=torch.float64)
    scores, _, switches = plain.infer(x)
    rendering = plain.rendering(scores.argmax(-1), switches)
    value = (x * rendering.image).sum((1, 2, 3)) + rendering.bias_term
    torch.testing.assert_close(value, scores.amax(-1))


def test_without_batch_norm_folding_copies():
    model = DRMM(LAYERS, 3, SHAPE)
    other = fold_batch_norm(model)
    x = torch.randn(5, *SHAPE)
    assert torch.equal(other.dcn(x), model.dcn(x))
    assert other.class_templates.data_ptr() != model.class_templates.data_ptr()


def test_rendered_channels_are_normalised_on_the_way_down():
    model = DRMM(LAYERS, 3, SHAPE, batch_norm="both")
    image = model.reconstruct(10 * torch.randn(50, *SHAPE))
    assert image.mean().item() == pytest.approx(0, abs=1e-5)
    assert image.var(correction=0).item() == pytest.approx(1, abs=1e-3)
    assert DRMM(LAYERS, 3, SHAPE, batch_norm="up").layers[0].norm_down is None


def gap(model, data):
    """How much scores in evaluation differ from those in training, in their standard deviations."""
    own = model.train().dcn(data)
    held = model.eval().dcn(data)
    return ((own - held).abs().mean() / own.std()).item()


def test_statistics_of_both_kinds_serve_in_evaluation():
    bright, dark = torch.rand(200, *SHAPE), 0.2 * torch.rand(200, *SHAPE)
    gaps = {}
    for name, batches in {"mixed": [torch.cat([bright, dark])], "apart": [bright, dark]}.items():
        pyro.set_rng_seed(1)
        model = DRMM(LAYERS, 3, SHAPE, batch_norm="both")
        for number in range(40):
            batch = batches[number % len(batches)]
            model.infer(batch[torch.randperm(len(batch))[:100]])
        gaps[name] = gap(model, torch.cat([bright, dark]))
    assert gaps["mixed"] < 0.1
    assert gaps["apart"] > 2 * gaps["mixed"]


def test_statistics_are_needed():
    with pytest.raises(ValueError, match="batch norm without running statistics cannot be folded"):
        scale_and_shift(torch.nn.BatchNorm2d(3, track_running_stats=False))


def test_exact_inference_refuses_batch_norm():
    model = DRMM([Layer(2, 2, pool=2)], 3, (1, 3, 3), batch_norm="up")
    with pytest.raises(ValueError, match="enumerating all configurations needs a model without batch norm"):
        exact_map(model, torch.zeros(1, 1, 3, 3))
