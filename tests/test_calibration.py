"""Calibration error and temperature against plain arithmetic."""

import math

import pytest
import torch
from torch.nn.functional import cross_entropy, one_hot

from mapsto.calibration import expected_calibration_error, fit_temperature


def test_expected_calibration_error_by_hand() -> None:
    # Bins of a fifth: 0.9 right and 0.85 wrong in the last, 0.7 right in the one before.
    probability = torch.tensor([[0.9, 0.1], [0.15, 0.85], [0.7, 0.3]])
    y = one_hot(torch.tensor([0, 0, 0]), 2)
    wanted = 2 / 3 * abs(0.5 - (0.9 + 0.85) / 2) + 1 / 3 * abs(1 - 0.7)
    assert expected_calibration_error(probability, y, bins=5).item() == pytest.approx(wanted, abs=1e-6)


def test_a_bins_upper_end_belongs_to_it() -> None:
    probability = torch.tensor([[0.5, 0.5], [0.75, 0.25]], dtype=torch.float64)
    y = one_hot(torch.tensor([0, 1]), 2)
    # (0.25, 0.5] and (0.5, 0.75]: gaps 0.5 and -0.75 do not cancel
    assert expected_calibration_error(probability, y, bins=4).item() == pytest.approx((0.5 + 0.75) / 2)


def test_perfect_and_overconfident() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(20_000, 4, generator=generator)
    y = one_hot(torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0], 4)
    assert expected_calibration_error(logits.softmax(1), y) < 0.015
    assert expected_calibration_error((5 * logits).softmax(1), y) > 0.2


def test_wrong_input_is_named() -> None:
    y = one_hot(torch.tensor([0, 1]), 2)
    with pytest.raises(ValueError, match="softmax"):
        expected_calibration_error(torch.tensor([[3.0, 1.0], [0.0, 1.0]]), y)
    with pytest.raises(ValueError, match="shape"):
        expected_calibration_error(torch.full((2, 3), 1 / 3), y)


def test_temperature_is_found() -> None:
    """Answers drawn from softmax(logits / 2.5): the temperature that fits them best is close to it, and is optimal."""
    generator = torch.Generator().manual_seed(1)
    logits = 6 * torch.randn(20_000, 5, generator=generator)
    labels = torch.multinomial((logits / 2.5).softmax(1), 1, generator=generator)[:, 0]
    found = fit_temperature(logits, one_hot(labels, 5))
    assert found == pytest.approx(2.5, rel=0.05)
    around = [cross_entropy(logits.double() / t, labels).item() for t in (found * 0.99, found, found * 1.01)]
    assert around[1] < around[0] and around[1] < around[2]


def test_temperature_at_the_extremes() -> None:
    logits = torch.tensor([[2.0, 0.0], [0.0, 2.0]])
    assert fit_temperature(logits, one_hot(torch.tensor([0, 1]), 2)) < 0.1
    assert fit_temperature(logits, one_hot(torch.tensor([1, 0]), 2)) == pytest.approx(1e4)
    assert math.isfinite(fit_temperature(torch.zeros(2, 2), one_hot(torch.tensor([1, 0]), 2)))
