"""Trees, alignments, substitution models and mutation matrices: data types and what is exact, without inference.

Trees are parent vectors, one for each topology (:mod:`pyro_ext.phylo.canonical`), in sets over the same taxa
(:class:`TreeSet`).
"""

from pyro_ext.phylo.alignment import STATES, Alignment
from pyro_ext.phylo.alignment_files import read_alignment
from pyro_ext.phylo.canonical import Trees, canonicalize, is_canonical, num_taxa, root_on_edge, unroot
from pyro_ext.phylo.convert import (
    from_biopython,
    from_dendropy,
    from_nested,
    from_networkx,
    to_biopython,
    to_dendropy,
    to_networkx,
)
from pyro_ext.phylo.diagnostics import SplitFrequencies, asdsf, split_frequencies
from pyro_ext.phylo.mutation_distances import (
    CladeProbabilities,
    ancestor_descendant_accuracy,
    clade_distance,
    clade_probabilities,
    different_lineage_accuracy,
)
from pyro_ext.phylo.mutation_files import read_mutations, write_mutations
from pyro_ext.phylo.mutation_matrix import MutationMatrix
from pyro_ext.phylo.perfect_optimum import OptimalPhylogeny, maximum_likelihood_phylogeny
from pyro_ext.phylo.perfect_phylogeny import conflict_graph, perfect_phylogeny, phylogeny_newick, phylogeny_trees
from pyro_ext.phylo.random_trees import all_trees, num_topologies, random_trees
from pyro_ext.phylo.rates import ConstantRate, GammaRates, InvariantSites, RateMixture, SiteModel, WeibullRates
from pyro_ext.phylo.reading import iter_trees, parse_trees, read_trees, reference_sample
from pyro_ext.phylo.splits import children, robinson_foulds, split_words, splits
from pyro_ext.phylo.substitution import GTR, HKY85, JC69, K80, SubstitutionModel
from pyro_ext.phylo.support import Coverage, SubsplitSupport
from pyro_ext.phylo.trees import TreeSet
from pyro_ext.phylo.writing import write_trees

__all__ = [
    "GTR",
    "HKY85",
    "JC69",
    "K80",
    "STATES",
    "Alignment",
    "CladeProbabilities",
    "ConstantRate",
    "Coverage",
    "GammaRates",
    "InvariantSites",
    "MutationMatrix",
    "OptimalPhylogeny",
    "RateMixture",
    "SiteModel",
    "SplitFrequencies",
    "SubsplitSupport",
    "SubstitutionModel",
    "TreeSet",
    "Trees",
    "WeibullRates",
    "all_trees",
    "ancestor_descendant_accuracy",
    "asdsf",
    "canonicalize",
    "children",
    "clade_distance",
    "clade_probabilities",
    "conflict_graph",
    "different_lineage_accuracy",
    "from_biopython",
    "from_dendropy",
    "from_nested",
    "from_networkx",
    "is_canonical",
    "iter_trees",
    "maximum_likelihood_phylogeny",
    "num_taxa",
    "num_topologies",
    "parse_trees",
    "perfect_phylogeny",
    "phylogeny_newick",
    "phylogeny_trees",
    "random_trees",
    "read_alignment",
    "read_mutations",
    "read_trees",
    "reference_sample",
    "robinson_foulds",
    "root_on_edge",
    "split_frequencies",
    "split_words",
    "splits",
    "to_biopython",
    "to_dendropy",
    "to_networkx",
    "unroot",
    "write_mutations",
    "write_trees",
]
