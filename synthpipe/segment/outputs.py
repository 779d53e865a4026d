"""Output folders of the segmentation stage: the files that mark each kind of folder, and the files written to it."""

from __future__ import annotations

from synthpipe.files.folders import Kind

TRAINING = Kind(
    "training",
    ("last.ckpt",),
    (
        *("settings.yaml", "last.ckpt", "best.ckpt", "steps.csv", "epochs.csv", "tensorboard", "report.json"),
        *("curves.png", ".lock"),
    ),
)
EVALUATION = Kind(
    "evaluation",
    ("metrics.json", "pictures/drawn.json"),
    ("metrics.json", "metrics.csv", "confusion.png", "curves.png", "pictures", ".lock"),
)
RECORD = "predictions.json"
PREDICTION = Kind("prediction", (RECORD,), (RECORD, ".lock"))
