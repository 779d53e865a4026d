"""The weights of the points of the Bezier strategy's curve (method section 2)."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]
"""(N, 2) float64: x, y."""


@lru_cache
def bernstein(samples: int) -> NDArray[np.float64]:
    """Return the (4, samples) float64 weights of a cubic segment's control points at evenly spaced parameters.

    The bezier package evaluates them if it is installed. If not, `evaluate` gives the same bits.
    """
    parameters = np.linspace(0.0, 1.0, samples)
    try:
        import bezier
    except ImportError:  # it has no wheels for Python 3.13 and later
        return evaluate(parameters)
    return np.ascontiguousarray(bezier.Curve(np.eye(4), degree=3).evaluate_multi(parameters))


def evaluate(parameters: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the (4, N) float64 Bernstein polynomials of degree 3 at `parameters`: (N,) float64 from 0 to 1.

    The order of operations is the bezier package's (the modified Horner scheme of Volk and Schumaker, 1990), so results
    are equal to the bit.
    """
    weights = np.zeros((4, len(parameters)))
    rest = 1.0 - parameters
    weights[0] = rest
    power = np.ones_like(parameters)
    for degree, binomial in ((1, 3.0), (2, 3.0)):
        power *= parameters
        weights[degree] += binomial * power
        weights *= rest
    weights[3] = power * parameters
    return weights
