"""The published JSON format, written here by hand with its own loops, and read back by the package."""

import contextlib
import json
import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from grokscope.errors import InputError
from grokscope.seeds import Seeds
from grokscope.world import (
    CorpusSpec,
    FormatSpec,
    Regime,
    WorldSpec,
    build_corpus,
    build_world,
    encode,
    read_corpus,
)
from tests.world import brute

SPECIALS = ["<mask>", "<sep>", "<a>", "</a>", "<q>", "</q>"]


def make_reference(seed=0, k1=3, k2=2, entities=30, relations=10, degree=6):
    """Facts, split and a corpus as another code base would make them: tokens, dicts and random.Random."""
    rng = random.Random(seed)
    e = [f"<e_{i}>" for i in range(entities)]
    r = [f"<r_{i}>" for i in range(relations)]
    tail = {(h, x): rng.choice(e) for h in e for x in rng.sample(r, degree)}
    ood = set(rng.sample(sorted(tail), len(tail) // 8))
    out = {}
    for (h, r1), b in tail.items():
        for (b2, r2), t in tail.items():
            if b2 == b:
                out[h, r1, r2] = ((h, r1), (b, r2), t)
    kinds = {"II": [], "IO": [], "OI": [], "OO": []}
    for query, (one, two, _) in sorted(out.items()):
        kinds["IO"[one in ood] + "IO"[two in ood]].append(query)
    rng.shuffle(kinds["II"])
    iid, train = kinds["II"][:20], kinds["II"][20:500]
    injected = {"OI": [], "IO": []}
    for kind, hop, k in (("OI", 0, k1), ("IO", 1, k2)):
        for fact in sorted({out[q][hop] for q in kinds["OO"]}):
            mine = [q for q in kinds[kind] if out[q][hop] == fact]
            injected[kind] += rng.sample(mine, min(k, len(mine)))
    return {
        "tail": tail, "ood": ood, "compositions": out, "train": train, "injected": injected,
        "iid": iid, "ood_queries": kinds["OO"], "entities": e, "relations": r, "rng": rng,
    }  # fmt: skip


def item(tokens, answer, kind=None):
    text = "".join(tokens)
    out = {"input_text": text, "target_text": f"{text}{answer}</a>"}
    return out | {"type": kind} if kind else out


def write(made, folder, vocab="list", facts_files=True, without=()):
    rng, tail, ood = made["rng"], made["tail"], made["ood"]
    answer = {query: value[2] for query, value in made["compositions"].items()}
    trained = made["train"] + made["injected"]["OI"] + made["injected"]["IO"]
    train = [item(key, t) for key, t in tail.items()] + [item(q, answer[q]) for q in trained]
    rng.shuffle(train)
    test = [item(key, t, "ood_atomic" if key in ood else "id_atomic") for key, t in tail.items()]
    test += [item(q, answer[q], "train_inferred") for q in made["train"][:40]]
    test += [item(q, answer[q], "test_inferred_iid") for q in made["iid"]]
    test += [item(q, answer[q], "test_inferred_ood") for q in made["ood_queries"]]
    rng.shuffle(test)
    tokens = made["entities"] + made["relations"] + SPECIALS
    files = {
        "train": train,
        "valid": [item(q, answer[q]) for q in made["iid"]],
        "test": [one for one in test if one["type"] not in without],
        "vocab": tokens if vocab == "list" else {token: i + 1 for i, token in enumerate(tokens)},
    }
    if facts_files:
        files["id_facts"] = [[h, r, t] for (h, r), t in tail.items() if (h, r) not in ood]
        files["ood_facts"] = [[h, r, t] for (h, r), t in tail.items() if (h, r) in ood]
    folder.mkdir(exist_ok=True)
    for name, tree in files.items():
        (folder / f"{name}.json").write_text(json.dumps(tree))
    return files


def named(queries, world):
    """{(head, r1, ..): (bridge, .., answer)} in token strings."""
    e, r = world.vocabulary.entity, world.vocabulary.relation
    return {
        (e(key[0]), *(r(x) for x in key[1:])): tuple(e(x) for x in path)
        for key, path in brute.triples(queries).items()
    }


@pytest.mark.parametrize("vocab", ["list", "dict"])
@pytest.mark.parametrize("facts_files", [True, False])
@pytest.mark.parametrize("k", [(0, 0), (3, 2)])
def test_what_other_code_wrote_is_read(tmp_path, vocab, facts_files, k):
    made = make_reference(seed=1, k1=k[0], k2=k[1])
    write(made, tmp_path, vocab, facts_files)
    corpus = read_corpus(tmp_path)
    world = corpus.world
    ids = {token: number for number, token in enumerate(world.vocabulary.tokens)}
    assert [ids[token] for token in made["entities"] + made["relations"]] == list(range(1, 41))
    assert world.vocabulary.size == 47
    e, r = world.vocabulary.entity, world.vocabulary.relation
    rows = zip(world.fact_F3, world.ood_F, strict=True)
    read = {(e(head), r(relation)): (e(t), bool(ood)) for (head, relation, t), ood in rows}
    assert read == {key: (t, key in made["ood"]) for key, t in made["tail"].items()}
    want = made["train"] + made["injected"]["OI"] + made["injected"]["IO"]
    paths = {q: (made["tail"][q[0], q[1]], made["compositions"][q][2]) for q in made["compositions"]}
    assert named(corpus.composition, world) == {q: paths[q] for q in want}
    injected = made["injected"]
    assert corpus.injected == (len(injected["OI"]), len(injected["IO"]))
    for name, queries in (("test_iid", "iid"), ("test_ood", "ood_queries")):
        assert named(corpus.probes[name].queries, world) == {q: paths[q] for q in made[queries]}
    assert set(named(corpus.probes["train_inferred"].queries, world)) == set(made["train"][:40])
    assert set(named(corpus.probes["ood_atomic"].queries, world)) == made["ood"]
    test = corpus.probes["test_ood"]
    for hop, kind in ((0, "OI"), (1, "IO")):
        times = {}
        for query in made["injected"][kind]:
            fact = made["compositions"][query][hop]
            times[fact] = times.get(fact, 0) + 1
        for place, query in enumerate(named(test.queries, world)):
            count = times.get(made["compositions"][query][hop], 0)
            assert test.exposure_PK3[place, hop, 1 + hop] == count
            assert test.injected_PK[place, hop] == (count > 0)
    for name, kind in (("first_hop_ood", (True, False)), ("second_hop_ood", (False, True))):
        for query in named(corpus.probes[name].queries, world):
            one, two, _ = made["compositions"][query]
            assert (one in made["ood"], two in made["ood"]) == kind
            assert query not in want


def test_it_can_be_encoded_exactly(tmp_path):
    """The tokens that would be trained on are the file's training texts, no more and no less."""
    made = make_reference()
    files = write(made, tmp_path)
    corpus = read_corpus(tmp_path)
    texts = []
    for queries in (corpus.atomic, corpus.composition):
        encoded = encode(queries, corpus.world.vocabulary, FormatSpec())
        for labels in encoded.labels_NS.tolist():
            texts.append("".join(corpus.world.vocabulary.tokens[token] for token in labels if token))
    assert sorted(texts) == sorted(one["target_text"] for one in files["train"])


@pytest.mark.parametrize(
    "kind", ["id_atomic", "ood_atomic", "train_inferred", "test_inferred_iid", "test_inferred_ood"]
)
def test_any_test_set_may_be_missing(tmp_path, kind):
    made = make_reference(seed=2)
    write(made, tmp_path, facts_files=False, without=(kind,))
    corpus = read_corpus(tmp_path)
    world = corpus.world
    ood = {
        (world.vocabulary.entity(h), world.vocabulary.relation(r)) for h, r, _ in world.fact_F3[world.ood_F]
    }
    assert ood == made["ood"]
    assert {"test_inferred_iid": "test_iid", "test_inferred_ood": "test_ood"}.get(
        kind, kind
    ) not in corpus.probes


def test_a_study_can_train_on_exactly_the_file_or_draw_its_own(tmp_path):
    made = make_reference()
    write(made, tmp_path)
    world = build_world(WorldSpec(facts_file=str(tmp_path)), Seeds(world=4, split=5))
    assert int(world.ood_F.sum()) == len(made["ood"])
    exact = build_corpus(world, CorpusSpec(as_in_file=True), Regime(name="published"), Seeds(split=5))
    assert named(exact.composition, world).keys() == set(
        made["train"] + made["injected"]["OI"] + made["injected"]["IO"]
    )
    assert exact.regime.name == "published"
    own = build_corpus(world, CorpusSpec(phi=2.0), Regime(name="natural"), Seeds())
    assert len(own.composition) == 2 * int((~world.ood_F).sum())
    injects = Regime(name="x", hop1_ratio=1.0, hop1_k=2)
    with pytest.raises(InputError, match="as_in_file"):
        build_corpus(world, CorpusSpec(as_in_file=True), injects, Seeds())


@pytest.mark.parametrize("facts_files", [True, False])
def test_train_inferred_may_have_been_sampled_after_the_injection(tmp_path, facts_files):
    made = make_reference(seed=1)
    files = write(made, tmp_path, facts_files=facts_files)
    injected = made["injected"]["OI"] + made["injected"]["IO"]
    more = [item(q, made["compositions"][q][2], "train_inferred") for q in injected]
    (tmp_path / "test.json").write_text(json.dumps(more + files["test"]))
    corpus = read_corpus(tmp_path)
    assert sum(corpus.injected) == len(injected)
    assert set(named(corpus.probes["ood_atomic"].queries, corpus.world)) == made["ood"]
    assert set(named(corpus.probes["train_inferred"].queries, corpus.world)) == set(made["train"][:40])


def trained(made, query):
    return item(query, made["compositions"][query][2])


def id_fact(made):
    return next([*key, tail] for key, tail in made["tail"].items() if key not in made["ood"])


BREAKS = {
    "both trained and tested": (
        "train",
        lambda t, made: t.append(trained(made, made["iid"][0])),
        "is in train",
    ),
    "two OOD hops": ("train", lambda t, made: t.append(trained(made, made["ood_queries"][0])), "OOD"),
    "wrong answer": ("train", lambda t, made: t.append(item(made["train"][0], "<e_nobody>")), "e_nobody"),
    "two tails": ("train", lambda t, made: t.append(item(next(iter(made["tail"])), "<e_nobody>")), "tail"),
    "unknown type": ("test", lambda t, made: t.append(t[0] | {"type": "atomic_new"}), "atomic_new"),
    "no type": ("test", lambda t, made: t[0].pop("type"), "type"),
    "not tokens": ("train", lambda t, made: t[3].update(input_text="e_1 r_2"), "item 3"),
    "four tokens": ("train", lambda t, made: t[3].update(input_text="<a><b><c><d>"), "item 3"),
    "no end": ("train", lambda t, made: t[3].update(target_text=t[3]["input_text"] + "<e_1>"), "item 3"),
    "vocab twice": ("vocab", lambda t, made: t.append(t[0]), "twice"),
    "vocab short": ("vocab", lambda t, made: t.remove("<e_7>"), "<e_7>"),
    "fact in both": ("ood_facts", lambda t, made: t.append(id_fact(made)), "id_facts.json and in ood_facts"),
    "fact in neither": ("ood_facts", lambda t, made: t.pop(), "neither"),
}


@pytest.mark.parametrize("what", BREAKS)
def test_a_contradiction_is_named(tmp_path, what):
    made = make_reference()
    files = write(made, tmp_path)
    name, edit, words = BREAKS[what]
    edit(files[name], made)
    (tmp_path / f"{name}.json").write_text(json.dumps(files[name]))
    with pytest.raises(InputError, match=r"^[^\n]*$") as caught:
        read_corpus(tmp_path)
    assert words in str(caught.value)


token = st.sampled_from(["<e_0>", "<e_1>", "<e_2>", "<e_3>", "<r_0>", "<r_1>", "</a>", "x", "<", "<>", "PAD"])
text = st.lists(token, max_size=6).map("".join)
loose = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4) | text,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3) | text, inner, max_size=4)
    ),
    max_leaves=8,
)
types = st.sampled_from(
    ["id_atomic", "ood_atomic", "train_inferred", "test_inferred_iid", "test_inferred_ood", "?"]
)
near = st.fixed_dictionaries(
    {"input_text": text, "target_text": text | loose}, optional={"type": types | loose}
)
hop = st.tuples(st.integers(0, 3), st.lists(st.integers(0, 1), min_size=1, max_size=2), types)


