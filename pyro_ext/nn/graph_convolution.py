"""Convolution on graphs: features are transformed by weights and averaged over neighbours."""

from __future__ import annotations

import math

import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

from pyro_ext.nn.local import _drawn, linear, local_parameters
from pyro_ext.ops.sparse import SparseMatrix, multiply, multiply_sparse
from pyro_ext.utils.checks import positive_int
from pyro_ext.utils.shapes import broadcast_shapes

__all__ = ["ChebyshevConvolution", "GraphConvolution", "SparseBuffer", "glorot_uniform"]


def glorot_uniform(tensor: Tensor) -> Tensor:
    r"""Return uniform values in :math:`\pm \sqrt{6 / (I + O)}` for weights of shape ``(..., O, I)``.

    Args:
        tensor: what the result has the shape, type and device of; it is not changed.

    References:
        | Understanding the difficulty of training deep feedforward neural networks (Glorot and Bengio, 2010)
        | https://proceedings.mlr.press/v9/glorot10a.html, equation 16

    Example:
        >>> glorot_uniform(torch.empty(2, 4)).abs().max() <= 1
        tensor(True)
    """
    limit = math.sqrt(6 / (tensor.shape[-1] + tensor.shape[-2]))
    return torch.empty_like(tensor, requires_grad=False).uniform_(-limit, limit)


class SparseBuffer(nn.Module):
    """A sparse matrix that follows a module to other devices and types, and is left out of its ``state_dict``.

    Args:
        matrix: the matrix.

    Example:
        >>> SparseBuffer(SparseMatrix.from_dense(torch.eye(2))).double()()
        SparseMatrix(2 x 2, 2 stored values, torch.float64)
    """

    _structure = ("crow", "col", "transposed_crow", "transposed_col", "transposed_order", "transposed_back")

    def __init__(self, matrix: SparseMatrix) -> None:
        super().__init__()
        self.shape = matrix.shape
        self.register_buffer("values", matrix.values.detach(), persistent=False)
        parts = (matrix.crow, matrix.col, *(matrix.transposed or ()))
        for name, part in zip(self._structure, parts, strict=False):
            self.register_buffer(name, part, persistent=False)

    def forward(self) -> SparseMatrix:
        """Return the matrix."""
        parts = [getattr(self, name, None) for name in self._structure]
        crow, col, *transposed = parts
        return SparseMatrix(crow, col, self.values, self.shape, None if transposed[0] is None else tuple(transposed))  # type: ignore[arg-type]


class GraphConvolution(PyroModule):
    r"""A layer of a graph convolutional network.

    .. math::  H = \hat A X W^\top + b

    for features X of N nodes, of which row n is that of node n. By default the features are transformed first, which
    is the least work where the layer has fewer outputs than inputs. Sparse features stay sparse.

    The weight is a parameter; assign a :class:`~pyro.nn.PyroSample` to ``weight`` (and ``bias``) for one with a prior.
    Samples of several particles, shape ``(P, 1, O, I)`` inside of a vectorised ELBO, are propagated together.

    Args:
        in_features: the number I of features of each node.
        out_features: the number O of its new features.
        bias: whether a bias is added; the publication's program has none.
        aggregate_first: whether to compute :math:`\hat A X` before it meets the weight. The order changes no value,
            but noise on what comes out of the weight, as in local reparameterisation, has the variance of
            :math:`\hat A X W^\top` only in this order: averaging noise of different nodes would shrink it.
        local: whether outputs are drawn instead of weights where a guide lets them be, as
            :class:`~pyro_ext.nn.AutoAdditiveNormal` does; :math:`\hat A X` is then computed first. Means and variances
            are exact, but nodes are drawn as if each had weights of its own. That is right for the last layer only: a
            layer behind this one would average noise that nodes should have in common. By default weights are drawn,
            which is right for all layers.

    Raises:
        ValueError: if a number is not a positive integer; when called, a second time in a forward pass with outputs
            drawn.

    References:
        | Semi-supervised classification with graph convolutional networks (Kipf and Welling, 2017)
        | https://arxiv.org/abs/1609.02907, equation 8

    Example:
        >>> from pyro.nn import PyroSample
        >>> from pyro_ext.nn import normalize_adjacency
        >>> from pyro_ext.ops.graphs import adjacency_matrix
        >>> adjacency = normalize_adjacency(adjacency_matrix(torch.tensor([[0, 1], [1, 2]]), 3))
        >>> layer = GraphConvolution(5, 2)
        >>> layer(torch.ones(3, 5), adjacency).shape
        torch.Size([3, 2])
        >>> layer.weight = PyroSample(dist.Normal(0.0, 1.0).expand([2, 5]).to_event(2))  # a prior in its place
        >>> [*pyro.poutine.trace(layer).get_trace(torch.ones(3, 5), adjacency).stochastic_nodes]
        ['weight']
    """

    weight: Tensor
    bias: Tensor | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = False,
        aggregate_first: bool = False,
        local: bool = False,
    ) -> None:
        super().__init__()
        self.in_features = positive_int("in_features", in_features)
        self.out_features = positive_int("out_features", out_features)
        self.aggregate_first = aggregate_first
        self.local = local
        self.weight = nn.Parameter(glorot_uniform(torch.empty(out_features, in_features)))
        self.bias = nn.Parameter(torch.zeros(out_features)) if bias else None

    def forward(self, x: Tensor | SparseMatrix, adjacency: SparseMatrix | None) -> Tensor:
        """Return the new features, shape ``(..., N, O)``.

        Args:
            x: the features, ``(N, I)`` sparse or ``(..., N, I)`` dense.
            adjacency: the normalised adjacency matrix, N x N; None to average over no neighbours, for features that
                are averages already.

        Raises:
            ValueError: if shapes do not fit.
        """
        _check_features(x, self.in_features)
        if (self.aggregate_first or self.local) and adjacency is not None:
            x, adjacency = _aggregate(adjacency, x), None
        weight = self.weight
        if self.local and local_parameters(weight) is not None:
            self._refuse_second_use()
            return _drawn_outputs(x, weight, self.bias)
        weight = _without_plate(weight, 2)
        result = _transform(x, weight)
        if adjacency is not None:
            result = multiply(adjacency, result)
        return result if self.bias is None else result + self.bias

    def _refuse_second_use(self) -> None:
        context, key = self._pyro_context, f"{self._pyro_name}.weight:outputs"
        if context.get(key) is not None:
            raise ValueError(
                f"layer {self._pyro_name!r} is used twice in one forward pass; local reparameterisation would give it "
                "different weights each time: build it with local=False"
            )
        context.set(key, True)

    def extra_repr(self) -> str:
        """Return the sizes."""
        return f"in_features={self.in_features}, out_features={self.out_features}"


