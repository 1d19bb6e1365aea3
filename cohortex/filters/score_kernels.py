"""Compiled loops that turn the scores of K classes into labels, and never hold K volumes on the grid of the labels."""

from __future__ import annotations

import numpy as np
from numba import njit

from cohortex.filters.lookup_kernels import around, inside, place

TILE = 4096


@njit(cache=True, nogil=True)
def two_largest(scores, best, second):
    """Write the class with the largest score, the lowest of equals, and the second largest score.

    `scores` is (K, X, N), `best` and `second` (X, N), where N are the voxels of a plane. All contiguous.
    """
    classes, (planes, count) = scores.shape[0], best.shape
    top = np.empty(TILE, scores.dtype)
    next_ = np.empty(TILE, scores.dtype)
    who = np.empty(TILE, np.int32)
    for i in range(planes):
        for start in range(0, count, TILE):
            length = min(TILE, count - start)
            first = scores[0, i, start : start + length]
            for v in range(length):
                top[v] = first[v]
                next_[v] = -np.inf
                who[v] = 0
            for n in range(1, classes):
                row = scores[n, i, start : start + length]
                for v in range(length):
                    value, old = row[v], top[v]
                    less = value if value < old else old
                    who[v] = n if value > old else who[v]
                    top[v] = value if value > old else old
                    next_[v] = less if less > next_[v] else next_[v]
            for v in range(length):
                best[i, start + v] = who[v]
                second[i, start + v] = next_[v]


@njit(cache=True, nogil=True)
def most_probable(scores, best, second, route, out, first, corner, shape):
    """Write the class with the largest linearly interpolated score, the lowest of equals; beyond the source 0.

    `best` and `second` (X, Y, Z, see `two_largest`) belong to `scores` (K, X, Y, Z), a part of the source; the other arguments are
    those of `lookup_kernels`. Scores may be logits or probabilities.

    Where all eight voxels around a place have the same best class, no mixture of them has another. Else a class that is best
    in none of the eight scores at most the mixture of their second largest: where the best of the others is above that (always,
    where two classes meet), only classes that are best somewhere are looked at. All K are read only where neither helps.
    """
    classes = scores.shape[0]
    xs, ys, zs = np.empty(8, np.int64), np.empty(8, np.int64), np.empty(8, np.int64)
    weights = np.empty(8, np.float64)
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            for k in range(out.shape[2]):
                x, y, z = place(route, i + first[0], j + first[1], k + first[2])
                if not inside(x, y, z, shape):
                    out[i, j, k] = 0
                    continue
                i0, i1, a = around(x, shape[0])
                j0, j1, b = around(y, shape[1])
                k0, k1, c = around(z, shape[2])
                i0, i1, j0, j1 = i0 - corner[0], i1 - corner[0], j0 - corner[1], j1 - corner[1]
                k0, k1 = k0 - corner[2], k1 - corner[2]
                label = best[i0, j0, k0]
                if (
                    label == best[i0, j0, k1]
                    and label == best[i0, j1, k0]
                    and label == best[i0, j1, k1]
                    and label == best[i1, j0, k0]
                    and label == best[i1, j0, k1]
                    and label == best[i1, j1, k0]
                    and label == best[i1, j1, k1]
                ):
                    out[i, j, k] = label
                    continue
                for vertex in range(8):
                    xs[vertex] = i1 if vertex & 4 else i0
                    ys[vertex] = j1 if vertex & 2 else j0
                    zs[vertex] = k1 if vertex & 1 else k0
                    weights[vertex] = (a if vertex & 4 else 1 - a) * (b if vertex & 2 else 1 - b) * (c if vertex & 1 else 1 - c)
                largest, winner, bound = -np.inf, -1, 0.0
                for vertex in range(8):
                    if weights[vertex] > 0:
                        bound += weights[vertex] * second[xs[vertex], ys[vertex], zs[vertex]]
                        n = best[xs[vertex], ys[vertex], zs[vertex]]
                        if n != winner:
                            score = 0.0
                            for other in range(8):
                                score += weights[other] * scores[n, xs[other], ys[other], zs[other]]
                            if score > largest or (score == largest and n < winner):
                                largest, winner = score, np.int64(n)
                if not largest - bound > 1e-9 * (abs(largest) + abs(bound)):
                    largest, winner = -np.inf, 0
                    for n in range(classes):
                        score = 0.0
                        for other in range(8):
                            score += weights[other] * scores[n, xs[other], ys[other], zs[other]]
                        if score > largest:
                            largest, winner = score, n
                out[i, j, k] = winner
