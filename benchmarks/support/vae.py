"""The digits autoencoder as the benchmarks use it: built, trained, and differentiated on one batch."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from pyro.infer import ELBO

from pyro_ext.datasets import Batch, IndexedDataset, Splits
from pyro_ext.inference import ELBOObjective, TrainingPlan
from pyro_ext.models import categorical_vae
from support.gradients import Step

__all__ = ["BATCH_SIZE", "autoencoder", "bound", "learn", "negative_bound", "parameter_groups", "step", "train"]

BATCH_SIZE = 100


def autoencoder(splits: Splits, num_latents: int, seed: int = 0) -> TrainingPlan:
    """Build the autoencoder with N latent variables of 10 categories at seeded initial weights."""
    torch.manual_seed(seed)
    return categorical_vae.build(splits, num_latents=num_latents, evaluation_samples=64)


def bound(plan: TrainingPlan) -> ELBOObjective:
    """Return the objective of the autoencoder, which holds its model and its guide."""
    return plan.elbo_objective("this benchmark")


def parameter_groups(plan: TrainingPlan) -> dict[str, list[torch.nn.Parameter]]:
    """Return the parameters of the encoder and of the decoder."""
    return {"encoder": [*bound(plan).guide.parameters()], "decoder": [*bound(plan).model.parameters()]}


def step(plan: TrainingPlan, elbo: ELBO, batch: Batch) -> Step:
    """Return a step that leaves the gradient of the mean loss per image in ``.grad``."""
    objective = _with_elbo(plan, elbo)

    def one_step() -> None:
        objective.zero_grad(set_to_none=True)
        objective(*batch).total.backward()

    return one_step


def train(plan: TrainingPlan, elbo: ELBO, data: IndexedDataset, epochs: int, seed: int = 0) -> None:
    """Train in place with Adam at a learning rate of 1e-3 on shuffled batches of 100."""
    torch.manual_seed(seed)
    objective = _with_elbo(plan, elbo)
    optimizer = torch.optim.Adam(objective.parameters(), lr=1e-3)
    for _ in range(epochs):
        for batch in _shuffled(data):
            optimizer.zero_grad(set_to_none=True)
            objective(*batch).total.backward()
            optimizer.step()


def learn(plan: TrainingPlan, elbo: ELBO, data: IndexedDataset, steps: int, seed: int = 0) -> None:
    """Let an ELBO that learns do so for some steps, on shuffled batches of 100; the weights stay as they are."""
    torch.manual_seed(seed)
    objective = _with_elbo(plan, elbo)
    while steps > 0:
        for batch in [*_shuffled(data)][:steps]:
            objective(*batch).total.backward()
            objective.after_step()
            objective.zero_grad(set_to_none=True)
            steps -= 1


def negative_bound(plan: TrainingPlan, data: IndexedDataset) -> float:
    """Return the negative ELBO per image, with 64 codes drawn for each and the KL term in closed form."""
    assert plan.evaluate is not None
    return plan.evaluate([data.__getitems__(range(len(data)))])["neg_elbo"]  # type: ignore[arg-type]


def _with_elbo(plan: TrainingPlan, elbo: ELBO) -> ELBOObjective:
    """Return the objective of the same model and guide with another ELBO, per image."""
    model, guide = bound(plan).model, bound(plan).guide
    return ELBOObjective(model, guide, elbo, size=model.size)


def _shuffled(data: IndexedDataset) -> Iterator[Batch]:
    for index in torch.randperm(len(data)).split(BATCH_SIZE):
        yield data.x[index], None, index
