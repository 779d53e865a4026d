"""A command that is refused leaves nothing: no folder, no parent of it, no lock."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from PIL import Image as PillowImage

from synthpipe.cli import main
from synthpipe.core.errors import ConfigError
from tests.conftest import DEMO, ROOT, SMALL
from tests.segment.conftest import CPU, DataSet, data_set, settings

__all__ = ["data_set"]

BUILD = ("build", DEMO, "-o", "NEW", "--workers", 0, *(part for each in SMALL for part in ("--set", each)))
PATCHES = ("--set", "patches.root=DATA")
TRAIN = ("train", "RUN", "--real", "DATA", "--val", "VAL", "--config", "CONFIG", "--device", "cpu", "-o", "NEW")
BASELINE = ("baseline", *TRAIN[1:], "--data", "TEST")
EVALUATE = ("evaluate", "CKPT", "--data", "TEST", "--device", "cpu", "-o", "NEW")
PREDICT = ("predict", "CKPT", "IMAGE", "--device", "cpu", "-o", "NEW")
PSEUDO = ("pseudo-label", "CKPT", "--real", "DATA", "--device", "cpu", "-o", "NEW")
EXPORT = ("export", "RUN", "--to", "png", "-o", "NEW")

CASES = {
    "build, value": (*BUILD, *PATCHES, "--set", "canvas=big"),
    "build, no patches": (*BUILD, "--set", "patches.root=NONE"),
    "build, few donors": (*BUILD, "--set", "patches.root=FEW"),
    "build, damaged patch": (*BUILD, "--set", "patches.root=DAMAGED"),
    "build, option": (*BUILD, *PATCHES, "--workers", -1),
    "build, scheduler": (*BUILD[:4], *BUILD[6:], *PATCHES, "--scheduler", "tcp://127.0.0.1:1", "--patience", 1),
    "build, queue": (*BUILD[:4], *BUILD[6:], *PATCHES, "--cluster", "lsf"),
    "build, device": (*BUILD, *PATCHES, "--device", "cuda"),
    "build, memory": (*BUILD[:4], *BUILD[6:], *PATCHES, "--memory", "1MiB"),
    "build, network": (*BUILD, *PATCHES, "--set", "filter.network=resnet81"),
    "build, weights": (*BUILD, *PATCHES, "--set", "filter.weights=NONE.pt"),
    "train, setting": (*TRAIN, "--set", "epochs=none"),
    "train, no set": ("train", "NONE", *TRAIN[2:]),
    "train, unfinished": ("train", "UNFINISHED", *TRAIN[2:]),
    "train, no masks": (*TRAIN, "--val", "NONE"),
    "train, damaged mask": (*TRAIN, "--val", "DAMAGED"),
    "train, device": (*TRAIN, "--device", "cuda"),
    "train, network": (*TRAIN, "--set", "network.encoder=resnet81"),
    "train, weights": (*TRAIN, "--set", "network.weights=./none.pt"),
    "train, loss": (*TRAIN, "--set", "loss.dice=0", "--set", "loss.labels=0", "--set", "loss.consistency=0"),
    "train, size": (*TRAIN, "--set", "network.architecture=Segformer", "--set", "network.encoder=tu-none"),
    "baseline, setting": (*BASELINE, "--set", "epochs=none"),
    "baseline, compared": (*BASELINE, "--compare", "IMAGE"),
    "baseline, same images": (*BASELINE, "--data", "VAL"),
    "baseline, network": (*BASELINE, "--set", "network.encoder=resnet81"),
    "evaluate, no checkpoint": ("evaluate", "NONE", *EVALUATE[2:]),
    "evaluate, no training": ("evaluate", "VAL", *EVALUATE[2:]),
    "evaluate, checkpoint": ("evaluate", "IMAGE", *EVALUATE[2:]),
    "evaluate, no masks": (*EVALUATE, "--data", "FEW"),
    "evaluate, damaged mask": (*EVALUATE, "--data", "DAMAGED"),
    "evaluate, window": (*EVALUATE, "--window", "stride=none"),
    "evaluate, device": (*EVALUATE, "--device", "warp"),
    "predict, no checkpoint": ("predict", "NONE", *PREDICT[2:]),
    "predict, checkpoint": ("predict", "IMAGE", *PREDICT[2:]),
    "predict, no image": ("predict", "CKPT", "NONE", *PREDICT[3:]),
    "predict, damaged image": ("predict", "CKPT", "DAMAGED/img/a.png", *PREDICT[3:]),
    "predict, size": (*PREDICT, "--max-pixels", 1),
    "predict, window": (*PREDICT, "--window", "strid=1"),
    "pseudo-label, no checkpoint": ("pseudo-label", "NONE", *PSEUDO[2:]),
    "pseudo-label, checkpoint": ("pseudo-label", "IMAGE", *PSEUDO[2:]),
    "pseudo-label, no patches": (*PSEUDO, "--real", "FEW/img"),
    "pseudo-label, device": (*PSEUDO, "--device", "warp"),
    "export, no set": ("export", "NONE", *EXPORT[2:]),
    "export, unfinished": ("export", "UNFINISHED", *EXPORT[2:]),
    "export, form": (*EXPORT, "--to", "none"),
    "phantom": ("phantom", "NEW", "--patch-count", 0),
    "phantom, size": ("phantom", "NEW", "--size", 1),
    "replay, index": ("replay", "RUN", "mosaic", 999, "-o", "NEW/a.png", "--mask-output", "NEW/mask.png"),
    "replay, no run": ("replay", "NONE", "mosaic", 0, "-o", "NEW/a.png"),
    "replay, moved": ("replay", "RUN", "mosaic", 0, "-o", "NEW/a.png", "--patches", "FEW"),
    "report, no run": ("report", "NONE", "-o", "NEW/a.html"),
    "inspect, index": ("inspect", "RUN", "--index", 999, "--sheet", "NEW/a.png"),
    "inspect, no run": ("inspect", "NONE", "--sheet", "NEW/a.png"),
}

CHEAP = (
    *(
        "build, value",
        "build, no patches",
        "build, few donors",
        "build, damaged patch",
        "build, option",
        "build, queue",
    ),
    *(
        "train, setting",
        "train, no set",
        "train, unfinished",
        "train, no masks",
        "train, damaged mask",
        "train, weights",
    ),
    *(
        "baseline, setting",
        "baseline, same images",
        "evaluate, no checkpoint",
        "evaluate, no masks",
        "evaluate, window",
    ),
    *("predict, no checkpoint", "predict, no image", "predict, window", "pseudo-label, no checkpoint"),
)
"""Refusals for which torch, which takes long to load, is not needed."""

WITHOUT_TORCH = """
import json, sys

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            raise ImportError("torch is loaded")

