"""``python -m benchmarks.datacomp``: which composites are worth training on.

The trainer is fixed and only the data varies, as in DataComp (Gadre et al., NeurIPS 2023).
"""
