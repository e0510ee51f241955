import pytest
import torch

from pyro_ext.datasets import IndexedDataset, Splits
from pyro_ext.inference import local_params


@pytest.fixture(autouse=True)
def own_parameters():
    """Keep the parameters of all modules out of Pyro's global store."""
    with local_params():
        yield


@pytest.fixture
def toy():
    """Forty images of 4 x 3 pixels."""
    x = (torch.rand(40, 12, generator=torch.Generator().manual_seed(0)) > 0.5).float()
    return Splits("toy", IndexedDataset(x), IndexedDataset(x[:10]), image_shape=(4, 3))
