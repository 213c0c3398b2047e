"""``python -m clientrequest``: the command. ``--help`` says what it can do."""

import sys

from ._command import main

if __name__ == "__main__":
    sys.exit(main())
