"""The commands: thin shells that read options, build settings once and tell the user what happened."""
