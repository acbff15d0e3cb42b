"""What one worker and two must have in common."""

from pathlib import Path

import numpy as np

OWN = ("listed", "excluded", "sampled", "margins", "further")  # what is of one worker's part


def assert_equal(one_worker: Path, two_workers: Path, within: float = 1e-5) -> None:
    """The .npz files that one and two workers wrote after three updates hold the same but for float noise.

    within: of bfloat16 more, as float noise decides how factors are rounded.
    """
    one, two = dict(np.load(one_worker)), dict(np.load(two_workers))
    assert one.keys() == two.keys()
    for key in one:
        if key.split()[0] in OWN:
            continue
        # float noise is of the size of the whole gradient, however small one array's part of it is
        scale = (
            float(one[f"norm {key.split()[1]}"]) if key.startswith("gradient") else max(1e-3, np.abs(one[key]).max())
        )
        np.testing.assert_allclose(two[key], one[key], atol=within * scale, rtol=within, err_msg=key)
    assert min(float(one[f"norm {update}"]) for update in range(3)) > 1e-3
