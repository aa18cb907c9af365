from __future__ import annotations

import numpy as np
import pytorch_lightning
import sklearn
import torch

import crossmodal_bench
from crossmodal_bench.jobs.provenance import environment


def test_the_environment_is_text() -> None:
    found = environment("cpu")
    assert found["device"] == "cpu" and found["crossmodal_bench"] == crossmodal_bench.__version__
    assert all(isinstance(value, str) and value for value in found.values())


def test_the_environment_names_what_decides_the_last_bits() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        found = environment("cpu")
    finally:
        torch.set_num_threads(before)
    assert found["threads"] == "2" and int(found["blas_threads"]) >= 1
    assert found["numpy"] == np.__version__ and found["scikit-learn"] == sklearn.__version__
    assert found["lightning"] == pytorch_lightning.__version__
    assert "unknown" not in found.values()
