"""``python -m index`` is ``kindred-index``."""

import sys

from index.cli import main

sys.exit(main())
