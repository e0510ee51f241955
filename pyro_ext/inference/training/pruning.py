"""Training that removes weights as it goes."""

from __future__ import annotations

from typing import Any

from pyro_ext.inference.training.objectives import Losses, Objective
from pyro_ext.nn import GradualMagnitudePruning

__all__ = ["PruningObjective"]


class PruningObjective(Objective):
    """An objective whose network is pruned gradually by magnitude.

    The masks belong to the objective, so that they are in checkpoints. The plan needs
    ``pruning.set_num_steps`` among its schedules.

    Args:
        objective: what is minimised.
        pruning: how weights are removed.

    Raises:
        ValueError: if ``objective`` is no objective.

    References:
        | To prune, or not to prune: exploring the efficacy of pruning for model compression (Zhu and Gupta, 2017)
        | https://arxiv.org/abs/1710.01878

    Example:
        >>> from pyro_ext.inference import LossObjective, Player, TrainingPlan
        >>> network = torch.nn.Linear(4, 2)
        >>> loss = LossObjective(lambda x, y, index, network: (network(x) - y).square().mean(), network=network)
        >>> pruning = GradualMagnitudePruning(network, sparsity=0.5, end=10, every=1)
        >>> player = Player("network", PruningObjective(loss, pruning))
        >>> plan = TrainingPlan([player], schedules=[pruning.set_num_steps])
    """

    def __init__(self, objective: Objective, pruning: GradualMagnitudePruning) -> None:
        super().__init__()
        if not isinstance(objective, Objective):
            raise ValueError(f"objective must be an Objective such as LossObjective, got {objective!r}")
        self.objective = objective
        self.pruning = pruning

    @property
    def loss_label(self) -> str:
        """What the objective's loss is."""
        return self.objective.loss_label

    def forward(self, *batch: Any) -> Losses:
        """Return the losses of the objective."""
        return self.objective(*batch)

    def after_step(self) -> None:
        """Set removed weights to zero again, which momentum may have moved."""
        super().after_step()
        self.pruning.after_step()
