"""How ``pyro-ext sbn fit --method auto`` chooses: the way of fitting that predicts held-out trees best."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from pyro_ext.distributions import held_out_log_likelihood
from pyro_ext.phylo import TreeSet
from pyro_ext.utils.tables import markdown_table

if TYPE_CHECKING:
    from jsonargparse import Namespace

__all__ = ["Choice", "chosen", "fit_options"]

_ALPHAS = (0.0, 1e-4, 1e-3, 1e-2, 1e-1)
_FOLDS = 5


class Choice(NamedTuple):
    """A way of fitting.

    Args:
        method: the method.
        alpha: the strength of the prior.
        why: why it was chosen, to be printed; empty if it was given.
    """

    method: str
    alpha: float
    why: str


def fit_options(options: Namespace) -> dict[str, Any]:
    """Return the arguments of :meth:`.SubsplitBayesianNetwork.fit` that do not depend on the method."""
    names = ("prior", "max_iterations", "min_iterations", "tolerance", "progress")
    return {name: options[name] for name in names}


def chosen(trees: TreeSet, options: Namespace) -> Choice:
    """Return the method given, that for the kind of trees, or the one that predicts held-out trees best.

    Args:
        trees: the sample, in its order.
        options: the options of the command.

    Raises:
        ValueError: if ``--alpha`` or ``--polytomies all`` is given beside ``--method auto``, or there is one tree only.
    """
    own = "maximum_likelihood" if trees.rooted else "em"
    if options.method is None:
        return Choice(own, options.alpha, f"method {own}, as the trees are {'' if trees.rooted else 'un'}rooted")
    if options.method != "auto":
        return Choice(options.method, options.alpha, "")
    if options.alpha:
        raise ValueError(f"--method auto chooses the prior too: leave out --alpha {options.alpha:g}, or name a method")
    if options.polytomies == "all":
        raise ValueError(
            "--method auto holds out whole trees of the files, and --polytomies all makes several of one: use "
            "--polytomies random, or name a method"
        )
    candidates = [*([] if trees.rooted else [("simple_average", 0.0)]), *((own, alpha) for alpha in _ALPHAS)]
    scores = [
        held_out_log_likelihood(trees, folds=_FOLDS, method=method, alpha=alpha, **fit_options(options))
        for method, alpha in candidates
    ]
    best = max(range(len(candidates)), key=lambda place: scores[place])  # the first of equal ones
    method, alpha = candidates[best]
    rows = [(name, f"{alpha:g}", f"{score:.6f}") for (name, alpha), score in zip(candidates, scores, strict=True)]
    table = markdown_table(rows, ("method", "alpha", "held-out log-likelihood"))
    return Choice(
        method,
        alpha,
        f"{table}\nmethod {method} with alpha {alpha:g}, as it predicts held-out trees best, in {_FOLDS} folds",
    )
