"""Everything follows the device and the type of the network."""

import pytest
import torch

from pyro_ext.nn import compact, export_masked, prunable, prune, quantize, sparsity_report
from tests.contracts.test_devices import WAYS, elsewhere
from tests.nn.compression.networks import lenet


@pytest.mark.parametrize("way", WAYS)
def test_networks_stay_where_they_are(way):
    network = lenet()
    with elsewhere(way) as (_, device):
        network.to(device)
        masks = prune(network, sparsity=0.7, scope="network")
        assert {mask.device for mask in masks.values()} == {device}
        variances = {name: weight.square() for name, weight in prunable(network).items()}
        assert sparsity_report(network, masks, variances=variances).kept > 0
        for exported in (export_masked(network, masks), compact(network, masks), quantize(network, 4)):
            x = torch.ones(2, 2, 14, 14, device=device, dtype=torch.float32)
            out = exported.eval()(x)
            assert (out.device, out.dtype) == (device, torch.float32)
