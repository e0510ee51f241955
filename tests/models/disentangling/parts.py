"""Small networks whose codes are known."""

import torch

from pyro_ext.models.disentangling import Codes, Guide, Model

NOISE = 0.5


class HalvesEncoder(torch.nn.Module):
    """The mean of z is the first half of an image, s the second half."""

    def __init__(self, log_variance=-60.0):
        super().__init__()
        self.register_buffer("log_variance", torch.tensor(float(log_variance)))

    def forward(self, x):
        z, s = x.chunk(2, -1)
        return Codes(z, self.log_variance.expand_as(z), s)


class HalvesDecoder(torch.nn.Module):
    """Puts the halves together."""

    def forward(self, z, s):
        return torch.cat([z, s], -1)


def halves(size=6, log_variance=-60.0):
    """Return a model and a guide of images of four pixels."""
    return Model(size, HalvesDecoder(), 2, 2, NOISE), Guide(size, HalvesEncoder(log_variance))
