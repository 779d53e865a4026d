"""Data cards that describe a curated set: ``README.md`` for people and ``croissant.json`` for machines."""
