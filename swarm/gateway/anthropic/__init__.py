"""Anthropic's interface: what each route reads, runs and answers."""
