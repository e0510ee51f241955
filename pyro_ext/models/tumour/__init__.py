"""Inference of tumour phylogenies from mutation matrices of single cells by neural networks (Azer et al. 2020).

:mod:`~pyro_ext.models.tumour.noise` tells whether a matrix has errors, :mod:`~pyro_ext.models.tumour.branching` whether
the phylogeny behind it has branches, and :mod:`~pyro_ext.models.tumour.elimination` flips entries until there is one.

References:
    | Tumor phylogeny topology inference via deep learning (Azer et al., 2020)
    | https://doi.org/10.1016/j.isci.2020.101655
"""
