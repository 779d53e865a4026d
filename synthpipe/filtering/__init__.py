"""The filter model (method section 3): data split, network, training and scores."""
