"""The search algorithms, one file each."""

from search.algorithms.fednas import FedNas
from search.algorithms.random_search import RandomSearch
from search.algorithms.regularized_evolution import RegularizedEvolution

__all__ = ["FedNas", "RandomSearch", "RegularizedEvolution"]
