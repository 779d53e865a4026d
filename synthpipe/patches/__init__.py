"""Patches: label formats, catalog, pixels, glass, the donor bank, and procedural tissue."""
