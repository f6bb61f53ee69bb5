"""The demo: a tiny Falcon that knows the swarm, the script that trains it, and three nodes that serve it here."""
