"""Exchange networks that find medians of boxes: plans made in Python, carried out by `cohortex.filters.median_kernels`.

Two neighbouring boxes share all but their outer lists. So a plan takes w + 1 sorted lists, merges the w - 1 in the middle once, and adds to
them the first list for the one box and the last list for the other. Merging goes by Batcher's odd-even networks without the exchanges
whose results nobody needs; of the last merge only the middle element is taken.

A plan is an (operations, 5) int64 array with rows (kind, a, b, low, high) of value numbers. Numbers below `inputs` are elements of the
input lists, list after list; then come the elements of the output lists; then rows of scratch, none of which is overwritten by an
operation that reads it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

BOTH, LOW, HIGH, COPY = range(4)
"""Kinds of operations: min and max of a and b, min alone, max alone, a copy of a (the result of the latter three goes to one row)."""

Value = tuple[str, int]


@dataclass(frozen=True)
class Plan:
    """Operations of one step of sharing, and how many rows they use."""

    operations: np.ndarray
    inputs: int
    outputs: int
    scratch: int


class _Network:
    """A list of exchanges under construction; every result is a new value."""

    def __init__(self):
        self.steps: list[tuple[int, Value, Value, Value, Value]] = []
        self.count = 0

    def exchange(self, a: Value, b: Value) -> tuple[Value, Value]:
        low, high = ("made", self.count), ("made", self.count + 1)
        self.count += 2
        self.steps.append((BOTH, a, b, low, high))
        return low, high

    def merge(self, first: list[Value], second: list[Value]) -> list[Value]:
        """Merge two sorted lists (Knuth, The Art of Computer Programming 3, section 5.3.4)."""
        if not first or not second:
            return first or second
        if len(first) == len(second) == 1:
            return list(self.exchange(first[0], second[0]))
        even, odd = self.merge(first[::2], second[::2]), self.merge(first[1::2], second[1::2])
        merged = [even[0]]
        for i in range(max(len(even) - 1, len(odd))):
            if i < len(odd) and i + 1 < len(even):
                merged += self.exchange(odd[i], even[i + 1])
            else:
                merged.append(odd[i] if i < len(odd) else even[i + 1])
        return merged

    def merge_all(self, lists: list[list[Value]]) -> list[Value]:
        if len(lists) <= 1:
            return lists[0] if lists else []
        half = len(lists) // 2
        return self.merge(self.merge_all(lists[:half]), self.merge_all(lists[half:]))

    def select(self, rank: int, core: list[Value], extra: list[Value]) -> Value:
        """Return the element of a rank of two sorted lists: the least of the greater ones of all splits of the elements up to it."""
        candidates: list[Value] = []
        for taken in range(rank + 2):
            if taken > len(core) or rank - taken >= len(extra):
                continue
            if taken == 0:
                candidates.append(extra[rank])
            elif taken == rank + 1:
                candidates.append(core[rank])
            else:
                candidates.append(self._half(HIGH, core[taken - 1], extra[rank - taken]))
        found = candidates[0]
        for other in candidates[1:]:
            found = self._half(LOW, found, other)
        return found

    def _half(self, kind: int, a: Value, b: Value) -> Value:
        low, high = self.exchange(a, b)
        return low if kind == LOW else high


@lru_cache(maxsize=32)
def sort_plan(width: int) -> Plan:
    """Return the plan that sorts `width` lists of one element."""
    network = _Network()
    return _plan(network, width, [network.merge_all([[("in", i)] for i in range(width)])])


@lru_cache(maxsize=32)
def merge_plan(width: int, length: int) -> Plan:
    """Return the plan from width + 1 lists of `length` to two sorted lists, of the first and of the last `width` of them."""
    network, lists = _Network(), [[("in", i * length + k) for k in range(length)] for i in range(width + 1)]
    core = network.merge_all(lists[1:-1])
    return _plan(network, (width + 1) * length, [network.merge(core, lists[0]), network.merge(core, lists[-1])])


@lru_cache(maxsize=32)
def median_plan(width: int, length: int) -> Plan:
    """Return the plan from width + 1 lists of `length` to the medians of the first and of the last `width` of them."""
    network, lists = _Network(), [[("in", i * length + k) for k in range(length)] for i in range(width + 1)]
    core, rank = network.merge_all(lists[1:-1]), width * length // 2
    return _plan(network, (width + 1) * length, [[network.select(rank, core, lists[0])], [network.select(rank, core, lists[-1])]])


def _plan(network: _Network, inputs: int, outputs: list[list[Value]]) -> Plan:
    """Drop what nobody needs and give every value a row."""
    wanted = [value for values in outputs for value in values]
    needed = set(wanted)
    kept = []
    for kind, a, b, low, high in reversed(network.steps):
        if low in needed or high in needed:
            kind = BOTH if low in needed and high in needed else LOW if low in needed else HIGH
            kept.append((kind, a, b, low, high))
            needed |= {a, b}
    kept.reverse()
    last = {value: i for i, (_, a, b, _, _) in enumerate(kept) for value in (a, b)}
    rows: dict[Value, int] = {("in", i): i for i in range(inputs)}
    made = [value for value in wanted if value[0] == "made"]
    assert len(set(made)) == len(made), "an output is made once"
    rows |= {value: inputs + i for i, value in enumerate(wanted) if value[0] == "made"}
    first, free, most = inputs + len(wanted), [], 0
    operations = []
    for i, (kind, a, b, low, high) in enumerate(kept):
        for value in (low, high) if kind == BOTH else (low,) if kind == LOW else (high,):
            if value not in rows:
                if not free:
                    free.append(first + most)
                    most += 1
                rows[value] = free.pop()
        operations.append((kind, rows[a], rows[b], rows[high] if kind == HIGH else rows[low], rows[high] if kind == BOTH else 0))
        free += [rows[value] for value in {a, b} if last[value] == i and rows[value] >= first]
    operations += [(COPY, rows[value], 0, inputs + i, 0) for i, value in enumerate(wanted) if value[0] == "in"]
    return Plan(np.array(operations, dtype=np.int64).reshape(-1, 5), inputs, len(wanted), most)
