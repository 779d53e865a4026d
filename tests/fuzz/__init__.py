"""Damaged and hostile input by the hundred thousand: ``python -m tests.fuzz --help``.

A target makes cases of one kind from random numbers and tries them. Workers run the cases, and the judge watches the
workers: whatever is not a result or a clear refusal is a finding.
"""
