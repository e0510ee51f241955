"""Mutation matrices of tumours: simulated genealogies of cells, errors of measurement, and real patients."""

from pyro_ext.datasets.tumour.coalescent import simulate_coalescent
from pyro_ext.datasets.tumour.linear import simulate_linear
from pyro_ext.datasets.tumour.loaders import TUMOURS, SimulatedTumours, TumourMatrix, simulated_tumours, tumour
from pyro_ext.datasets.tumour.noise import observe
from pyro_ext.datasets.tumour.simulator import TumourSimulator
from pyro_ext.datasets.tumour.subclones import simulate_subclones

__all__ = [
    "TUMOURS",
    "SimulatedTumours",
    "TumourMatrix",
    "TumourSimulator",
    "observe",
    "simulate_coalescent",
    "simulate_linear",
    "simulate_subclones",
    "simulated_tumours",
    "tumour",
]
