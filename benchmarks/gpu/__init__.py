"""``python -m benchmarks.gpu``: what synthpipe does on a GPU, in a few minutes: how fast, and whether it is right."""
