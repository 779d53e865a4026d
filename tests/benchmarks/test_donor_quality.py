from __future__ import annotations

from collections import Counter
from pathlib import Path

from benchmarks.donor_quality import inject, judge
from synthpipe.config.pipeline import PatchesSection
from synthpipe.patches.catalog import survey
from synthpipe.patches.phantom import PHANTOM_TAXONOMY
from synthpipe.patches.quality.measuring import DonorQuality


def test_a_perfect_judgement_finds_all_injected_faults(phantom: Path, tmp_path: Path) -> None:
    patches = PatchesSection(root=str(phantom), layout="wsss4luad", on_error="skip")
    donors = survey(patches, PHANTOM_TAXONOMY).donors[:20]
    faulty, faults = inject(donors, 3, tmp_path, 0)
    assert Counter(faults.values()) == {"label": 2, "blur": 1, "same pixels": 1}
    clean = {patch.id: patch for patch in donors}
    for patch in faulty:
        changed = clean.get(patch.id) is None or patch != clean[patch.id]
        assert changed == (patch.id in faults)
    found = [
        DonorQuality(
            patch,
            confidence=0.01 if faults.get(patch.id) == "label" else 0.99,
            second=None,
            sharpness=0.0 if faults.get(patch.id) == "blur" else 1.0,
            glass=0.0,
            pen=0.0,
            fold=0.0,
            copy_of="original" if faults.get(patch.id) == "same pixels" else "",
            reasons=(),
        )
        for patch in faulty
    ]
    judged = judge(found, faults)
    right = {"precision": 1.0, "recall": 1.0}
    assert judged["true_label_wins"] == judged["average_precision"] == judged["recall_at_precision_95"] == 1
    assert judged["blur"] == right and judged["limits"][0] == {"limit": 0.5, **right}
    assert judged["copies"]["same pixels"] == {"made": 1, "found": 1} and judged["copies_without_reason"] == 0
