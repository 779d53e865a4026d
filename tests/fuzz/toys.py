"""Targets that misbehave in some of their cases, to see whether the judge finds them."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
import warnings
from pathlib import Path

import numpy as np

from synthpipe.core.errors import ConfigError
from tests.fuzz.target import Place, Step, WrongError


class Toy:
    """Accepts 0, refuses 1, and does what its class is named for with 2."""

    def __init__(self, cache: Path, place: Place, step: Step) -> None:
        self.place = place

    def make(self, rng: np.random.Generator) -> int:
        return int(rng.integers(3))

    def show(self, case: int, folder: Path) -> str:
        return f"the case is {case}"

    def run(self, case: int) -> bool:
        if case == 1:
            raise ConfigError("one is refused")
        if case == 2:
            self.misbehave()
        return True

    def misbehave(self) -> None:
        """Do nothing."""


class Crash(Toy):
    def misbehave(self) -> None:
        os.kill(os.getpid(), signal.SIGSEGV)


class Hang(Toy):
    def misbehave(self) -> None:
        time.sleep(3600)


class Hog(Toy):
    def misbehave(self) -> None:
        len(b"x" * (1100 << 20))


class Bomb(Toy):
    def misbehave(self) -> None:
        try:
            bytearray(1 << 40)
        except MemoryError as error:
            raise ConfigError("this is said to be damaged") from error


class Wrong(Toy):
    def misbehave(self) -> None:
        raise WrongError("two is not three")


class Stumble(Toy):
    def misbehave(self) -> None:
        dict[str, int]()["nothing"]


class Trespass(Toy):
    def misbehave(self) -> None:
        (self.place.elsewhere / "new.txt").write_text("x")


class Peep(Toy):
    def misbehave(self) -> None:
        (self.place.canary / "thesis.txt").read_text()


class Call(Toy):
    def misbehave(self) -> None:
        socket.create_connection(("203.0.113.1", 80), timeout=1)


class Chatter(Toy):
    def misbehave(self) -> None:
        os.write(2, b"libtiff: a warning\n")


class Warn(Toy):
    def misbehave(self) -> None:
        warnings.warn("an image is odd", UserWarning, stacklevel=1)


class Broken(Toy):
    def __init__(self, cache: Path, place: Place, step: Step) -> None:
        sys.exit("cannot start")
