"""The digits autoencoder as the benchmarks use it: built, trained, and stepped on one batch."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from pyro.infer import ELBO

from pyro_ext.datasets import Batch, IndexedDataset, Splits
from pyro_ext.inference import Built, LocalELBOModule
from pyro_ext.models import categorical_vae
from support.gradients import Step

__all__ = ["BATCH_SIZE", "autoencoder", "negative_bound", "parameter_groups", "step", "train"]

BATCH_SIZE = 100


def autoencoder(splits: Splits, num_latents: int, seed: int = 0) -> Built:
    """Build the autoencoder with N latent variables of 10 categories at seeded initial weights."""
    torch.manual_seed(seed)
    return categorical_vae.build(splits, num_latents=num_latents, evaluation_samples=64)


def parameter_groups(vae: Built) -> dict[str, list[torch.nn.Parameter]]:
    """Return the parameters of the encoder and of the decoder."""
    return {"encoder": list(vae.guide.parameters()), "decoder": list(vae.model.parameters())}  # type: ignore[attr-defined]


def step(vae: Built, elbo: ELBO, batch: Batch) -> Step:
    """Return a step that leaves the gradient of the mean loss per image in ``.grad``."""
    module = LocalELBOModule(vae.model, vae.guide, elbo)
    size = vae.model.size  # type: ignore[attr-defined]

    def one_step() -> None:
        module.zero_grad(set_to_none=True)
        (module(*batch) / size).backward()

    return one_step


def train(vae: Built, elbo: ELBO, data: IndexedDataset, epochs: int, seed: int = 0) -> None:
    """Train in place with Adam at 1e-3 on shuffled batches of 100."""
    torch.manual_seed(seed)
    module = LocalELBOModule(vae.model, vae.guide, elbo)
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-3)
    for _ in range(epochs):
        for batch in _shuffled(data):
            optimizer.zero_grad(set_to_none=True)
            module(*batch).backward()
            optimizer.step()


def negative_bound(vae: Built, data: IndexedDataset) -> float:
    """Return the negative ELBO per image, 64 codes drawn for each and the KL term in closed form."""
    assert vae.evaluate is not None
    return vae.evaluate([data.__getitems__(range(len(data)))])["neg_elbo"]  # type: ignore[arg-type]


def _shuffled(data: IndexedDataset) -> Iterator[Batch]:
    for index in torch.randperm(len(data)).split(BATCH_SIZE):
        yield data.x[index], None, index
