"""The segmentation stage: apart from the pipeline, it opens nothing but a curated set and real patches."""
