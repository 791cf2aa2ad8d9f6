"""A user's own facts, in whatever table they are kept."""

import contextlib
import csv
import io
import json
import time
import tracemalloc
import unicodedata
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from grokscope.cli import main
from grokscope.errors import InputError
from grokscope.mechanics.read.lens import _exact
from grokscope.models.build import build_model
from grokscope.models.spec import LoopedSpec
from grokscope.seeds import Seeds
from grokscope.training.data import training_data
from grokscope.training.evaluate import correct
from grokscope.world import (
    REGIMES,
    CorpusSpec,
    FormatSpec,
    Regime,
    WorldSpec,
    atoms,
    build_corpus,
    build_world,
    inspect,
    read_corpus,
    write_corpus,
)
from grokscope.world.answers import answers, asked
from grokscope.world.queries import queries_of
from tests.world import brute

FAMILY = """head,relation,tail
Ada,mother,Bea
Ada,boss,Cy
Bea,mother,Dot
"Cy, the younger",mother,Bea
 Dot ,boss,Ada

Cy,mother,a
"""
FACTS = [
    ("Ada", "mother", "Bea"),
    ("Ada", "boss", "Cy"),
    ("Bea", "mother", "Dot"),
    ("Cy, the younger", "mother", "Bea"),
    ("Dot", "boss", "Ada"),
    ("Cy", "mother", "a"),
]


def written(tmp_path, content):
    path = tmp_path / "facts.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def world_of(tmp_path, content, **spec):
    return build_world(WorldSpec(facts_file=str(written(tmp_path, content)), **spec), Seeds())


def named(world):
    e, r = world.vocabulary.entity, world.vocabulary.relation
    return {(e(h), r(x), e(t)) for h, x, t in world.fact_F3}


def tokens(facts):
    return {(f"<e_{h}>", f"<r_{r}>", f"<e_{t}>") for h, r, t in facts}


def as_text(facts, separator=",", header=("head", "relation", "tail"), quoting=csv.QUOTE_MINIMAL, end="\n"):
    out = io.StringIO()
    writer = csv.writer(out, delimiter=separator, quoting=quoting, lineterminator=end, quotechar='"')
    writer.writerows([header, *facts] if header else facts)
    return out.getvalue()


def as_parquet(columns):
    out = io.BytesIO()
    pl.DataFrame(columns).write_parquet(out)
    return out.getvalue()


HEADS, RELATIONS, TAILS = zip(*FACTS, strict=True)
MORE = [("train", *fact, "0.5") for fact in FACTS]
PLAIN = [(h.replace(", the ", "_"), r, t) for h, r, t in FACTS]
TABLES = {
    "tabs, no header": as_text(FACTS, "\t", None),
    "tabs, all quoted": as_text(FACTS, "\t", quoting=csv.QUOTE_ALL),
    "semicolons, no header": as_text(FACTS, ";", None),
    "bars": as_text(FACTS, "|"),
    "any case": as_text(FACTS, header=("Head", "RELATION", "tail")),
    "rdf": as_text(FACTS, header=("subject", "predicate", "object")),
    "sparql": as_text(FACTS, "\t", header=("?s", "?p", "?o")),
    "network": as_text(FACTS, header=("source", "type", "target")),
    "neo4j": as_text(FACTS, header=(":START_ID", ":TYPE", ":END_ID")),
    "wikidata": as_text(FACTS, header=("subject", "property", "value")),
    "with endings": as_text(FACTS, header=("Head Name", "relation_label", "tail-id")),
    "other order": as_text([(t, h, r) for h, r, t in FACTS], header=("tail", "head", "relation")),
    "more columns": as_text(MORE, header=("split", "head", "relation", "tail", "weight")),
    "a source beside": as_text(
        [(*fact, "a book") for fact in FACTS], header=("head", "relation", "tail", "source")
    ),
    "empty cells behind": as_text(FACTS).replace("\n", ",,\n"),
    "line ends of Windows": as_text(FACTS, end="\r\n"),
    "line ends of old Macs": as_text(FACTS, end="\r"),
    "UTF-8 with a mark": as_text(FACTS).encode("utf-8-sig"),
    "UTF-16": as_text(FACTS).encode("utf-16"),
    "UTF-16, the other order": b"\xfe\xff" + as_text(FACTS).encode("utf-16-be"),
    "JSON lines": "\n".join(json.dumps({"head": h, "relation": r, "tail": t, "n": 1}) for h, r, t in FACTS),
    "JSON lines of lists": "\n".join(json.dumps(fact) for fact in FACTS),
    "JSON lines in UTF-16": "\n".join(json.dumps(fact) for fact in FACTS).encode("utf-16"),
    "one JSON list": json.dumps([{"Subject": h, "predicate": r, "object": t} for h, r, t in FACTS]),
    "one JSON list, indented": json.dumps(FACTS, indent=2),
    "Parquet": as_parquet({"weight": [0.5] * 6, "Tail": TAILS, "relation": RELATIONS, "Head": HEADS}),
}


