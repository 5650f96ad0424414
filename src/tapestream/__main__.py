"""Runs the command line: `python -m tapestream`."""

import sys

from .cli.main import main

sys.exit(main())
