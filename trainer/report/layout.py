"""Places on a map for vectors, so that pictures stand beside those that they are like.

t-SNE (van der Maaten and Hinton 2008) by scikit-learn, from the two strongest directions on, so
that the same vectors have the same map.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

PERPLEXITY = 30.0


def layout(x_ND: NDArray[np.float32], seed: int) -> NDArray[np.float64]:
    """Places (N, 2) about nought for rows of unit length; N is at least 3."""
    from sklearn.manifold import TSNE  # a second, only for those who want a map

    n = len(x_ND)
    if np.ptp(x_ND, axis=0).max() < 1e-6:  # all alike: there is nothing to lay out
        return np.zeros((n, 2))
    perplexity = min(PERPLEXITY, (n - 1) / 3)
    tsne = TSNE(perplexity=perplexity, init="pca", random_state=seed, n_jobs=1)
    places = np.asarray(tsne.fit_transform(x_ND), np.float64)
    centred: NDArray[np.float64] = places - places.mean(0)
    return centred


def turned_onto(
    places_N2: NDArray[np.float64], other_N2: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The map turned, or mirrored, to lie as near as it can on another of the same pictures.

    Which way is up in a map means nothing: by orthogonal Procrustes analysis (Schönemann 1966).
    """
    left, _, right = np.linalg.svd(places_N2.T @ other_N2)
    turned: NDArray[np.float64] = places_N2 @ (left @ right)
    return turned


def on_a_square(places_N2: NDArray[np.float64]) -> NDArray[np.float64]:
    """The same within 0 to 1, in equal proportions."""
    low, high = places_N2.min(0), places_N2.max(0)
    extent = max(float((high - low).max()), 1e-12)
    square: NDArray[np.float64] = 0.5 + (places_N2 - (low + high) / 2) / extent
    return square
