"""Whether a run is what its pipeline makes of its patches, to the byte; and mending what is not."""

from synthpipe.verification.faults import Fault, VerifyReport
from synthpipe.verification.repair import repair
from synthpipe.verification.whole_run import verify

__all__ = ["Fault", "VerifyReport", "repair", "verify"]
