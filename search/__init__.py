"""What to try next: search spaces, candidates, algorithms, the Pareto front, and a candidate's cost on a profile."""
