"""Evaluate the reference's three findings on a study: `evaluate(study)`.

What is claimed, how it is tested and when it counts as supported is fixed in `same_circuit.py`, `fake.py`,
`transfer.py` and `rules.py`, before any study is looked at.
"""

from grokscope.errors import InputError
from grokscope.findings.fake import fake_grokking
from grokscope.findings.measured import measured
from grokscope.findings.same_circuit import same_circuit
from grokscope.findings.transfer import transfer
from grokscope.findings.transfers import transferred
from grokscope.findings.values import Findings
from grokscope.runs.study import Study


def evaluate(study: Study) -> Findings:
    """The three findings on the finished runs of a study; unfinished ones are named and not counted.

    Raises:
        InputError: no run of the study has finished, or one cannot be read.
    """
    runs, notes = measured(study)
    if not runs:
        said = f"study {study.name} in {study.directory} has no finished run to judge a finding by."
        raise InputError(" ".join([said, *notes]))
    tuned, tuned_notes = transferred(study)
    seeds: dict[str, tuple[int, ...]] = {}
    for run in runs:
        seeds[run.regime] = (*seeds.get(run.regime, ()), run.seed)
    return Findings(
        study=study.name,
        family=study.spec.family,
        confidence=0.95,
        varies=study.spec.vary,
        seeds=seeds,
        findings=(same_circuit(runs), fake_grokking(runs), transfer(tuned)),
        notes=(*notes, *tuned_notes),
    )