@pytest.mark.parametrize("content", TABLES.values(), ids=TABLES)
def test_every_table_gives_the_same_world(tmp_path, content):
    plain = world_of(tmp_path, FAMILY, ood_fraction=0.3)
    assert named(plain) == tokens(FACTS)
    assert world_of(tmp_path, content, ood_fraction=0.3).fingerprint == plain.fingerprint


def test_blanks_may_separate_and_whole_numbers_may_name(tmp_path):
    assert named(world_of(tmp_path, as_text(PLAIN, " ", None), ood_fraction=0)) == tokens(PLAIN)
    wide = as_text(PLAIN, " ", None).replace(" ", "   ")
    assert named(world_of(tmp_path, wide, ood_fraction=0)) == tokens(PLAIN)
    numbers = [(str(10 + i), str(i % 2), str(10 + (i * 3) % 7)) for i in range(7)]
    as_integers = [list(map(int, fact)) for fact in numbers]
    columns = dict(zip(("h", "r", "t"), zip(*as_integers, strict=True), strict=True))
    for content in (as_text(numbers), "\n".join(map(json.dumps, as_integers)), as_parquet(columns)):
        assert named(world_of(tmp_path, content, ood_fraction=0)) == tokens(numbers)


def test_addresses_are_names_with_and_without_their_brackets(tmp_path):
    site = "http://example.org/resource/"
    facts = [(f"{site}{h.replace(' ', '%20')}", f"{site}#{r}", f"{site}{t}") for h, r, t in FACTS]
    bracketed = "".join(f"<{h}> <{r}> <{t}> .\n" for h, r, t in facts)
    for content in (as_text(facts), as_text(facts, "\t", None), bracketed, bracketed.replace("> <", ">\t<")):
        assert named(world_of(tmp_path, content, ood_fraction=0)) == tokens(facts)


def test_quotation_marks_between_tabs_are_characters(tmp_path):
    facts = [
        ('"Weird Al" Y.', "born in", 'the "city"'),
        ('the "city"', "is in", '"it"'),
        ("5'10\"", "is in", "x"),
    ]
    content = "".join("\t".join(fact) + "\n" for fact in facts)
    assert named(world_of(tmp_path, content, ood_fraction=0)) == tokens(facts)


