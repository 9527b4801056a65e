"""What to try next: search spaces, candidates, algorithms, the Pareto front, and a candidate's cost on a profile."""

from search.algorithm import SearchAlgorithm
from search.budget import Feasibility, Limits
from search.candidate import Candidate, HyperParameters, Observation, Trial
from search.cell_space import CellSpace
from search.pareto import pareto_front
from search.space import SearchSpace

__all__ = [
    "Candidate",
    "CellSpace",
    "Feasibility",
    "HyperParameters",
    "Limits",
    "Observation",
    "SearchAlgorithm",
    "SearchSpace",
    "Trial",
    "pareto_front",
]
