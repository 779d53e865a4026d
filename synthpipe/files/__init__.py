"""Files, folders and locks, on a disk or behind a URL."""