name = st.text(
    st.characters(exclude_categories=("Cc", "Cs", "Cf", "Cn", "Zl", "Zp"), exclude_characters="<>"),
    min_size=1,
).filter(lambda text: text.strip() and not text.isspace() and text.strip() != ".")


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    facts=st.dictionaries(st.tuples(name, st.sampled_from(["r", "mütterlich", "«of»"])), name, min_size=2),
    separator=st.sampled_from([",", ";", "|", "\t"]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
    end=st.sampled_from(["\n", "\r\n"]),
    form=st.sampled_from(["NFC", "NFD"]),
)
def test_names_of_every_kind_come_through(tmp_path, facts, separator, encoding, end, form):
    rows = [(head.strip(), relation, tail.strip()) for (head, relation), tail in facts.items()]
    looks = {unicodedata.normalize("NFC", text).replace("\xa0", " ") for row in rows for text in row}
    assume(len(looks) == len({text for row in rows for text in row}))
    assume(len({row[:2] for row in rows}) == len(rows))
    assume(
        not any(unicodedata.category(c) == "Zs" and c != " " for row in rows for text in row for c in text)
    )
    quoting = csv.QUOTE_ALL if separator == "\t" else csv.QUOTE_MINIMAL
    text = unicodedata.normalize(form, as_text(rows, separator, quoting=quoting, end=end))
    expected = {tuple(unicodedata.normalize("NFC", text) for text in row) for row in tokens(rows)}
    assert named(world_of(tmp_path, text.encode(encoding), ood_fraction=0)) == expected


def test_counts_are_said_without_a_corpus(tmp_path):
    summary = inspect(written(tmp_path, FAMILY))
    assert (summary["entities"], summary["relations"], summary["facts"]) == (6, 2, 6)
    assert "notes" not in summary
    world = world_of(tmp_path, FAMILY, ood_fraction=0.3)
    assert int(world.ood_F.sum()) == 2
    assert world.vocabulary.tokens.count("<a>") == 1
    assert summary["fingerprint"] == world_of(tmp_path, FAMILY, ood_fraction=0).fingerprint


def test_the_order_of_the_lines_does_not_matter(tmp_path):
    lines = FAMILY.splitlines()
    other = "\n".join([lines[0], *reversed(lines[1:])])
    assert (
        world_of(tmp_path, FAMILY, ood_fraction=0.3).fingerprint
        == world_of(tmp_path, other, ood_fraction=0.3).fingerprint
    )


def test_a_corpus_of_own_facts_goes_through_every_layout(tmp_path):
    """Unequal degrees, names with blanks, commas and quotes."""
    lines = ["head,relation,tail"]
    for i in range(40):
        lines += [f'"node ""{i}"", x",rel {j},"node ""{(i * 7 + j * j) % 40}"", x"' for j in range(1 + i % 7)]
    world = world_of(tmp_path, "\n".join(lines), ood_fraction=0.2)
    corpus = build_corpus(world, CorpusSpec(phi=1.0), Regime(name="mine", hop1_ratio=1.0, hop1_k=2), Seeds())
    facts = brute.facts_of(world)
    assert {len([1 for head, _ in facts if head == entity]) for entity in range(40)} == set(range(1, 8))
    for layout in ("grokscope", "parquet", "reference"):
        write_corpus(corpus, tmp_path / layout, layout)
        read = read_corpus(tmp_path / layout)
        assert read.fingerprint == corpus.fingerprint
        assert named(read.world) == named(world)


SEVERAL = FAMILY + "Ada,mother,Eve\nBea,mother,Dot\nDot,boss,Cy\nDot,boss,Bea\n"
"""Two of six pairs have several tails, five facts in all."""


def test_several_tails_are_counted_and_something_is_chosen(tmp_path, capsys):
    said = "2 of 6 pairs of head and relation have several tails (5 facts)"
    with pytest.raises(InputError, match="drop, first or all") as caught:
        world_of(tmp_path, SEVERAL)
    assert said in str(caught.value)
    assert "line 9: (Ada, mother) has the tail 'Eve', but 'Bea' in line 2" in str(caught.value)
    rest = [fact for fact in FACTS if fact[:2] not in (("Ada", "mother"), ("Dot", "boss"))]
    dropped = world_of(tmp_path, SEVERAL, several_tails="drop", ood_fraction=0)
    assert named(dropped) == tokens(rest)
    assert dropped.notes == (f"{said}: left out",)
    assert "<e_Eve>" not in dropped.vocabulary.tokens
    kept = world_of(tmp_path, SEVERAL, several_tails="first", ood_fraction=0)
    assert named(kept) == tokens(FACTS)
    assert kept.notes == (f"{said}: the first of each is kept",)
    assert main(["world", "inspect", str(tmp_path / "facts.csv")]) == 0
    assert said in capsys.readouterr().out


