"""The segmentation stage, which reads only the pipeline file, a curated set and real patches."""
