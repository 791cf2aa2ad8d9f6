"""Models that reason in passes, behind start / step / read. See `protocol.py`."""

from grokscope.models.build import build_model, count_parameters
from grokscope.models.looped import LoopedModel
from grokscope.models.protocol import Carry, Reasoner
from grokscope.models.recursive import RecursiveModel
from grokscope.models.spec import LoopedSpec, ModelSpec, RecursiveSpec
from grokscope.models.stages import Stage

__all__ = [
    "Carry",
    "LoopedModel",
    "LoopedSpec",
    "ModelSpec",
    "Reasoner",
    "RecursiveModel",
    "RecursiveSpec",
    "Stage",
    "build_model",
    "count_parameters",
]