def all_tails(facts):
    """Every tail of a head and a relation, by brute force."""
    found = {}
    for head, relation, tail in facts:
        found.setdefault((head, relation), set()).add(tail)
    return found


names = st.sampled_from("abcdef")


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(facts=st.lists(st.tuples(names, st.sampled_from("rs"), names), min_size=1, max_size=30, unique=True))
def test_any_tail_answers(tmp_path, facts):
    """Of two hops, whatever some way through the tails leads to; the first tail is the fact."""
    world = world_of(tmp_path, as_text(facts), several_tails="all", ood_fraction=0)
    found, words = all_tails(facts), world.vocabulary
    assert len(world.fact_F3) == len(found)
    assert len(world.fact_F3) + len(world.further_G3) == len(facts)
    entity = [words.tokens[at].removeprefix("<e_").removesuffix(">") for at in words.entity_ids]
    relation = [words.tokens[at].removeprefix("<r_").removesuffix(">") for at in words.relation_ids]
    one = atoms(world)
    for row, (head, kind, tail) in zip(answers(one, world), world.fact_F3.tolist(), strict=True):
        expected = found[entity[head], relation[kind]]
        assert {entity[at] for at in row if at >= 0} == expected
        assert entity[tail] == next(t for h, r, t in facts if (h, r) == (entity[head], relation[kind]))
    numbered = list(enumerate(world.fact_F3.tolist()))
    pairs = [(i, j) for i, (_, _, bridge) in numbered for j, (head, _, _) in numbered if head == bridge]
    if not pairs:
        return
    two = queries_of(world, np.array(pairs, dtype=np.int32))
    encoded = asked(two, world, FormatSpec(attention="causal", output="answer"))
    for n, row in enumerate(answers(two, world)):
        first = found[entity[two.head_N[n]], relation[two.relation_NK[n, 0]]]
        expected = {t for b in first for t in found.get((b, relation[two.relation_NK[n, 1]]), ())}
        assert [entity[at] for at in row if at >= 0] == sorted(expected)
        if encoded.answers_NA is not None:
            tokens_said = {words.tokens[at] for at in encoded.answers_NA[n] if at >= 0}
            assert tokens_said == {f"<e_{tail}>" for tail in expected}


def test_all_tails_are_trained_and_kept_and_none_is_wrong(tmp_path):
    facts = [
        (f"e{h}", f"r{r}", f"e{(3 * h + 5 * r + 7 * n) % 20}")
        for h in range(20)
        for r in range(4)
        for n in range(1 + h % 2)
    ]
    world = world_of(tmp_path, as_text(facts), several_tails="all", ood_fraction=0.2)
    corpus = build_corpus(world, CorpusSpec(phi=1.0), REGIMES["natural"], Seeds())
    assert corpus.summary()["further_tails"] == 40
    first = world_of(tmp_path, as_text(facts), several_tails="first", ood_fraction=0.2)
    assert world.fingerprint != first.fingerprint
    fmt = FormatSpec(attention="causal", output="answer")
    data = training_data(corpus, fmt)
    rows = zip(data.tokens_NS.tolist(), data.labels_NS.max(1).values.tolist(), strict=True)
    token = world.vocabulary.tokens
    shown = {(token[row[0]], token[row[1]], token[label]) for row, label in rows if row[2] == 0}
    assert shown == {(f"<e_{h}>", f"<r_{r}>", f"<e_{t}>") for h, r, t in facts}
    for layout in ("grokscope", "parquet"):
        write_corpus(corpus, tmp_path / layout, layout)
        assert read_corpus(tmp_path / layout).fingerprint == corpus.fingerprint
    with pytest.raises(InputError, match="one tail for a head"):
        write_corpus(corpus, tmp_path / "reference", "reference")


