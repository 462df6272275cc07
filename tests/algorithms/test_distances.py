"""Distances are SciPy's."""

import numpy as np
import pytest
import torch

from mapsto.algorithms.metric.distances import cosine, squared_euclidean


@pytest.mark.parametrize("lead", [(), (7,), (2, 7)], ids=["one", "rows", "pixels"])
def test_distances_are_scipys(lead: tuple[int, ...]) -> None:
    spatial = pytest.importorskip("scipy.spatial", reason="pip install scikit-learn, to compare with its SciPy")
    a, b = torch.randn(*lead, 5).double(), torch.randn(4, 5).double()
    rows = a.view(-1, 5)
    for ours, theirs in ((squared_euclidean(a, b), "sqeuclidean"), (1 - cosine(a, b), "cosine")):
        assert ours.shape == (*lead, 4)
        np.testing.assert_allclose(ours.view(-1, 4), spatial.distance.cdist(rows, b, theirs), rtol=1e-12, atol=1e-12)
