"""Export curated sets to the formats of other tools."""

from synthpipe.export.exporting import FORMS, PART, Exported, export, form_of

__all__ = ["FORMS", "PART", "Exported", "export", "form_of"]