def test_whichever_right_answer_is_said_counts(tmp_path):
    """Both measures of accuracy: a model that says one tail of every pair, whichever, is always right."""
    facts = [("a", "r", "b"), ("a", "r", "c"), ("b", "r", "a"), ("c", "r", "a"), ("c", "r", "b")]
    world = world_of(tmp_path, as_text(facts), several_tails="all", ood_fraction=0)
    fmt = FormatSpec(attention="causal", output="answer")
    encoded = asked(atoms(world), world, fmt)
    model = build_model(LoopedSpec(width=8, heads=2), world.vocabulary.size, 3, fmt, 0, "float32").eval()
    with torch.no_grad():
        said_P = model(torch.from_numpy(encoded.tokens_NS).long())[:, encoded.answer_position].argmax(-1)
    right = [int(said) in row for said, row in zip(said_P, encoded.answers_NA, strict=True)]
    assert correct(model, encoded).tolist() == right
    every = replace(encoded, answers_NA=np.tile(said_P.numpy()[:, None], (1, 2)).astype(np.int32))
    assert correct(model, every).all()
    argmax_PS = np.tile(said_P.numpy()[:, None], (1, 3))
    assert _exact(argmax_PS, every).all()
    assert _exact(argmax_PS, encoded).tolist() == right


def test_a_choice_that_does_not_exist_or_cannot_be_honoured(tmp_path):
    path = written(tmp_path, FAMILY)
    with pytest.raises(InputError, match="should be 'refuse', 'drop', 'first' or 'all'"):
        WorldSpec.parse({"facts_file": str(path), "several_tails": "last"})
    with pytest.raises(InputError, match="needs a facts_file"):
        WorldSpec.parse({"several_tails": "drop"})
    with pytest.raises(InputError, match="is a directory"):
        build_world(WorldSpec(facts_file=str(tmp_path), several_tails="drop"), Seeds())
    both = as_text([("a", "r", "b"), ("a", "r", "c")])
    with pytest.raises(InputError, match="leaves no fact of 2"):
        world_of(tmp_path, both, several_tails="drop")


@pytest.mark.parametrize(
    ("one", "other"),
    [("Café", "Cafe\u0301"), ("Ada", "A\u200bda"), ("New York", "New\xa0York"), ("\u212b", "\xc5")],
)
def test_names_that_look_alike_are_said(tmp_path, one, other):
    facts = [(one, "r", "x"), ("x", "r", "y"), (other, "q", "y")]
    with pytest.raises(InputError, match=r"line 4: the name .* looks like .* in line 2") as caught:
        world_of(tmp_path, as_text(facts))
    assert str(caught.value).isascii()  # or nobody would see the difference


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty"),
        ("\n\n", "line 1"),
        ("head,relation,tail\n", "no facts"),
        ("Head\tRelation\tTail\n", "no facts"),
        ("head,relation,tail\na,b,c\na,b\n", "line 3: 2 columns instead of 3"),
        ("head,relation,tail\na,b,c\na,b,c,d\n", "line 3: 4 columns instead of 3"),
        ("head,relation,tail\na,b,c\na,,c\n", "line 3: a name is empty"),
        ("head,relation,tail\na,b,c\nd,b,c\na,b,d\n", "line 4: (a, b) has the tail 'd', but 'c' in line 2"),
        ("head,relation,tail\na,<b>,c\n", "line 2"),
        ("head,relation,tail\na,b\x1b[2J,c\n", "line 2: names must not hold control"),
        ('head,relation,tail\na,"b,c\n', "line 2 is not CSV"),
        ("head,relation,what\na,b,c\n", "line 1: the header calls nothing the tail"),
        ("head,type,label,tail\na,b,c,d\n", "line 1: the header calls 'type' and 'label' the relation"),
        (
            "name,kind,colour\na,r,b\nb,r,c\n",
            "line 1: 'name,kind,colour' is neither a known header nor a fact",
        ),
        ("a,r,b,1\nb,r,c,2\n", "line 1: 4 columns, and no header"),
        ("3\n0 1 0\n1 2 0\n", "line 1: '3' is neither the header nor a fact"),
        ('{"head": "a", "relation": "r"}\n', "the header calls nothing the tail"),
        ('{"a": 1, "b": 2}\n', "line 1: the keys 'a,b' must be"),
        (
            '{"head": "a", "relation": "r", "tail": "b"}\n{"head": "a"}\n',
            "line 2: {'head': 'a'} lacks relation",
        ),
        ('{"head": "a", "relation": "r", "tail": null}\n', "line 1: None must be a name"),
        ('{"head": true, "relation": "r", "tail": "x"}\n', "line 1: True must be a name"),
        ('{"head": "\\ud800", "relation": "r", "tail": "x"}\n', "line 1: names must not hold control"),
        ('["a", "r"]\n', "line 1: ['a', 'r'] must be head"),
        ('[["a", "r", "b"], ["a", "r"', "is cut off"),
        ('{"head": "a", "relation": "r", "tail": "b"}\n{"head": "a", "rel', "line 2"),
        ('{\n"facts": []}', "must hold a JSON list"),
        ("[\n]", "no facts"),
        ("<!DOCTYPE html><html>", "a web page (HTML)"),
        ("version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a Git LFS pointer"),
        (b"\x1f\x8b\x08\x00", "compressed with gzip"),
        (b"PK\x03\x04", "a ZIP archive"),
        ("head,relation,tail\nCaf\xe9,b,c\n".encode("latin-1"), "is not UTF-8 text"),
        ("head,relation,tail\na,b,c\n".encode("utf-16-le"), "UTF-16 without the mark"),
        (as_parquet({"a": ["x"], "b": ["y"], "c": ["z"]}), "the columns 'a,b,c' must be"),
        (as_parquet({"head": ["x"], "relation": [None], "tail": ["z"]}), "row 1: None must be a name"),
        (as_parquet({"head": ["x"], "relation": ["r"], "tail": ["z"]})[:-3], "is cut off"),
        (b"PAR1" + b"junk" * 9 + b"PAR1", "is damaged: it is not Parquet"),
    ],
)
def test_errors_name_the_line(tmp_path, text, words):
    with pytest.raises(InputError, match=r"^[^\n]*$") as caught:
        world_of(tmp_path, text)
    assert words in str(caught.value)


