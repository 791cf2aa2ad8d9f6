"""The command line: parse, call one public function, print."""

from grokscope.cli.app import main

__all__ = ["main"]
