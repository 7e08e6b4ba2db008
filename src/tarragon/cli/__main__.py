"""``python -m tarragon.cli``."""

import sys

from tarragon.cli import main

sys.exit(main())
