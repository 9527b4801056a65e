"""The search loop: trials become rounds, rounds become observations, the winner is trained to the end and kept."""
