"""Compile kernels with numba, and store the machine code for later processes where a folder allows it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import njit


def compiled(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Return a decorator that compiles a function without the GIL.

    numba stores the code in `NUMBA_CACHE_DIR`, beside the function's module, or in the user's cache folder. If none of
    these is writable, as in a container whose root is read-only, every process compiles the function for itself.
    """

    def compile_function(function: Callable[..., Any]) -> Any:
        try:
            return njit(nogil=True, cache=True, **options)(function)
        except RuntimeError:  # numba found no folder
            return njit(nogil=True, **options)(function)

    return compile_function
