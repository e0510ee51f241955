"""The ELBO whose discrete guide sites hold weighted sample sets."""

from __future__ import annotations

import functools
import math
import queue
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from pyro import poutine
from pyro.infer import TraceEnum_ELBO
from pyro.infer.enum import iter_discrete_escape, iter_discrete_extend
from torch import Tensor

from pyro_ext.inference._programs import ProgramWatch
from pyro_ext.inference._traces import SharedSubsample, refuse_guide_messenger
from pyro_ext.inference.control_variates import ControlVariates
from pyro_ext.inference.elbo import DifferentiableELBO, ModelOrGuide, checked_loss, value_with_gradient_of
from pyro_ext.inference.sample_sets.dice import expected_elbo
from pyro_ext.inference.sample_sets.draw import SampleSet, SetOptions, draw_sample_set
from pyro_ext.inference.sample_sets.messenger import (
    SET_KEY,
    ModelEnumMessenger,
    ProbabilityCheckMessenger,
    SampleSetMessenger,
)
from pyro_ext.inference.sample_sets.options import checked_options
from pyro_ext.inference.sample_sets.plate_escape import check_single_values
from pyro_ext.inference.sample_sets.traces import packed_traces

__all__ = ["TraceSampleSet_ELBO"]


class TraceSampleSet_ELBO(DifferentiableELBO, TraceEnum_ELBO):
    r"""An ELBO that evaluates a weighted set of values at each discrete site of the guide.

    Every guide site that is neither reparameterised nor marked ``infer={"enumerate": ...}`` gets its own enumeration
    dim holding ``num_samples`` values with weights :math:`w_s`. The bound is :math:`\sum_s w_s f(s)`, nested over
    sites and plates, and its gradient

    .. math:: \sum_s w_s \left[ (f(s) - b_s) \nabla \log q(s) + \nabla f(s) \right],

    where f is the cost downstream of the site only. Sites marked ``.to_event`` get joint sets. A single site may
    choose for itself by ``infer={"estimator": ..., "num_samples": ...}``, where ``"reinforce"`` opts it out of sets;
    see :func:`config_sample_set`.
    Use one of the subclasses unless sites differ.

    Args:
        num_samples: the size k of the set of each site; a finite support of at most k values is enumerated exactly.
        estimator: how sets are drawn and weighed: ``"unordered_set"``, ``"sum_and_sample"``, ``"leave_one_out"``,
            ``"exact"``, or ``"reinforce"`` for one plain draw, without a set and its dim.
        baseline: whether to subtract the built-in baseline :math:`b_s`.
        analytic_kl: whether to use closed-form Kullback-Leibler divergences where Pyro knows them.
        num_summed: how many of the k values ``"sum_and_sample"`` sums, the rest being sampled; ``"optimal"`` chooses
            the number for each batch element.
        max_leaves: the largest number of joint values at one site, counting the sets it depends on.
        control_variate: a surrogate of the cost with a known expectation, which is subtracted and added back:
            ``"linear"`` in the values, by a network of the site's logits that is trained on the way; ``"mean"``, the
            slope at the mean, for one more evaluation of model and guide; or a mapping from names of sites to one of
            these or to a surrogate of your own, see :class:`pyro_ext.inference.control_variates.ControlVariates`.
        num_particles: the number of independent sets averaged.
        max_plate_nesting: the number of plate dims; guessed from one run when infinite.
        vectorize_particles: whether the sets are drawn in one outermost plate or in repeated runs.
        strict_enumeration_warning: whether to warn where no site has a set or is enumerated.
        **kwargs: passed on to :class:`pyro.infer.ELBO`.

    Raises:
        ValueError: on construction, for an argument out of range; in use, naming the site, for supports that cannot
            be enumerated, plates that a dependency escapes, unknown ``infer`` keys, too many joint values, and
            programs that do not broadcast over the dims of the sets.
        NotImplementedError: if the guide is a messenger.

    References:
        | Estimating Gradients for Discrete Random Variables by Sampling without Replacement (Kool et al., 2020)
        | https://arxiv.org/abs/2002.06043
        | Rao-Blackwellized Stochastic Gradients for Discrete Distributions (Liu et al., 2019)
        | https://arxiv.org/abs/1810.04777

    Example:
        >>> def model():
        ...     z = pyro.sample("z", dist.Categorical(torch.ones(3)))
        ...     pyro.sample("x", dist.Normal(z.float(), 1.0), obs=torch.tensor(2.0))
        >>> logits = torch.zeros(3, requires_grad=True)
        >>> def guide():
        ...     pyro.sample("z", dist.Categorical(logits=logits))
        >>> round(TraceSampleSet_ELBO(num_samples=3).loss_and_grads(model, guide), 4)
        1.7523
        >>> logits.grad
        tensor([ 0.3889, -0.1111, -0.2778])
    """

    def __init__(
        self,
        num_samples: int = 4,
        *,
        estimator: str = "unordered_set",
        baseline: bool = True,
        analytic_kl: bool = False,
        num_summed: int | str = "optimal",
        max_leaves: int = 2**16,
        control_variate: str | Mapping[str, Any] | None = None,
        num_particles: int = 1,
        max_plate_nesting: float = math.inf,
        vectorize_particles: bool = False,
        strict_enumeration_warning: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            num_particles=num_particles,
            max_plate_nesting=max_plate_nesting,
            vectorize_particles=vectorize_particles,
            strict_enumeration_warning=strict_enumeration_warning,
            **kwargs,
        )
        self.options = checked_options(SetOptions(estimator, num_samples, num_summed, max_leaves))
        self.baseline = baseline
        self.analytic_kl = analytic_kl
        self.control_variates = ControlVariates(control_variate)

    def extra_repr(self) -> str:
        """Return the estimator and its sizes, for ``repr``."""
        return f"{self.options}, baseline={self.baseline}, analytic_kl={self.analytic_kl}"

    def differentiable_loss(self, model: ModelOrGuide, guide: ModelOrGuide, *args: Any, **kwargs: Any) -> Tensor:
        """Return the negative ELBO estimate; its gradient is the estimator.

        Under ``torch.compile`` it runs as it is, uncompiled: how many joint values there are is known only when model
        and guide have run.
        """
        if torch.compiler.is_compiling():
            return torch.compiler.disable(self._estimate)(model, guide, args, kwargs)
        return self._estimate(model, guide, args, kwargs)

    def after_step(self) -> None:
        """Move what the control variates learn, by the last loss that went backward."""
        self.control_variates.after_step()

    def _estimate(self, model: ModelOrGuide, guide: ModelOrGuide, args: Any, kwargs: Any) -> Tensor:
        values, surrogates = [], []
        if self.control_variates.need_means:
            shared = SharedSubsample()  # the run at the means sees the same data
            model, guide = shared(model), shared(guide)
        traces = list(self._get_traces(model, guide, args, kwargs))
        dtype = _widest_dtype(traces)
        for model_trace, guide_trace in traces:
            value, surrogate = expected_elbo(
                model_trace,
                guide_trace,
                self.baseline,
                self.analytic_kl,
                self.control_variates,
                self._slopes_at_means(model, guide, args, kwargs, model_trace, guide_trace),
            )
            values.append(value.detach())
            surrogates.append(surrogate)
        value = -torch.stack(values).sum() / self.num_particles
        surrogate = -torch.stack(surrogates).sum() / self.num_particles
        loss = checked_loss(value_with_gradient_of(value.to(dtype), surrogate.to(dtype)), traces)
        self.control_variates.learn_from(loss)
        return loss

    def _slopes_at_means(
        self, model: ModelOrGuide, guide: ModelOrGuide, args: Any, kwargs: Any, model_trace: Any, guide_trace: Any
    ) -> dict[str, Tensor]:
        """Return the derivatives of the costs at the means of the sites whose control variates need them."""
        if not (self.control_variates.need_means and torch.is_grad_enabled()):
            return {}
        if self.vectorize_particles:
            model, guide = self._vectorized_num_particles(model), self._vectorized_num_particles(guide)
        symbols = {
            site["infer"]["_enumerate_symbol"]: name
            for name, site in guide_trace.nodes.items()
            if site["type"] == "sample" and "_enumerate_symbol" in site["infer"]
        }
        reached = {
            symbols[symbol]
            for trace in (model_trace, guide_trace)
            for name, site in trace.nodes.items()
            if site["type"] == "sample"
            for symbol in site["packed"]["log_prob"]._pyro_dims
            if symbols.get(symbol, name) != name
        }
        nesting = int(self.max_plate_nesting)
        return self.control_variates.slopes_at_means(model, guide, guide_trace, args, kwargs, nesting, reached)

    def _draw(self, fn: Any, options: SetOptions) -> SampleSet:
        """Draw the sample set of a site."""
        return draw_sample_set(fn, options)

    def _get_traces(
        self, model: ModelOrGuide, guide: ModelOrGuide, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Iterator[tuple[Any, Any]]:
        """Run the guide with sample sets at its discrete sites, then the model on their values."""
        refuse_guide_messenger(guide, self)
        if math.isinf(self.max_plate_nesting):
            self._guess_max_plate_nesting(model, ProbabilityCheckMessenger()(guide), args, kwargs)
        watch = ProgramWatch(model, guide, *self._left_dims())
        model, guide = watch.model, watch.guide
        if self.vectorize_particles:
            model, guide = self._vectorized_num_particles(model), self._vectorized_num_particles(guide)
        plain = model, guide
        sets = SampleSetMessenger(-1 - int(self.max_plate_nesting), self.options, self._draw)
        guide, model = sets(guide), ModelEnumMessenger(guide=sets)(model)  # the model's dims lie left of the guide's
        pending: queue.LifoQueue[Any] = queue.LifoQueue()
        guide = poutine.queue(guide, pending, escape_fn=iter_discrete_escape, extend_fn=iter_discrete_extend)
        for _ in range(1 if self.vectorize_particles else self.num_particles):
            pending.put(poutine.Trace())
            while not pending.empty():
                with watch.explaining(args, kwargs):
                    traces = packed_traces(model, guide, int(self.max_plate_nesting), args, kwargs)
                check_single_values(traces, *plain, args, kwargs)
                self._warn_of_nothing_discrete(*traces)
                yield traces

    def _warn_of_nothing_discrete(self, *traces: Any) -> None:
        sites = [site for trace in traces for site in trace.nodes.values() if site["type"] == "sample"]
        marks = ("enumerate", SET_KEY)
        if self.strict_enumeration_warning and not any(site["infer"].get(mark) for site in sites for mark in marks):
            warnings.warn("no site has a sample set or is enumerated: Trace_ELBO would do the same", stacklevel=2)

    def _left_dims(self) -> tuple[str, str]:
        """Return what puts dims on the left of values, and how to do without them."""
        others = "" if not self.vectorize_particles else "vectorize_particles=False and "
        return (
            "the sample sets, whose values have extra dims on the left",
            f"Write it so that it does, or use {others}TraceLeaveOneOut_ELBO(vectorize_samples=False), which runs it "
            "once per sample",
        )


def _widest_dtype(traces: list[tuple[Any, Any]]) -> torch.dtype:
    """Return the dtype that the log-probabilities of all sites add up to, the default one if there are none."""
    sites = [site for pair in traces for trace in pair for site in trace.nodes.values() if site["type"] == "sample"]
    dtypes = {site["log_prob"].dtype for site in sites if isinstance(site.get("log_prob"), Tensor)}
    return functools.reduce(torch.promote_types, dtypes) if dtypes else torch.get_default_dtype()
