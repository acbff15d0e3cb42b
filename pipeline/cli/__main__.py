"""`python -m pipeline.cli` is `duplet`."""

import sys

from pipeline.cli.main import main

sys.exit(main())
