"""Findings: what a study says of the reference's three findings. Read `evaluate.py` first."""

from grokscope.findings.evaluate import evaluate

__all__ = ["evaluate"]
