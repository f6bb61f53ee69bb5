"""Measures the swarm beside a rival on the same work, in one run. Figures only; concludes nothing."""
