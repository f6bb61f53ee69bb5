"""The computing side: the protocol that deciders speak, the threads, the engine, and what a device and its models are."""
