"""Sets drawn without replacement: draws, probabilities, leave-one-out ratios, and the most probable categories.

Everything is batched over leading dims, takes float32 or float64, works in float64 inside, and never forms a small
mass as one minus a large one.
"""

from pyro_ext.ops.sets.beam import BeamStep, SequenceSet, beam_step, stochastic_beam_search
from pyro_ext.ops.sets.gumbel import GumbelTopK, exponential_like, gumbel_like, gumbel_topk, log_remaining_mass, perturb
from pyro_ext.ops.sets.probabilities import (
    first_and_second_log_ratios,
    leave_one_out_log_ratios,
    order_log_prob,
    set_log_prob,
)
from pyro_ext.ops.sets.product import ProductSet, product_gumbel_topk, product_topk
from pyro_ext.ops.sets.product_rest import ProductRest, product_remainder, sample_product_remainder
from pyro_ext.ops.sets.remainder import TopKRemainder, optimal_num_summed, topk_remainder

__all__ = [
    "BeamStep",
    "GumbelTopK",
    "ProductRest",
    "ProductSet",
    "SequenceSet",
    "TopKRemainder",
    "beam_step",
    "exponential_like",
    "first_and_second_log_ratios",
    "gumbel_like",
    "gumbel_topk",
    "leave_one_out_log_ratios",
    "log_remaining_mass",
    "optimal_num_summed",
    "order_log_prob",
    "perturb",
    "product_gumbel_topk",
    "product_remainder",
    "product_topk",
    "sample_product_remainder",
    "set_log_prob",
    "stochastic_beam_search",
    "topk_remainder",
]
