"""Who the others are: membership, and how fast the links to them are. Pure."""