sys.meta_path.insert(0, Finder())
from click.testing import CliRunner
from synthpipe.cli import main
for name, command in json.load(sys.stdin).items():
    result = CliRunner().invoke(main, command)
    print(json.dumps([name, result.exit_code, result.output]))
"""


@dataclass(frozen=True, slots=True)
class Place:
    """What stands for the words in capitals in a command."""

    words: dict[str, Path]

    def command(self, arguments: tuple[object, ...]) -> list[str]:
        found = []
        for argument in map(str, arguments):
            for word, path in self.words.items():
                argument = argument.replace(word, str(path))
            found.append(argument)
        return found


@pytest.fixture(scope="module")
def place(data_set: DataSet, tmp_path_factory: pytest.TempPathFactory) -> Place:
    from synthpipe.cli.progress import LogReporter
    from synthpipe.segment.training import train

    folder = tmp_path_factory.mktemp("place")
    trained = folder / "trained"
    train(settings(epochs=1, steps_per_epoch=1), data_set.training_data(), trained, CPU, LogReporter())
    run = data_set.curated.parent
    unfinished = Path(shutil.copytree(run, folder / "unfinished"))
    journal = json.loads((unfinished / "build.json").read_text())
    del journal["finished"]
    (unfinished / "build.json").write_text(json.dumps(journal))
    for name, kinds in (("few", ["img"]), ("damaged", ["img", "mask"])):
        for kind in kinds:
            (folder / name / kind).mkdir(parents=True)
    noise = np.random.default_rng(0).integers(0, 256, (48, 48, 3), dtype=np.uint8)
    (folder / "few" / "1.training").mkdir()
    PillowImage.fromarray(noise).save(folder / "few" / "1.training" / "a-1-[1, 0, 0].png")
    for file in ("img/a.png", "mask/a.png"):
        (folder / "damaged" / file).write_bytes(b"\x89PNG\r\n\x1a\nno more")
    (folder / "damaged" / "1.training").mkdir()
    shutil.copy(folder / "damaged" / "img" / "a.png", folder / "damaged" / "1.training" / "a-1-[1, 0, 0].png")
    config = folder / "small.yaml"
    config.write_text(yaml.safe_dump(settings().dump()))
    return Place(
        {
            **{"DATA": data_set.root, "RUN": run, "VAL": data_set.validation, "TEST": data_set.root / "3.testing"},
            **{"CKPT": trained / "best.ckpt", "IMAGE": next((data_set.validation / "img").iterdir())},
            **{"CONFIG": config, "UNFINISHED": unfinished, "FEW": folder / "few", "DAMAGED": folder / "damaged"},
            "NONE": folder / "none",
        }
    )


@pytest.mark.parametrize("case", CASES)
def test_a_refusal_leaves_nothing(case: str, place: Place, tmp_path: Path) -> None:
    new = tmp_path / "a" / "b" / "c"
    words = {**place.words, "NEW": new}
    result = CliRunner().invoke(main, Place(words).command(CASES[case]))
    assert result.exit_code in (1, 2) and "fault of synthpipe" not in result.output, result.output
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")] == [], result.output


def test_a_refusal_that_needs_no_torch_does_not_load_it(place: Place, tmp_path: Path) -> None:
    commands = {case: Place({**place.words, "NEW": tmp_path / case}).command(CASES[case]) for case in CHEAP}
    ran = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH],
        input=json.dumps(commands),
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    found = [json.loads(line) for line in ran.stdout.splitlines()]
    assert [name for name, *_ in found] == list(CHEAP), ran.stderr
    assert [each for each in found if each[1] not in (1, 2) or "torch is loaded" in each[2]] == []


def test_a_training_that_fails_before_its_first_checkpoint_leaves_nothing(data_set: DataSet, tmp_path: Path) -> None:
    """It has begun to write, but nothing that could be resumed."""
    from synthpipe.cli.progress import LogReporter
    from synthpipe.segment.training import train

    with pytest.raises(ConfigError, match="the loss of step"):
        train(
            settings(steps_per_epoch=12, optimizer={"learning_rate": 1000}),
            data_set.training_data(),
            tmp_path / "a" / "b",
            CPU,
            LogReporter(),
        )
    assert list(tmp_path.rglob("*")) == []
