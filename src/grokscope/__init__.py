"""grokscope: do transformers reason, or remember?"""

__version__ = "0.1.0"
