"""The members of the sample-set family, one class per estimator."""

from __future__ import annotations

from typing import Any

from pyro_ext.inference.sample_sets.engine import TraceSampleSet_ELBO

__all__ = ["TraceLeaveOneOut_ELBO", "TraceSumAndSample_ELBO", "TraceUnorderedSet_ELBO"]


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
        **kwargs: further arguments of :class:`TraceSampleSet_ELBO`, ``num_particles`` among them.

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
        **kwargs: further arguments of :class:`TraceSampleSet_ELBO`, ``num_particles`` among them.

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

    It takes any non-reparameterised site, infinite supports too.

    Args:
        num_samples: the number k of draws per site.
        baseline: whether to subtract the built-in baseline.
        analytic_kl: whether to use closed-form Kullback-Leibler divergences where Pyro knows them.
        **kwargs: further arguments of :class:`TraceSampleSet_ELBO`, ``num_particles`` among them.

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

    def __init__(self, num_samples: int = 4, baseline: bool = True, analytic_kl: bool = False, **kwargs: Any) -> None:
        super().__init__(num_samples, estimator="leave_one_out", baseline=baseline, analytic_kl=analytic_kl, **kwargs)
