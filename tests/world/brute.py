"""The protocol derived again with plain dictionaries and loops; shares nothing with the package."""

from collections import Counter


def facts_of(world):
    """{(head, relation): (tail, is_ood)}"""
    return {
        (int(h), int(r)): (int(t), bool(ood))
        for (h, r, t), ood in zip(world.fact_F3, world.ood_F, strict=True)
    }


def all_compositions(facts):
    """{(head, r1, r2): (bridge, tail, ood1, ood2)}"""
    outgoing = {}
    for (head, relation), (tail, ood) in facts.items():
        outgoing.setdefault(head, []).append((relation, tail, ood))
    out = {}
    for (head, r1), (bridge, ood1) in facts.items():
        for r2, tail, ood2 in outgoing.get(bridge, []):
            out[head, r1, r2] = (bridge, tail, ood1, ood2)
    return out


def triples(queries):
    """{(head, r1, ..): path} of a Queries value; fails on duplicates."""
    out = {}
    for head, relations, path in zip(queries.head_N, queries.relation_NK, queries.path_NK, strict=True):
        key = (int(head), *map(int, relations))
        assert key not in out, f"{key} twice"
        out[key] = tuple(map(int, path))
    return out


def trained_as(facts, compositions, trained):
    """Counters: how often each (head, relation) is hop 1 and hop 2 of the trained (head, r1, r2)."""
    hop1, hop2 = Counter(), Counter()
    for head, r1, r2 in trained:
        hop1[head, r1] += 1
        hop2[compositions[head, r1, r2][0], r2] += 1
    return hop1, hop2


def guess(facts, relation):
    """The most frequent tail of a relation, the smallest of equals."""
    count = Counter(tail for (_, r), (tail, _) in facts.items() if r == relation)
    return min(count, key=lambda tail: (-count[tail], tail))


def rows(queries):
    """Every query as (head, relations, path), in plain numbers."""
    return list(
        zip(
            queries.head_N.tolist(),
            map(tuple, queries.relation_NK.tolist()),
            map(tuple, queries.path_NK.tolist()),
            strict=True,
        )
    )


def triples_any(queries):
    """The set of (head, relations...) of queries of any number of hops."""
    return {(head, *relations) for head, relations, _ in rows(queries)}


def facts_used(queries):
    """The set of ((h, r1), (b, r2)) of two-hop queries."""
    return {((head, r[0]), (path[0], r[1])) for head, r, path in rows(queries)}
