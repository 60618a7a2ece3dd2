"""Makes the helpers of this folder, and the browser, importable under importlib import mode."""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "sweeps")]