def test_a_line_that_repeats_a_fact_counts_once(tmp_path):
    world = world_of(tmp_path, FAMILY + "Ada,mother,Bea\n", ood_fraction=0.0)
    assert len(world.fact_F3) == 6


def test_a_large_table_is_read_row_by_row(tmp_path):
    """A fifth of FB15k-237, and in its shape: no header, tabs, pairs of many tails."""
    facts = [(f"/m/{i * i % 2917}", f"/r/{i % 47}", f"/m/{i * 7 % 2909}") for i in range(54_423)]
    path = written(tmp_path, "".join("\t".join(fact) + "\n" for fact in facts))
    tracemalloc.start()
    start = time.process_time()
    world = build_world(WorldSpec(facts_file=str(path), several_tails="first"), Seeds())
    assert time.process_time() - start < 10
    assert tracemalloc.get_traced_memory()[1] < 2**28
    tracemalloc.stop()
    assert len(world.fact_F3) == len({fact[:2] for fact in facts})


field = st.text(alphabet='ab,"<\n\x00é ', max_size=3)


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    header=st.just("head,relation,tail\n") | field,
    rows=st.lists(st.lists(field, max_size=4).map(",".join), max_size=8).map("\n".join),
    tail=st.binary(max_size=4),
)
def test_fuzzed_csv_is_read_or_refused(tmp_path, header, rows, tail):
    with contextlib.suppress(InputError):
        world = world_of(tmp_path, (header + rows).encode() + tail, ood_fraction=0.0)
        assert len(world.fact_F3) > 0


def test_a_table_of_which_every_pair_has_several_tails_is_inspected(tmp_path):
    summary = inspect(written(tmp_path, "head,relation,tail\na,r,b\na,r,c\n"))
    assert (summary["facts"], summary["fingerprint"]) == (2, None)
    assert summary["notes"] == ["1 of 1 pairs of head and relation have several tails (2 facts)"]
