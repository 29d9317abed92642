"""``python -m tensorlib``: the command line."""

from tensorlib.cli import main

raise SystemExit(main())
