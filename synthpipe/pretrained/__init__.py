"""Pretrained weights: reading them, checking them, and fitting them to a network."""
