"""What this node serves of each model, how it moves from one part to another, and what it served before."""
