from __future__ import annotations

import os

import cv2

import synthpipe.segment.sources  # noqa: F401 - what a reading process imports


def test_a_forked_process_asks_opencv_for_no_threads() -> None:
    """They would not be there, and it might wait for them for ever."""
    assert cv2.getNumThreads() >= 1
    if not (child := os.fork()):
        os._exit(0 if cv2.getNumThreads() == 1 else 1)  # what it says when it was asked for none
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
