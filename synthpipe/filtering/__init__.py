"""The filter model (method section 3): its split, network, training and scores."""
