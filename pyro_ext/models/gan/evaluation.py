"""What is measured on held-out images and on generated ones, and warnings of samples that are all alike."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pyro_ext.inference.training.local import give_local_store
from pyro_ext.inference.training.metrics import evaluation_mode
from pyro_ext.models.gan.programs import Discriminator, Generator
from pyro_ext.models.gan.scores import classifier_scores
from pyro_ext.models.toolkit import mean_metrics
from pyro_ext.nn import ParameterAverage
from pyro_ext.utils.checks import positive_int
from pyro_ext.utils.random_state import isolated_random_state

__all__ = ["diagnose", "draw_samples", "evaluation", "num_classes_of", "spread"]

_NARROW = 0.4  # of the standard deviation of pixels among real images
_CHUNK = 500  # images drawn together


@torch.no_grad()
def draw_samples(generator: Generator, number: int, seed: int = 0) -> Tensor:
    """Return samples in evaluation mode, ``(number, D)``, the same ones whenever parameters are the same.

    Args:
        generator: what draws them.
        number: how many.
        seed: the seed of the uniform variables.
    """
    for module in generator.modules():
        give_local_store(module)
    with isolated_random_state(seed, generator.like.device), evaluation_mode(generator):
        sizes = [min(_CHUNK, number - start) for start in range(0, number, _CHUNK)]
        return torch.cat([generator(size) for size in sizes])


def spread(images: Tensor) -> Tensor:
    r"""Return how much images differ: the root mean square over pixels of their standard deviations, shape ``()``.

    Args:
        images: rows of pixels, ``(N, D)``.

    Example:
        >>> spread(torch.tensor([[0.0, 0.5], [1.0, 0.5]])), spread(torch.ones(5, 3))
        (tensor(0.3536), tensor(0.))
    """
    return images.var(0, correction=0).mean().sqrt()


def num_classes_of(probs: Tensor) -> Tensor:
    r"""Return the effective number of classes among images, the exponential of the entropy of the mean of ``probs``.

    Args:
        probs: the probabilities of K classes, ``(N, K)``.

    Example:
        >>> num_classes_of(torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]))
        tensor(2.)
    """
    marginal = probs.mean(0)
    return (-torch.xlogy(marginal, marginal).sum()).exp()


def evaluation(
    discriminator: Discriminator,
    average: ParameterAverage,
    generator: Generator | None,
    classifier: nn.Module | None = None,
    num_samples: int = 500,
    seed: int = 0,
) -> Callable[[Iterable[Any]], dict[str, float]]:
    """Return a function from a loader of held-out images to metrics, for ``TrainingPlan.evaluate``.

    ``error`` and ``label_loss`` (nats) are those of averaged parameters, ``error_last`` that of the last ones; errors
    are in per cent. ``belief_real`` and ``belief_generated`` are means of D. ``spread`` is that of samples, in parts of
    that of the held-out images; ``sample_classes`` is the effective number of classes among samples, and
    ``data_classes`` that among the held-out images, both as the discriminator sees them. With a classifier there are
    ``inception_score`` and ``frechet_distance`` of the samples, and ``inception_score_real``.

    Args:
        discriminator: the discriminator's program.
        average: the mean of its parameters.
        generator: draws samples; there are no metrics of samples if None.
        classifier: scores samples; it was trained apart from them.
        num_samples: the number of samples.
        seed: the seed of samples.
    """
    positive_int("num_samples", num_samples, minimum=2)

    def of_images(x: Tensor, y: Tensor | None = None, index: Tensor | None = None) -> dict[str, Tensor]:
        if y is None:
            raise ValueError("loader must hold labels, got None")
        logits, last = average(x), discriminator.network(x)
        return {
            "error": 100 * (logits.argmax(-1) != y).to(x.dtype),
            "error_last": 100 * (last.argmax(-1) != y).to(x.dtype),
            "label_loss": F.cross_entropy(logits, y, reduction="none"),
            "belief_real": last.logsumexp(-1).sigmoid(),
        }

    by_image = mean_metrics(discriminator, of_images, seed)

    @torch.no_grad()
    def evaluate(loader: Iterable[Any]) -> dict[str, float]:
        batches = [*loader]
        with evaluation_mode(discriminator):
            metrics = by_image(batches)
            if generator is None:
                return metrics
            samples = draw_samples(generator, num_samples, seed)
            images = torch.cat([batch[0] for batch in batches]).to(samples)
            network = discriminator.network
            # one group each, as large as those of training: the similarity within a batch grows with its size
            seen, real = (torch.cat([average(part) for part in x.split(100)]).softmax(-1) for x in (samples, images))
            belief = torch.cat([network(part) for part in samples.split(100)]).logsumexp(-1).sigmoid().mean()
        metrics["belief_generated"] = float(belief)
        metrics["spread"] = float(spread(samples) / spread(images)) if len(images) > 1 else math.nan
        metrics["sample_classes"] = float(num_classes_of(seen))
        metrics["data_classes"] = float(num_classes_of(real))
        if classifier is not None:
            scores = classifier_scores(classifier, samples, images)
            metrics |= scores._asdict()
        return metrics

    return evaluate


def diagnose(metrics: Mapping[str, float]) -> list[str]:
    """Return warnings if samples are all alike, or of few classes.

    Example:
        >>> diagnose({"spread": 0.02, "sample_classes": 9.0, "data_classes": 9.9})[0][:61]
        'the generator has collapsed: its samples differ by 2 % of wha'
    """
    found = []
    share = metrics.get("spread", 1.0)
    advice = "give --model.method feature_matching or minibatch_discrimination, or train with a smaller --model.lr"
    if not share >= _NARROW and not math.isnan(share):
        found.append(
            f"the generator has collapsed: its samples differ by {100 * share:.0f} % of what real images differ by, so "
            f"that nearly all of them look alike; {advice}"
        )
    classes, real = metrics.get("sample_classes", 1.0), metrics.get("data_classes", 1.0)
    if classes < 0.5 * real:
        found.append(
            f"the generator leaves out classes: its samples look like {classes:.1f} classes, real images like "
            f"{real:.1f}; {advice}"
        )
    return found
