"""A peer-to-peer swarm that runs large language models split over the machines of a LAN."""

__version__ = "0.1.0"
