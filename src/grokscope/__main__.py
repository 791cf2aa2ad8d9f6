"""`python -m grokscope`: the command line."""

import sys

from grokscope.cli import main

if __name__ == "__main__":
    sys.exit(main())
