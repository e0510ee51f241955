"""The members of the sample-set family, one class per estimator."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from pyro.infer.enum import get_importance_trace
from torch import Tensor

from pyro_ext.inference._leave_one_out import leave_one_out_loss, refuse_enumeration
from pyro_ext.inference._programs import ProgramWatch
from pyro_ext.inference._traces import SharedSubsample, plate_nesting, refuse_guide_messenger
from pyro_ext.inference.elbo import ModelOrGuide
from pyro_ext.inference.sample_sets.engine import TraceSampleSet_ELBO
from pyro_ext.inference.sample_sets.messenger import OneDrawMessenger

__all__ = ["TraceLeaveOneOut_ELBO", "TraceSumAndSample_ELBO", "TraceUnorderedSet_ELBO"]

_PARTICLES = (
    "the particles, an extra dim on the left of every value",
    "Write it so that it does, or use vectorize_particles=False, which runs it once per particle",
)


class TraceUnorderedSet_ELBO(TraceSampleSet_ELBO):
    r"""The unordered-set estimator: k distinct values per discrete site, drawn without replacement.

    .. math:: E_q f \approx \sum_{s \in S} p(s) R(S, s) f(s)

    with the leave-one-out ratio R. It is unbiased and exact once k reaches the size of the support. Without the
    baseline its variance is at most that of any estimator from k ordered draws whose average over the orders it is.
    Sites marked ``.to_event`` get joint sets by stochastic beam search.

    Args:
        num_samples: the size k of the set of each site.
        baseline: whether to subtract the built-in baseline.
        analytic_kl: whether to use closed-form Kullback-Leibler divergences where Pyro knows them.
        **kwargs: further arguments of :class:`TraceSampleSet_ELBO`, such as ``control_variate`` and ``num_particles``.

    References:
        | Estimating Gradients for Discrete Random Variables by Sampling without Replacement (Kool et al., 2020)
        | https://arxiv.org/abs/2002.06043

    Example:
        >>> def model():
        ...     z = pyro.sample("z", dist.Categorical(torch.ones(3)))
        ...     pyro.sample("x", dist.Normal(z.float(), 1.0), obs=torch.tensor(2.0))
        >>> logits = torch.zeros(3, requires_grad=True)
        >>> def guide():
        ...     pyro.sample("z", dist.Categorical(logits=logits))
        >>> loss = TraceUnorderedSet_ELBO(num_samples=2).differentiable_loss(model, guide)
        >>> round(loss.item(), 4), torch.autograd.grad(loss, logits)
        (1.9189, (tensor([ 0.6667,  0.0000, -0.6667]),))
    """

    def __init__(self, num_samples: int = 4, baseline: bool = True, analytic_kl: bool = False, **kwargs: Any) -> None:
        super().__init__(num_samples, estimator="unordered_set", baseline=baseline, analytic_kl=analytic_kl, **kwargs)


class TraceSumAndSample_ELBO(TraceSampleSet_ELBO):
    r"""Sum-and-sample (Rao-Blackwellised) estimator: the most probable values summed, the remainder sampled.

    .. math:: E_q f \approx \sum_{s \in C} q(s) f(s) + \frac{q(\bar C)}{m} \sum_{j=1}^{m} f(v_j),
        \quad v_j \sim q(\cdot \mid \bar C)

    where C holds the ``num_summed`` most probable values and m = k - num_summed. The baseline reuses these
    evaluations. Sites marked ``.to_event`` are treated jointly.

    Args:
        num_samples: the number k of evaluations per site.
        num_summed: how many of the k evaluations are summed, less than k; ``"optimal"`` minimises the bound on the
            variance without a baseline, for each batch element.
        baseline: whether to subtract the built-in baseline.
        analytic_kl: whether to use closed-form Kullback-Leibler divergences where Pyro knows them.
        **kwargs: further arguments of :class:`TraceSampleSet_ELBO`, such as ``control_variate`` and ``num_particles``.

    References:
        | Rao-Blackwellized Stochastic Gradients for Discrete Distributions (Liu et al., 2019)
        | https://arxiv.org/abs/1810.04777

    Example:
        >>> def model():
        ...     z = pyro.sample("z", dist.Categorical(torch.ones(3)))
        ...     pyro.sample("x", dist.Normal(z.float(), 1.0), obs=torch.tensor(2.0))
        >>> logits = torch.tensor([2.0, 1.0, 0.0], requires_grad=True)
        >>> def guide():
        ...     pyro.sample("z", dist.Categorical(logits=logits))
        >>> elbo = TraceSumAndSample_ELBO(num_samples=2, num_summed=1)
        >>> loss = elbo.loss(model, guide)
    """

    def __init__(
        self,
        num_samples: int = 4,
        num_summed: int | str = "optimal",
        baseline: bool = True,
        analytic_kl: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            num_samples,
            estimator="sum_and_sample",
            num_summed=num_summed,
            baseline=baseline,
            analytic_kl=analytic_kl,
            **kwargs,
        )


class TraceLeaveOneOut_ELBO(TraceSampleSet_ELBO):
    r"""REINFORCE with k independent draws per site, the baseline of each being the mean over the others.

    .. math:: \nabla E_q f \approx \frac{1}{k} \sum_s \left( f(s) - \frac{1}{k-1} \sum_{s' \neq s} f(s') \right)
        \nabla \log q(s) + \nabla f(s)

    It takes any non-reparameterised site, infinite supports too. Every site has k draws, for each value of the sites
    it depends on, in one run of the program, whose operations must broadcast over dims on the left. With
    ``vectorize_samples=False`` the program runs k times, each time with one draw per site, as
    :class:`pyro.infer.Trace_ELBO` runs it: it may do whatever it likes, such as index parameters by a latent value or
    sample a random number of sites; f is then the part of the log weight that the site's plates allow it to influence.

    Args:
        num_samples: the number k of draws per site.
        baseline: whether to subtract the built-in baseline.
        analytic_kl: whether to use closed-form Kullback-Leibler divergences where Pyro knows them.
        vectorize_samples: whether the k draws of a site are one dim in a single run of the program, or k runs of it,
            which share the data drawn by subsampling plates.
        **kwargs: further arguments of :class:`TraceSampleSet_ELBO`, such as ``control_variate`` and ``num_particles``.

    Raises:
        ValueError: also if ``analytic_kl`` is combined with ``vectorize_samples=False``, or a site is marked with
            another estimator or number of samples there.
        NotImplementedError: also for model sites to be summed out, with ``vectorize_samples=False``.

    References:
        | Buy 4 REINFORCE Samples, Get a Baseline for Free! (Kool et al., 2019)
        | https://openreview.net/forum?id=r1lgTGL5DE

    Example:
        >>> def model():
        ...     z = pyro.sample("z", dist.Poisson(2.0))
        ...     pyro.sample("x", dist.Normal(z, 1.0), obs=torch.tensor(2.0))
        >>> rate = torch.tensor(3.0, requires_grad=True)
        >>> def guide():
        ...     pyro.sample("z", dist.Poisson(rate))
        >>> loss = TraceLeaveOneOut_ELBO(num_samples=8).loss(model, guide)
    """

    def __init__(
        self,
        num_samples: int = 4,
        baseline: bool = True,
        analytic_kl: bool = False,
        vectorize_samples: bool = True,
        **kwargs: Any,
    ) -> None:
        if analytic_kl and not vectorize_samples:
            raise ValueError(
                "analytic_kl=True needs vectorize_samples=True: runs of the program are compared by samples"
            )
        if kwargs.get("control_variate") is not None and not vectorize_samples:
            raise ValueError(
                "control_variate needs vectorize_samples=True: runs of the program that draw each site once have no "
                "site whose values could be compared"
            )
        super().__init__(num_samples, estimator="leave_one_out", baseline=baseline, analytic_kl=analytic_kl, **kwargs)
        self.vectorize_samples = vectorize_samples

    def extra_repr(self) -> str:
        """Return the estimator, its sizes, and how its draws are run, for ``repr``."""
        return f"{super().extra_repr()}, vectorize_samples={self.vectorize_samples}"

    def _estimate(self, model: ModelOrGuide, guide: ModelOrGuide, args: Any, kwargs: Any) -> Tensor:
        if self.vectorize_samples:
            return super()._estimate(model, guide, args, kwargs)
        refuse_guide_messenger(guide, self)
        repeats, watch = self.num_particles, ProgramWatch(model, guide, *_PARTICLES)
        if self.vectorize_particles:
            plate_nesting(self, model, guide, args, kwargs)
            model, guide = self._vectorized_num_particles(watch.model), self._vectorized_num_particles(watch.guide)
            repeats = 1
        with watch.explaining(args, kwargs) if self.vectorize_particles else contextlib.nullcontext():
            sets = [self._runs(model, guide, args, kwargs) for _ in range(repeats)]
        return torch.stack([leave_one_out_loss(runs, self.baseline) for runs in sets]).sum() / self.num_particles

    def _runs(self, model: ModelOrGuide, guide: ModelOrGuide, args: Any, kwargs: Any) -> list[tuple[Any, Any]]:
        """Return the traces of k independent runs on the same data."""
        shared, check = SharedSubsample(), OneDrawMessenger(self.options)
        runs = []
        for _ in range(self.options.num_samples):
            traces = get_importance_trace(
                "flat", self.max_plate_nesting, shared(model), shared(check(guide)), args, kwargs
            )
            refuse_enumeration("TraceLeaveOneOut_ELBO(vectorize_samples=False)", *traces)
            runs.append(traces)
        return runs
