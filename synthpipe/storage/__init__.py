"""Runs on disk: the run directory, the Zarr schema, whole-shard writing, and summaries of what is there."""
