"""Memory of the process that asks; imports nothing, so that asking costs workers nothing."""

from __future__ import annotations

from pathlib import Path


def peak() -> int:
    """Return the largest resident set of this process so far, in bytes: ``ru_maxrss`` would begin at its parent's."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return 1024 * int(line.split()[1])


def of_this_process(bank: str) -> dict[str, int]:
    """Return resident bytes: all, and of them those of files in `bank`, and the proportional share of these."""
    total, inside = {"Rss": 0, "Pss": 0}, {"Rss": 0, "Pss": 0}
    of_bank = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        name, _, rest = line.partition(":")
        if "-" in line.split(" ", 1)[0]:
            of_bank = bank in line
        elif name in total:
            size = 1024 * int(rest.split()[0])
            total[name] += size
            inside[name] += size * of_bank
    return {"rss": total["Rss"], "bank_rss": inside["Rss"], "bank_pss": inside["Pss"]}
