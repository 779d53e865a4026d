"""Data cards: what a curated set is, for people (README) and for machines (Croissant)."""
