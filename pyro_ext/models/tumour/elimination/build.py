"""From simulated matrices and options to a plan of training."""

from __future__ import annotations

from torch import Tensor

from pyro_ext.datasets import Splits
from pyro_ext.inference import OptimizerSettings, Player, TraceUnorderedBeam_ELBO, TrainingPlan
from pyro_ext.models.toolkit import mean_metrics
from pyro_ext.models.toolkit.baseline import LearnedBaselineObjective
from pyro_ext.models.tumour.elimination.critic import Critic
from pyro_ext.models.tumour.elimination.denoising import check_matrices
from pyro_ext.models.tumour.elimination.evaluation import diagnose, elimination_metrics, model_plots
from pyro_ext.models.tumour.elimination.policy import FlipPolicy
from pyro_ext.models.tumour.elimination.program import Guide, Model
from pyro_ext.utils.checks import number_between, positive_int

__all__ = ["build"]

_REMARKS = (
    "Costs are gamma times the negative log-likelihood in nats, plus the gametes of all ordered pairs of columns in "
    "conflict. `cost` is that of one sequence of flips drawn from the guide, `argmax_cost` of the most probable one, "
    "`denoised_cost` of the best of several; `neg_log_likelihood`, in nats, `conflict_free` and `wrong`, the share of "
    "entries that differ from the truth, are of the last. A matrix more probable than the truth is usual: fewer "
    "conflicts and more likelihood do not mean fewer wrong entries."
)


def build(
    data: Splits,
    num_flips: int = 12,
    gamma: float = 0.04,
    temperature: float = 0.02,
    width: int = 32,
    num_heads: int = 4,
    num_blocks: int = 1,
    state: bool = True,
    num_samples: int = 4,
    learned_baseline: bool = False,
    false_positive: float | None = None,
    false_negative: float | None = None,
    evaluation_samples: int = 16,
    evaluation_temperature: float = 3.0,
    evaluation_seed: int = 0,
) -> TrainingPlan:
    """Build the network that eliminates noise, and the program that it is the guide of.

    The ELBO is ``TraceUnorderedBeam_ELBO``: ``num_samples`` distinct sequences for each matrix; ``with_elbo`` of the
    plan takes another one, such as ``TraceLeaveOneOut_ELBO(vectorize_samples=False)`` or ``Trace_ELBO``. ELBOs that
    draw a set for each site follow the product of all sets, and do not go with more than a few flips. With
    ``learned_baseline`` one sequence is drawn, and a critic predicts its cost. Published are ``width=128``,
    ``num_heads=16``, ``num_blocks=3``, ``state=False``, sequences of half of the entries, and the critic. The optimiser
    is Adam at 2e-3.

    Args:
        data: observed matrices ``x`` (1 present, 0 absent, 3 missing, -1 padding), and perhaps true ones as labels.
        num_flips: the number of entries that a sequence flips in training; the best beginning of it counts.
        gamma: the weight of a nat of the likelihood against a conflict.
        temperature: the temperature of the factor of the cost; the smaller, the closer to the sequences of least cost.
        width: the number of features of an encoded entry.
        num_heads: the number of heads of attention, which divides ``width``.
        num_blocks: the number of blocks of attention; with 0 an entry is encoded on its own.
        state: whether the pointer sees the matrix as the flips so far have left it.
        num_samples: the number of distinct sequences drawn for each matrix.
        learned_baseline: whether to train by REINFORCE with a baseline that a critic predicts from the matrix.
        false_positive: the rate of false positives that the cost assumes; that of the simulated data if None.
        false_negative: the rate of false negatives that the cost assumes; that of the simulated data if None.
        evaluation_samples: the number of sequences drawn to denoise a held-out matrix.
        evaluation_temperature: the temperature at which they are drawn, by which the logits are divided.
        evaluation_seed: the seed of the draws in evaluation, which are the same whenever it is repeated.

    Raises:
        ValueError: if an option is out of range, a rate is not known or lies outside of (0, 1), or the data are no
            matrices of this kind with at least ``num_flips`` entries.
    """
    positive_int("evaluation_samples", evaluation_samples)
    _check_data(data, positive_int("num_flips", num_flips))
    alpha = _rate(data, "false_positive", false_positive)
    beta = _rate(data, "false_negative", false_negative)
    size = len(data.train)
    model = Model(size, alpha, beta, num_flips, gamma, temperature)
    policy = FlipPolicy(alpha, beta, gamma, width, num_heads, num_blocks, state)
    guide = Guide(size, policy, num_flips)
    metrics = elimination_metrics(guide, evaluation_samples, evaluation_temperature)
    plan = TrainingPlan.of(
        model,
        guide,
        TraceUnorderedBeam_ELBO(num_samples=num_samples, max_plate_nesting=1),
        optimizer=OptimizerSettings("Adam", lr=2e-3),
        evaluate=mean_metrics(guide, metrics, evaluation_seed),
        headline="denoised_cost",
        plots=model_plots(guide, data, evaluation_samples),
        curves={"costs": ("cost", "argmax_cost", "denoised_cost", "greedy_cost")},
        curve_labels={"costs": "cost of held-out matrices"},
        diagnose=diagnose,
        remarks=_REMARKS,
    )
    if learned_baseline:
        critic = Critic(alpha, beta, width, num_heads, num_blocks)
        objective = LearnedBaselineObjective(model, guide, critic)
        plan.players = [Player("model", objective, optimizer=plan.players[0].optimizer)]
    return plan


def _rate(data: Splits, name: str, given: float | None) -> float:
    rate = getattr(data, name, None) if given is None else given
    if rate is None:
        raise ValueError(f"{name} must be given for data that do not say at which rates their errors were made")
    try:
        return number_between(name, rate, 0, 1, "()")
    except ValueError as error:
        if given is not None:
            raise
        raise ValueError(f"{error}, the rate of the data; give the option {name} of the model") from None


def _check_data(data: Splits, num_flips: int) -> None:
    for part in ("train", "valid", "test"):
        rows = getattr(data, part)
        if rows is None and part != "train":
            continue
        x = getattr(rows, "x", None)
        if not isinstance(x, Tensor):
            raise ValueError(
                f"data.{part} must hold matrices as rows of x, got {type(rows).__name__}; load the data set "
                "'simulated_tumours' with labels='matrix'"
            )
        check_matrices(f"data.{part}.x", x)
        least = int((x >= 0).sum((-2, -1)).min())
        if part == "train" and least < num_flips:
            raise ValueError(
                f"num_flips must be at most the number of entries of each matrix ({least}), got {num_flips}"
            )
