"""``python -m benchmarks.gpu``: measure and check synthpipe on a GPU in a few minutes."""
