"""``python -m avfusion`` is the ``avfusion`` command."""

import sys

from avfusion.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
