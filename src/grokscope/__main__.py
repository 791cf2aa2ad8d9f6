"""`python -m grokscope` is the command line."""

import sys

from grokscope.cli import main

sys.exit(main())
