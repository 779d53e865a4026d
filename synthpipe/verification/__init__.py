"""Verify a run byte by byte against its pipeline and patches, and repair it."""

from synthpipe.verification.faults import Fault, VerifyReport
from synthpipe.verification.repair import repair
from synthpipe.verification.whole_run import verify

__all__ = ["Fault", "VerifyReport", "repair", "verify"]
