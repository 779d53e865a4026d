"""The model of a pipeline, the reading of settings files, and messages about mistakes in them."""
