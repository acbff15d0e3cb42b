"""Tests that run over the null GPU alone: see build.py. `make test-null-gpu` sets it up."""

import pytest

from tests.null_gpu import device
from tests.updates.conftest import made

__all__ = ["made"]


@pytest.fixture(autouse=True)
def _there() -> None:
    if not device.is_there():
        pytest.skip("the null GPU is not there: `make test-null-gpu` makes it")