def true_item(drawn):
    """An item that follows from the facts e_i, r_j -> e_(i + j + 1) mod 4."""
    head, relations, kind = drawn
    at = head
    for relation in relations:
        at = (at + relation + 1) % 4
    return item([f"<e_{head}>", *(f"<r_{x}>" for x in relations)], f"<e_{at}>", kind)


items = st.lists(st.one_of(hop.map(true_item), hop.map(true_item), near), max_size=12) | loose


@settings(
    deadline=None,
    max_examples=150,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(
    train=st.lists(hop.map(true_item), max_size=20) | items,
    test=st.lists(hop.map(true_item), max_size=6) | items,
    vocab=st.none() | st.lists(token, max_size=12) | loose,
    ood=st.none() | st.lists(st.lists(token, min_size=3, max_size=3), max_size=3) | loose,
)
def test_fuzzed_files_are_read_or_refused(tmp_path, train, test, vocab, ood):
    for name, tree in {"train": train, "test": test, "vocab": vocab, "ood_facts": ood}.items():
        (tmp_path / f"{name}.json").unlink(missing_ok=True)
        if tree is not None:
            (tmp_path / f"{name}.json").write_text(json.dumps(tree))
    with contextlib.suppress(InputError):
        assert len(read_corpus(tmp_path).world.fact_F3) > 0


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=60) | st.just(b"[" * 100_000))
def test_bytes_that_are_not_json_are_refused(tmp_path, data):
    (tmp_path / "train.json").write_bytes(data)
    with pytest.raises(InputError):
        read_corpus(tmp_path)
