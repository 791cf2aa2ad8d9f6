"""Which facts of a reference data set are OOD, recovered from the files alone."""

from collections.abc import Collection, Mapping

from grokscope.errors import InputError, shortened

Key = tuple[str, str]
"""Head and relation, which name a fact."""
Chain = tuple[Key, ...]
"""The facts of a query, hop by hop."""


def split_of(
    facts: Collection[Key],
    composed: Collection[Chain],
    tested: Mapping[str, Mapping[Chain, object]],
    id_facts: set[Key] | None,
    ood_facts: set[Key] | None,
) -> set[Key]:
    """The OOD facts.

    With `id_facts` or `ood_facts` the lists decide (one alone: the other is its complement). Without them the
    test items do: facts of ood_atomic and of both hops of test_inferred_ood are OOD, of id_atomic and
    test_inferred_iid ID, of first_hop_ood and second_hop_ood one each. A fact that of these only
    train_inferred names is ID (its items may be injected ones, so it does not contradict the others). A fact
    no test item names is ID if a composition trains it (OOD facts are injected because test_inferred_ood uses
    them). One that is in no composition is ID if ood_atomic lists the OOD facts, and OOD if there is no such
    list or it is as long as the id_atomic list, for then a cap has cut both.

    Raises:
        InputError: the files contradict each other, or nothing tells ID from OOD.
    """
    if id_facts is not None or ood_facts is not None:
        return _from_lists(set(facts), id_facts, ood_facts)
    patterns = {"id_atomic": "I", "test_inferred_iid": "II", "ood_atomic": "O"}
    patterns |= {"test_inferred_ood": "OO", "first_hop_ood": "OI", "second_hop_ood": "IO"}
    named: dict[Key, str] = {}
    for kind, pattern in patterns.items():
        for chain, where in tested.get(kind, {}).items():
            for key, letter in zip(chain, pattern, strict=True):
                if named.setdefault(key, letter) != letter:
                    raise InputError(
                        f"{where}: the fact {shortened(''.join(key), 60)} is OOD by one test item and ID by "
                        "another."
                    )
    named = {key: "I" for chain in tested.get("train_inferred", ()) for key in chain} | named
    if not named:
        raise InputError("the test items name no fact, so that ID and OOD cannot be told; add id_facts.json.")
    trained = {key for chain in composed for key in chain}
    listed = len(tested.get("ood_atomic", ()))
    complete = listed > 0 and listed != len(tested.get("id_atomic", ()))
    return {key for key in facts if named.get(key, "I" if complete or key in trained else "O") == "O"}


def _from_lists(facts: set[Key], id_facts: set[Key] | None, ood_facts: set[Key] | None) -> set[Key]:
    if id_facts is None or ood_facts is None:
        return facts - id_facts if id_facts is not None else set(ood_facts or ())
    if both := id_facts & ood_facts:
        raise InputError(
            f"the fact {shortened(''.join(min(both)), 60)} stands in id_facts.json and in ood_facts.json."
        )
    if neither := facts - id_facts - ood_facts:
        said = shortened("".join(min(neither)), 60)
        raise InputError(f"the trained fact {said} stands in neither id_facts.json nor ood_facts.json.")
    return ood_facts
