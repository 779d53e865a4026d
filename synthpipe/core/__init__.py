"""Records, errors and texts that every other package may use."""
