"""What this node serves of each model, and how it moves from one part to another. Pure."""
