"""Study files: what is read is what was meant, and everything else is a sentence."""

from pathlib import Path

import pytest

from grokscope.errors import InputError
from grokscope.runs.cost import order_warning
from grokscope.runs.files import load_study, shipped_studies
from grokscope.runs.spec import StudySpec

PAPER_REGIMES = ("natural", "both_hops_full", "both_hops_half", "first_hop_full", "second_hop_full")


def write(folder: Path, text: str) -> str:
    path = folder / "mine.yaml"
    path.write_text(text)
    return str(path)


def test_the_shipped_studies_are_all_there_and_valid() -> None:
    assert {"demo", "findings", "mid", "paper", "pocket"} <= set(shipped_studies())
    for name in shipped_studies():
        study = load_study(name)
        assert study.name == name
        assert study.expand()


def test_the_paper_study_is_the_references_protocol() -> None:
    study = load_study("paper")
    world, model, training = study.world, study.model, study.training
    assert (world.entities, world.relations, world.degree, world.ood_fraction) == (2000, 200, 20, 0.05)
    assert study.corpus.phi == 18
    assert model.kind == "recursive"
    assert (model.width, model.layers, model.h_cycles, model.l_cycles) == (1536, 2, 2, 6)
    assert (model.mixer, model.positions, model.prefix) == (True, "none", 16)
    assert (training.batch, training.warmup, training.loss, training.ema) == (512, 2000, "stablemax64", 0.999)
    optimizer = training.optimizer
    assert (optimizer.kind, optimizer.lr, optimizer.weight_decay) == ("adamw", 4e-5, 1.0)
    assert (optimizer.beta1, optimizer.beta2, optimizer.prefix_lr) == (0.9, 0.95, 1e-4)
    assert study.regimes == PAPER_REGIMES


def test_a_family_is_laid_over_the_rest() -> None:
    with_prefix, without = load_study("paper"), load_study("paper", "no_prefix")
    assert (with_prefix.family, without.family) == ("prefix", "no_prefix")
    assert without == with_prefix.replace(
        family="no_prefix", model={**with_prefix.model.model_dump(), "prefix": 0}
    )


def test_pocket_has_two_kinds_of_models() -> None:
    assert load_study("pocket", "causal").model.kind == "looped"
    trm = load_study("pocket", "trm")
    assert (trm.model.kind, trm.format.attention, trm.format.output) == ("recursive", "full", "sequence")


def test_yaml_turns_compile_off_into_false(tmp_path: Path) -> None:
    for written in ("off", "'off'", "no"):
        assert load_study(write(tmp_path, f"training: {{compile: {written}}}")).training.compile == "off"


def test_a_model_that_cannot_see_the_order_of_the_tokens_is_warned_of(tmp_path: Path) -> None:
    def warned(text: str) -> bool:
        (spec, *_) = load_study(write(tmp_path, text)).expand().values()
        return bool(order_warning(spec))

    assert warned("model: {kind: looped, positions: none}")
    assert warned("model: {kind: recursive, mixer: false}")
    assert not warned("model: {kind: looped, positions: learned}")
    assert not warned("model: {kind: recursive}")
    assert not warned("{format: {attention: causal}, model: {kind: looped, positions: none}}")
    assert not any(
        order_warning(spec) for name in shipped_studies() for spec in load_study(name).expand().values()
    )


def test_an_own_file_is_named_after_itself_and_its_facts_lie_beside_it(tmp_path: Path) -> None:
    (tmp_path / "facts.csv").write_text("a,b,c\n")
    study = load_study(write(tmp_path, "world: {facts_file: facts.csv}"))
    assert study.name == "mine"
    assert study.world.facts_file == str(tmp_path / "facts.csv")


def test_a_family_may_say_what_the_base_says(tmp_path: Path) -> None:
    text = "training: {steps: 5, batch: 7}\nfamilies: {a: {training: {steps: 6}}, b: {}}\nfamily: b"
    assert load_study(write(tmp_path, text)).training.steps == 5
    assert load_study(write(tmp_path, text), "a").training.steps == 6
    assert load_study(write(tmp_path, text), "a").training.batch == 7


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("trainin: {steps: 5}", "trainin"),
        ("training: {stepss: 5}", "training.stepss"),
        ("training: {steps: 0}", "training.steps = 0"),
        ("training: {steps: many}", "training.steps = 'many'"),
        ("world: {entities: 5, relations: 3, degree: 4}", "degree 4"),
        ("model: {kind: looped, width: 7}", "heads 4 must divide width 7"),
        ("model: {kind: looped, widht: 7}", "model.widht"),
        ("model: {kind: lopped}", "model"),
        ("regimes: [naturl]", "naturl"),
        ("regimes: [natural, natural]", "repeats"),
        ("seeds: []", "seeds"),
        ("steps_for: {natrual: 5}", "natrual"),
        ("training: [", "not valid YAML"),
        ("- 1", "mapping"),
        ("families: {a: 3}", "families"),
        ("families: {1: {}, 2: {}}", "families"),
        ("families: {a: {}, b: {}}\nfamily: [1]", "family = [1]"),
        ("training: {steps: 5}\ntraining: {batch: 6}", "'training' stands there twice"),
        ("world: {degree: 3, degree: 4}", "'degree' stands there twice"),
        ("a: " + "[" * 3000 + "]" * 3000, "nested too deep"),
        ("regimes: []", "regimes"),
        ("regimes: [natural, {name: few, hop1_ration: 1}]", "unknown field 'regimes.1.hop1_ration'"),
        ("regimes: [{name: few, hop1_ratio: 1.5, hop1_k: 1}]", "regimes.0.hop1_ratio = 1.5"),
        ("regimes: [{name: few, hop1_ratio: 1, hop1_k: ful}]", "or input should be 'full'"),
        ("regimes: [{name: ../few}]", "regimes.0.name = '../few'"),
        ("regimes: [{hop1_ratio: 1}]", "regimes.0.name"),
        ("steps_for: {natural: 0}", "steps_for.natural = 0"),
        ("seeds: [0, 18446744073709551616]", "seeds.1 = 18446744073709551616"),
        ("seeds: [0, 1]\nvary: []", "vary []"),
        ("training: {optimizer: {lr: .nan}}", "training.optimizer.lr = nan"),
        ("families: {a: {}, b: {}}", "this study has a, b"),
    ],
)
def test_a_wrong_file_is_one_sentence_that_names_the_field(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(InputError) as error:
        load_study(write(tmp_path, text))
    sentence = str(error.value)
    assert named in sentence
    assert "mine.yaml" in sentence
    assert "\n" not in sentence


@pytest.mark.parametrize(
    ("name", "family", "named"),
    [
        ("pockett", None, "the shipped ones are"),
        ("no/such.yaml", None, "no/such.yaml"),
        ("pocket", "casual", "this study has causal, sequence, trm"),
        ("demo", "causal", "this study has no families"),
    ],
)
def test_what_does_not_exist_is_answered_with_what_does(name: str, family: str | None, named: str) -> None:
    with pytest.raises(InputError, match=named):
        load_study(name, family)


def test_a_study_survives_its_own_json() -> None:
    study = load_study("pocket", "trm")
    assert StudySpec.parse(study.tree()) == study


def test_a_field_taken_from_an_anchor_may_be_said_again(tmp_path: Path) -> None:
    text = "world: &w {entities: 50, degree: 3}\nfamilies: {a: {world: {<<: *w, degree: 4}}}"
    world = load_study(write(tmp_path, text)).world
    assert (world.entities, world.degree) == (50, 4)
