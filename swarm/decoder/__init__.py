"""What every family of decoders shares: its description as data, its mathematics, its weights in memory. Knows no family."""
