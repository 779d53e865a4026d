"""Memory of the current process; the module imports nothing large, so that it adds no memory to workers."""

from __future__ import annotations

from pathlib import Path


def peak() -> int:
    """Return the peak resident memory of this process in bytes; ``ru_maxrss`` includes the parent's memory."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return 1024 * int(line.split()[1])


def of_this_process(bank: str) -> dict[str, int]:
    """Return the resident memory of this process in bytes.

    Parameters
    ----------
    bank : str
        The folder of the donor bank.

    Returns
    -------
    dict
        ``rss``: all resident memory. ``bank_rss``: the part of it that maps files in `bank`. ``bank_pss``: this
        process's proportional share of that part.
    """
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
