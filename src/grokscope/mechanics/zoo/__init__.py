"""The calibration zoo: models whose mechanism is known because their weights were written. See
docs/zoo.md."""

from grokscope.mechanics.zoo.members import Wired, members, wire
from grokscope.mechanics.zoo.weights import BODIES, Body

__all__ = ["BODIES", "Body", "Wired", "members", "wire"]
