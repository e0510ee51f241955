"""What the two programs that infer labels share: checks of the data, and the plan of training."""

from __future__ import annotations

from torch import nn

from pyro_ext.datasets import IndexedDataset, SimulatedTumours, Splits
from pyro_ext.inference import LossObjective, OptimizerSettings, Player, SchedulerSettings, TrainingPlan
from pyro_ext.models.tumour.evaluation import Task, diagnose, held_out_metrics, label_plots
from pyro_ext.models.tumour.programs import LabelGuide, compilation_loss
from pyro_ext.ops.mutations import MISSING
from pyro_ext.utils.checks import number_between, positive_number

__all__ = ["check_matrices", "label_plan"]

_REMARKS = (
    "`accuracy` is the share of held-out matrices whose label is right; `sensitivity` and `specificity` are those of "
    "{one} and {zero} matrices, `label_loss` is in nats. `exact_accuracy` is that of the exact test of {test}, with "
    "missing entries taken as 0: on data like these it is what a network can be compared with."
)
_TESTS = {"noise": "three gametes", "branching": "nested mutations"}


def check_matrices(data: Splits, task: Task) -> tuple[int, int]:
    """Return the numbers of cells and mutations of labelled matrices.

    Args:
        data: matrices as ``x`` ``(N, n, m)``, entries 0, 1 and 3, with labels 0 and 1.
        task: what labels say.

    Raises:
        ValueError: if a part of the data is something else.
    """
    if isinstance(data, SimulatedTumours) and data.labels != task:
        raise ValueError(f"data have labels={data.labels!r}; simulate them with labels={task!r}")
    parts = (("train", data.train), ("valid", data.valid), ("test", data.test))
    for name, part in parts:
        if part is None and name == "test":
            continue
        if not isinstance(part, IndexedDataset) or part.x.dim() != 3 or part.y is None or part.y.dim() != 1:
            raise ValueError(
                f"data.{name} must be matrices (N, cells, mutations) with a label each, as simulated_tumours has "
                f"them, got {part}"
            )
        if part.x.numel() == 0 or part.x.shape[1:] != data.train.x.shape[1:]:
            raise ValueError(f"data.{name} must hold matrices of one size, got shape {tuple(part.x.shape)}")
        if bool(((part.x != 0) & (part.x != 1) & (part.x != MISSING)).any()):
            raise ValueError(f"data.{name} must have entries 0, 1 and {MISSING} (missing), got another one")
        if bool(((part.y != 0) & (part.y != 1)).any()):
            raise ValueError(f"labels of data.{name} must be 0 and 1, got {part.y.unique().tolist()[:5]}")
    cells, mutations = data.train.x.shape[1:]
    return cells, mutations


def label_plan(
    data: Splits, network: nn.Module, task: Task, lr: float, decay: float, zero: str, one: str
) -> TrainingPlan:
    """Return the plan of training a network to tell labels.

    Args:
        data: labelled matrices.
        network: from matrices to log-odds.
        task: what labels say.
        lr: Adam's learning rate in the first epoch.
        decay: the factor by which it is multiplied after each epoch.
        zero: what matrices of label 0 are called.
        one: what matrices of label 1 are called.

    Raises:
        ValueError: if a number is out of range.
    """
    positive_number("lr", lr)
    number_between("decay", decay, 0, 1, "(]")
    schedule = None if decay == 1 else SchedulerSettings("ExponentialLR", gamma=decay)
    objective = LossObjective(compilation_loss, guide=LabelGuide(network))
    objective.label = "−log q(label | matrix) (nats per matrix)"
    return TrainingPlan(
        [Player("guide", objective, optimizer=OptimizerSettings("Adam", lr=lr, scheduler=schedule))],
        evaluate=held_out_metrics(network, task),
        headline="accuracy",
        headline_mode="max",
        plots=label_plots(network, data.valid, task),
        curves={"accuracy": ("accuracy", "exact_accuracy")},
        curve_labels={"accuracy": "share of held-out matrices classified correctly"},
        diagnose=diagnose,
        remarks=_REMARKS.format(zero=zero, one=one, test=_TESTS[task]),
    )
