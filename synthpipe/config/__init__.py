"""Settings: the pipeline's model, the files that hold settings, and messages about mistakes in them."""
