"""``python -m benchmarks.datacomp``: compare sets of composites as training data.

The trainer is fixed and only the data varies, as in DataComp (Gadre et al., NeurIPS 2023).
"""
