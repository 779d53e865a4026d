"""The segmentation stage: train networks on curated sets and real patches, evaluate them, and predict masks."""
