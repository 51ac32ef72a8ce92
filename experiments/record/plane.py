"""Plane of points: their first two principal components, for pictures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Plane:
    """The plane through the ``mean`` (D,) of some points along their two largest ``axes`` (2, D); ``share`` (2,) of the
    variance of either. Axes are 0 where the points have no such extent.

    Signs are fixed: the largest loading of an axis is positive, so the same points give the same map.
    """

    mean: Floats
    axes: Floats
    share: Floats

    @classmethod
    def of(cls, points: Floats) -> Plane:
        """The plane of points (n, D).

        >>> plane = Plane.of(np.array([[0.0, 0.0], [2.0, 0.0], [4.0, 0.0]]))
        >>> plane.places(np.array([[0.0, 0.0], [6.0, 9.0]])).round(6).tolist(), plane.share.round(6).tolist()
        ([[-2.0, 0.0], [4.0, 0.0]], [1.0, 0.0])
        """
        mean = points.mean(axis=0)
        _, sizes, right = np.linalg.svd(points - mean, full_matrices=False)
        axes, share = np.zeros((2, points.shape[1])), np.zeros(2)
        for axis in range(min(2, len(sizes))):
            if sizes[axis] > 1e-9 * max(sizes[0], 1e-30):
                sign = np.sign(right[axis, np.abs(right[axis]).argmax()]) or 1.0
                axes[axis] = sign * right[axis]
                share[axis] = sizes[axis] ** 2 / max(float((sizes**2).sum()), 1e-30)
        return cls(mean, axes, share)

    def places(self, points: Floats) -> Floats:
        """Where points (n, D) lie in it (n, 2)."""
        return np.asarray((points - self.mean) @ self.axes.T)
