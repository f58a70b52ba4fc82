"""Let the tests of this folder import the authority they are checked against."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
