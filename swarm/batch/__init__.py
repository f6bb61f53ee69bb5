"""Many prompts on one machine, without a swarm: each weight is read once a step for all of them."""
