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
        sizes, vectors = np.linalg.eigh((points - mean).T @ (points - mean))
        axes, share = np.zeros((2, points.shape[1])), np.zeros(2)
        for axis, (size, vector) in enumerate(zip(sizes[::-1][:2], vectors.T[::-1], strict=False)):
            if size > 1e-12 * max(sizes[-1], 1e-30):
                axes[axis] = (np.sign(vector[np.abs(vector).argmax()]) or 1.0) * vector
                share[axis] = size / sizes.sum()
        return cls(mean, axes, share)

    def places(self, points: Floats) -> Floats:
        """Where points (n, D) lie in it (n, 2)."""
        return np.asarray((points - self.mean) @ self.axes.T)