class ChebyshevConvolution(PyroModule):
    r"""A layer whose filter is a polynomial of the graph's Laplacian.

    .. math::  H = \sum_{k=0}^{K} T_k(\tilde L) X W_k^\top + b

    with Chebyshev polynomials :math:`T_k`, so that a node sees neighbours up to K edges away. The sum is evaluated by
    Clenshaw's recurrence on the transformed features: K products with :math:`\tilde L`, none of whose powers is made.

    Args:
        in_features: the number I of features of each node.
        out_features: the number O of its new features.
        order: K, at least 0.
        bias: whether a bias is added.

    Raises:
        ValueError: if a number is out of range.

    References:
        | Semi-supervised classification with graph convolutional networks (Kipf and Welling, 2017)
        | https://arxiv.org/abs/1609.02907, equation 5
        | Convolutional neural networks on graphs with fast localized spectral filtering (Defferrard et al., 2016)
        | https://arxiv.org/abs/1606.09375

    Example:
        >>> from pyro_ext.ops.graphs import adjacency_matrix, scaled_laplacian
        >>> laplacian = scaled_laplacian(adjacency_matrix(torch.tensor([[0, 1], [1, 2]]), 3))
        >>> ChebyshevConvolution(5, 2, order=3)(torch.ones(3, 5), laplacian).shape
        torch.Size([3, 2])
    """

    weight: Tensor
    bias: Tensor | None

    def __init__(self, in_features: int, out_features: int, order: int = 2, bias: bool = False) -> None:
        super().__init__()
        self.in_features = positive_int("in_features", in_features)
        self.out_features = positive_int("out_features", out_features)
        self.order = positive_int("order", order, minimum=0)
        self.weight = nn.Parameter(glorot_uniform(torch.empty(order + 1, out_features, in_features)))
        self.bias = nn.Parameter(torch.zeros(out_features)) if bias else None

    def forward(self, x: Tensor | SparseMatrix, laplacian: SparseMatrix) -> Tensor:
        """Return the new features, shape ``(..., N, O)``.

        Args:
            x: the features, ``(N, I)`` sparse or ``(..., N, I)`` dense.
            laplacian: the rescaled Laplacian, see :func:`~pyro_ext.ops.graphs.scaled_laplacian`.

        Raises:
            ValueError: if shapes do not fit.
        """
        _check_features(x, self.in_features)
        weight = _without_plate(self.weight, 3)
        terms = _transform(x, weight.flatten(-3, -2)).unflatten(-1, (self.order + 1, self.out_features)).unbind(-2)
        after, result = torch.zeros_like(terms[-1]), terms[-1]
        for k in reversed(range(self.order)):
            factor = 1 if k == 0 else 2
            after, result = result, terms[k] + factor * multiply(laplacian, result) - after
        return result if self.bias is None else result + self.bias

    def extra_repr(self) -> str:
        """Return the sizes."""
        return f"in_features={self.in_features}, out_features={self.out_features}, order={self.order}"


def _check_features(x: Tensor | SparseMatrix, in_features: int) -> None:
    if len(x.shape) < 2 or x.shape[-1] != in_features:
        raise ValueError(f"x must have shape (..., N, {in_features}), got {tuple(x.shape)}; see in_features")


def _aggregate(adjacency: SparseMatrix, x: Tensor | SparseMatrix) -> Tensor | SparseMatrix:
    return multiply_sparse(adjacency, x) if isinstance(x, SparseMatrix) else multiply(adjacency, x)


def _transform(x: Tensor | SparseMatrix, weight: Tensor) -> Tensor:
    return multiply(x, weight.mT) if isinstance(x, SparseMatrix) else x @ weight.mT


def _drawn_outputs(x: Tensor | SparseMatrix, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Draw the outputs of nodes whose features are averages already, by local reparameterisation."""
    if isinstance(x, Tensor):
        return linear(x, weight, bias)
    parameters = local_parameters(weight)
    assert parameters is not None
    mean = multiply(x, parameters.loc.mT)
    squares = x.with_values(x.values.square())
    variance = multiply(squares, parameters.log_variance.exp().mT)
    shape = broadcast_shapes(weight.shape[:-2], mean.shape[:1]) + mean.shape[1:]
    drawn = _drawn(mean, variance, shape, weight)
    return drawn if bias is None else drawn + bias


def _without_plate(weight: Tensor, event_dim: int) -> Tensor:
    """Remove the dim of the plate of nodes, which samples for several particles have beside that of the particles."""
    dim = -1 - event_dim
    return weight.squeeze(dim) if weight.dim() > event_dim + 1 else weight
