"""Whether a run is what its pipeline makes of its patches, to the byte; and mending what is not."""

from synthpipe.verification.checkup import verify
from synthpipe.verification.faults import Checkup, Fault
from synthpipe.verification.repair import repair

__all__ = ["Checkup", "Fault", "repair", "verify"]
