"""Curated sets in the forms of other tools; opens nothing but what is handed on."""

from synthpipe.export.exporting import FORMS, PART, Exported, export, form_of

__all__ = ["FORMS", "PART", "Exported", "export", "form_of"]
