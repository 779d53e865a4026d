"""``python -m benchmarks.gpu``: how fast and how correct synthpipe is on a GPU, in a few minutes."""
