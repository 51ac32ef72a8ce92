"""Division of a table's rows into splits: seeded, stratified over all tasks at once, groups kept together.

Sechidis, Tsoumakas, Vlahavas, On the Stratification of Multi-Label Data, ECML PKDD 2011: the rarest label is dealt out
first, each row to the split that is most in need of it. Every split gets a row of each label that has one for all.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

from lossrag.streams import Stream, generator


def divide(
    labels: Sequence[Sequence[Hashable]], units: Sequence[Hashable], shares: Mapping[str, float], seed: int
) -> list[str]:
    """The split (N,) of every row, by ``shares`` that sum to 1, the first of them taking what rounding leaves.

    labels: (N,) of every row what it counts for, such as a class of a task. units: (N,) rows of one stay together.

    >>> divide([["a"], ["a"], ["b"], ["b"]], [0, 1, 2, 3], {"support": 0.5, "test": 0.5}, seed=0)
    ['test', 'support', 'support', 'test']
    """
    # not sets: their order changes from process to process
    members: dict[Hashable, dict[Hashable, None]] = {}
    for unit, own in zip(units, labels, strict=True):
        members.setdefault(unit, {}).update(dict.fromkeys(own))
    rng = generator(seed, Stream.SUPPORT_SPLIT)
    keys = list(members)
    order = [keys[i] for i in rng.permutation(len(keys))]
    chance = dict(zip(order, rng.random((len(order), len(shares))).tolist(), strict=True))
    holders: dict[Hashable, list[Hashable]] = {}
    for unit in order:
        for label in members[unit]:
            holders.setdefault(label, []).append(unit)
    names = list(shares)
    wanted = {label: _wanted(len(own), list(shares.values())) for label, own in holders.items()}
    total = _wanted(len(order), list(shares.values()))
    left = {label: len(own) for label, own in holders.items()}
    rank = {label: (len(own), i) for i, (label, own) in enumerate(holders.items())}
    placed: dict[Hashable, int] = {}

    def place(unit: Hashable, split: int) -> None:
        placed[unit] = split
        total[split] -= 1
        for label in members[unit]:
            left[label] -= 1
            wanted[label][split] -= 1

    while left:
        label = min(left, key=lambda own: (left[own], rank[own]))
        for unit in holders[label]:
            if unit not in placed:
                needs = wanted[label]
                place(unit, max(range(len(names)), key=lambda s: (needs[s], total[s], chance[unit][s])))
        del left[label]
        left = {own: count for own, count in left.items() if count > 0}
    for unit in order:
        if unit not in placed:
            place(unit, max(range(len(names)), key=lambda s: (total[s], chance[unit][s])))
    _mend(members, holders, placed, len(names))
    return [names[placed[unit]] for unit in units]


def _mend(
    members: Mapping[Hashable, Mapping[Hashable, None]],
    holders: Mapping[Hashable, Sequence[Hashable]],
    placed: dict[Hashable, int],
    splits: int,
) -> None:
    """Move units to splits that lack a label, from where none of their own labels would be lacking then."""
    held = {label: [0] * splits for label in holders}
    for unit, split in placed.items():
        for label in members[unit]:
            held[label][split] += 1
    for label in sorted(holders, key=lambda own: len(holders[own])):
        for split in range(splits):
            if held[label][split] or len(holders[label]) < splits:
                continue
            fit = [unit for unit in holders[label] if all(held[own][placed[unit]] > 1 for own in members[unit])]
            if fit:
                unit = max(fit, key=lambda own: held[label][placed[own]])
                for own in members[unit]:
                    held[own][placed[unit]] -= 1
                    held[own][split] += 1
                placed[unit] = split


def _wanted(count: int, shares: Sequence[float]) -> list[float]:
    """How many of so many each split should get: one at least, where there is one for each."""
    least = 1.0 if count >= len(shares) else 0.0
    others = [max(share * count, least) for share in shares[1:]]
    return [count - sum(others), *others]
