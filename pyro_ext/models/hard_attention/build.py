"""From canvases and options to a plan of training."""

from __future__ import annotations

from collections.abc import Sequence

from pyro.infer import Trace_ELBO

from pyro_ext.datasets import Splits
from pyro_ext.inference import OptimizerSettings, Player, TraceSumAndSample_ELBO, TrainingPlan
from pyro_ext.models.hard_attention.evaluation import diagnose, evaluation, model_plots
from pyro_ext.models.hard_attention.model import Guide, Model, Scores
from pyro_ext.models.toolkit import Relaxation, check_image_data, perceptron
from pyro_ext.models.toolkit.baseline import LearnedBaselineObjective
from pyro_ext.utils.checks import positive_int

__all__ = ["build"]

_REMARKS = (
    "`exact` and `near` are the shares of held-out canvases whose best position is the true one, and within a pixel of "
    "it; `exact_aligned` and `near_aligned` those after the best common shift has been undone, since the model is "
    "free to draw all digits off the centre of their window. `neg_elbo` and `position_entropy` are in nats per canvas."
)


def build(
    data: Splits,
    window: int = 28,
    latent_dim: int = 5,
    hidden: Sequence[int] = (256,),
    channels: int = 8,
    scores: Scores = "convolutional",
    learned_baseline: bool = False,
    baseline_hidden: int = 64,
    marginalise: bool = False,
    evaluation_samples: int = 8,
    evaluation_seed: int = 0,
    relaxation: Relaxation | None = None,
) -> TrainingPlan:
    """Build the model of a digit somewhere on a canvas.

    Its ELBO is ``TraceSumAndSample_ELBO(num_samples=6, num_summed=5, analytic_kl=True)``: the five most probable
    positions summed and one more drawn; ``with_elbo`` of the plan takes another one. With a relaxation it is
    ``Trace_ELBO``, and with ``learned_baseline`` one position is drawn and the baseline predicted from the canvas.
    The optimiser is Adam at 1e-3.

    Args:
        data: canvases as rows of zeros and ones, with the positions of their digits as labels.
        window: the height and width of the window in which the digit is looked for and drawn, in pixels.
        latent_dim: the number of dimensions of the style z.
        hidden: the widths of the hidden layers of encoder and decoder.
        channels: the number of channels of the convolutional network that scores positions.
        scores: what scores positions: a ``"convolutional"`` network, which learns for all places what it learns at one,
            or a ``"dense"`` layer from every pixel to every position, which shares nothing between them.
        learned_baseline: whether to train by REINFORCE with a baseline that a network predicts from the canvas.
        baseline_hidden: the width of the hidden layer of the network that predicts the baseline.
        marginalise: whether to sum over all positions by Pyro's own enumeration, whatever the ELBO; for small canvases.
        evaluation_samples: the number of positions and styles drawn for each held-out canvas.
        evaluation_seed: the seed of the draws in evaluation, which are the same whenever it is repeated.
        relaxation: how to train through relaxed positions, instead of an estimator for discrete ones.

    Raises:
        ValueError: if an option is out of range, two of ``learned_baseline``, ``marginalise`` and ``relaxation`` are
            given, or the data are not binary canvases of a known shape with positions.
    """
    positive_int("evaluation_samples", evaluation_samples)
    ways = {"learned_baseline": learned_baseline, "marginalise": marginalise, "relaxation": relaxation is not None}
    chosen = [name for name, given in ways.items() if given]
    if len(chosen) > 1:
        raise ValueError(f"{' and '.join(chosen)} exclude each other: they are ways to treat the position; give one")
    shape = _canvas_shape(data)
    model = Model(len(data.train), shape, window, latent_dim, hidden)
    guide = Guide(len(data.train), shape, window, latent_dim, hidden, channels, marginalise, scores)
    elbo = TraceSumAndSample_ELBO(num_samples=6, num_summed=5, analytic_kl=True, max_plate_nesting=1)
    plan = TrainingPlan.of(
        model,
        guide,
        elbo,
        optimizer=OptimizerSettings("Adam", lr=1e-3),
        evaluate=evaluation(model, guide, evaluation_samples, evaluation_seed),
        headline="neg_elbo",
        plots=model_plots(model, guide, data),
        curves={"positions": ("near", "near_aligned")},
        curve_labels={"positions": "share of held-out canvases with the digit found"},
        diagnose=diagnose,
        remarks=_REMARKS,
    )
    if learned_baseline:
        baseline = perceptron(shape[0] * shape[1], baseline_hidden, 1)
        objective = LearnedBaselineObjective(model, guide, baseline)
        plan.players = [Player("model", objective, optimizer=plan.players[0].optimizer)]
    return plan if relaxation is None else relaxation.of(plan, Trace_ELBO(max_plate_nesting=1))


def _canvas_shape(data: Splits) -> tuple[int, int]:
    check_image_data(data, held_out=True)
    pixels = data.train.x.shape[-1]
    shape = data.image_shape
    if shape is None or shape[0] * shape[1] != pixels:
        raise ValueError(f"data.image_shape must be height and width of the canvases of {pixels} pixels, got {shape}")
    for name, part in (("valid", data.valid), ("test", data.test)):
        if part is None:
            continue
        y = part.y
        if y is None or y.dim() != 1 or y.is_floating_point() or bool(((y < 0) | (y >= pixels)).any()):
            raise ValueError(
                f"data.{name} must have positions, row times {shape[1]} plus column, integers from 0 to {pixels - 1}, "
                f"as labels, got {part}; they serve evaluation alone"
            )
    return shape
