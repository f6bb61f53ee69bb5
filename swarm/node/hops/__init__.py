"""Sessions on this node: which are admitted, whose steps run next, what is delivered. Pure."""
