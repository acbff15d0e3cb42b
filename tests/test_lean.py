"""What MXNet's import leaves out, and that it is there for others."""

import subprocess
import sys

SCRIPT = """
import sys
import pipeline
import mxnet
print([name for name in ("sklearn", "pandas", "scipy.stats") if name in sys.modules])
from sklearn.base import BaseEstimator
from scipy import stats
print(BaseEstimator.__name__, stats.norm.cdf(0))
"""


def test_mxnet_is_imported_without_what_nothing_uses() -> None:
    said = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True).stdout
    assert said.splitlines() == ["[]", "BaseEstimator 0.5"]
