"""Read pretrained weights, check them, and fit them to a network."""
