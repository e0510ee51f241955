"""Layers, initialisations and guides for neural networks, used like those of torch.nn and pyro.nn."""

__all__: list[str] = []
