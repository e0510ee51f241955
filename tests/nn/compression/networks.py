"""Networks to prune at random."""

import torch
from torch import nn

from pyro_ext.nn import prunable


def perceptron():
    return nn.Sequential(nn.Linear(12, 9), nn.ReLU(), nn.Linear(9, 8), nn.Tanh(), nn.Linear(8, 3))


def lenet():
    return nn.Sequential(
        nn.Conv2d(2, 5, 3),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Sequential(nn.Conv2d(5, 6, 3), nn.MaxPool2d(2), nn.Sigmoid()),
        nn.Flatten(),
        nn.Linear(24, 7),
        nn.ReLU(),
        nn.Dropout(),
        nn.Linear(7, 3),
    )


def vgg(mode="zeros"):
    return nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1, padding_mode=mode),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Dropout2d(0.3),
        nn.Conv2d(6, 6, 3, padding="same", padding_mode=mode, bias=False),
        nn.BatchNorm2d(6, affine=False),
        nn.Softplus(),
        nn.AvgPool2d(3, stride=2, padding=1),
        nn.Conv2d(6, 4, 3),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 5),
        nn.BatchNorm1d(5),
        nn.ELU(),
        nn.Linear(5, 3),
    )


def signals():
    return nn.Sequential(
        nn.Conv1d(2, 4, 3, dilation=2), nn.ReLU(), nn.AvgPool1d(2), nn.Flatten(), nn.Linear(16, 5), nn.Linear(5, 3)
    )


def shared():
    """One activation in two places, and a norm of flattened channels."""
    relu = nn.ReLU()
    return nn.Sequential(
        *(nn.Conv1d(2, 4, 3), nn.BatchNorm1d(4), relu, nn.Flatten(), nn.BatchNorm1d(24)),
        *(nn.Linear(24, 6), relu, nn.Linear(6, 5), relu, nn.Linear(5, 3)),
    )


def volumes():
    return nn.Sequential(nn.Conv3d(2, 4, 2), nn.Hardsigmoid(), nn.MaxPool3d(2), nn.Flatten(), nn.Linear(4, 3))


NETWORKS = {
    "perceptron": (perceptron, (12,)),
    "shared": (shared, (2, 8)),
    "lenet": (lenet, (2, 14, 14)),
    "vgg": (vgg, (2, 9, 9)),
    "vgg, reflected": (lambda: vgg("reflect"), (2, 9, 9)),
    "signals": (signals, (2, 12)),
    "volumes": (volumes, (2, 3, 3, 3)),
}
"""Name -> how to make it, and the shape of an input."""


def made(name, seed, dtype=torch.float32):
    """Return a network with all parameters and moments drawn at random, and inputs."""
    torch.manual_seed(seed)
    make, shape = NETWORKS[name]
    network = make().to(dtype).eval()
    for key, tensor in network.state_dict().items():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand_like(tensor) + 0.5 if "running_var" in key else torch.randn_like(tensor) / 2)
    return network, torch.randn(20, *shape, dtype=dtype)


def random_masks(network, density, seed=0, structured=True):
    """Return masks of weights and biases: single entries, and whole rows and columns beside them."""
    torch.manual_seed(seed)
    masks = {name: torch.rand(p.shape) < density for name, p in network.named_parameters() if "bias" in name}
    for name, weight in prunable(network).items():
        mask = torch.rand(weight.shape) < density
        if structured:
            outputs, inputs = weight.shape[:2]
            shape = (1,) * (weight.dim() - 2)
            mask &= (torch.rand(outputs) < 0.7).view(outputs, 1, *shape)
            mask &= (torch.rand(inputs) < 0.7).view(1, inputs, *shape)
        masks[name] = mask
    return masks
