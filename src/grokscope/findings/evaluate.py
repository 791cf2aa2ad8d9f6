"""Evaluate the reference's three findings on a study: `evaluate(study)`.

What is claimed and how it is tested is in `claims.py`, when it counts as supported in `rules.py`.
"""

from grokscope.errors import InputError
from grokscope.findings.claims import FINDINGS
from grokscope.findings.measured import Evidence, evidence
from grokscope.findings.rules import judge
from grokscope.findings.values import Findings
from grokscope.runs.study import Study


def evaluate(study: Study, measured: Evidence | None = None) -> Findings:
    """The findings on the finished runs of a study; unfinished ones are named and not counted.

    Args:
        study: it. measured: its evidence; None: it is measured here.

    Raises:
        InputError: no run of the study has finished, or one cannot be read.
    """
    found = evidence(study) if measured is None else measured
    if not found.runs:
        said = f"study {study.name} in {study.directory} has no finished run to judge a finding by."
        raise InputError(" ".join([said, *found.notes]))
    seeds: dict[str, tuple[int, ...]] = {}
    for run in found.runs:
        seeds[run.regime] = (*seeds.get(run.regime, ()), run.seed)
    return Findings(
        study=study.name,
        family=study.spec.family,
        confidence=0.95,
        varies=study.spec.vary,
        seeds=seeds,
        findings=tuple(judge(one, found) for one in FINDINGS),
        notes=found.notes,
    )
