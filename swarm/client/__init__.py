"""Talks to a swarm: finds nodes, plans a route, generates, replays when a chain breaks. Imports no torch."""
