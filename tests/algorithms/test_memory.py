"""The memory equals the paper's equations, written out slot by slot in NumPy."""

import numpy as np
import pytest
import torch
from torch import Tensor

from mapsto.algorithms.model_based.memory import Memory, access, blank, least_used, similarity, write

SLOTS, WIDTH, DECAY = 6, 3, 0.9


def inputs(steps: int, heads: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    keys = torch.randn(steps, heads, WIDTH, generator=generator, dtype=torch.float64)
    return keys, torch.rand(steps, heads, generator=generator, dtype=torch.float64)


def run(keys: Tensor, gates: Tensor) -> tuple[Memory, Tensor]:
    memory, reads = blank(SLOTS, WIDTH, keys.shape[1], keys), []
    for key, gate in zip(keys, gates, strict=True):
        memory, read = access(memory, key, gate, DECAY)
        reads.append(read)
    return memory, torch.stack(reads)


def plain(keys: np.ndarray, gates: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Equations 2 to 8, one head after the other, one slot after the other."""
    heads = keys.shape[1]
    rows, usage, before, reads = np.full((SLOTS, WIDTH), 1e-6), np.zeros(SLOTS), np.zeros((heads, SLOTS)), []
    for key, gate in zip(keys, gates, strict=True):
        least = sorted(range(SLOTS), key=lambda slot: (usage[slot], slot))[:heads]  # (6)
        for slot in least:
            rows[slot] = 0.0
        usage = DECAY * usage
        for h in range(heads):
            for slot in range(SLOTS):
                weight = gate[h] * before[h, slot] + (1 - gate[h]) * (slot == least[h])  # (7)
                rows[slot] = rows[slot] + weight * key[h]  # (8)
                usage[slot] += weight
        read = np.zeros((heads, WIDTH))
        for h in range(heads):
            cosines = [key[h] @ row / (np.linalg.norm(key[h]) * np.linalg.norm(row)) for row in rows]  # (2)
            for slot in range(SLOTS):
                before[h, slot] = np.exp(cosines[slot]) / sum(np.exp(cosines))  # (3)
                read[h] += before[h, slot] * rows[slot]  # (4)
        usage = usage + before.sum(0)  # (5)
        reads.append(read)
    return rows, before, usage, np.stack(reads)


@pytest.mark.parametrize("heads", [1, 3])
def test_equals_the_equations(heads: int) -> None:
    keys, gates = inputs(12, heads)
    memory, reads = run(keys, gates)
    for ours, theirs in zip((*memory, reads), plain(keys.numpy(), gates.numpy()), strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-11, atol=1e-12)


def test_gates_choose_between_the_slot_read_last_and_the_least_used() -> None:
    keys, _ = inputs(1, 1)
    rows = torch.arange(18.0, dtype=torch.float64).view(SLOTS, WIDTH)
    read = torch.tensor([[0.0, 0, 0, 1, 0, 0]], dtype=torch.float64)
    usage = torch.tensor([3.0, 2, 0.5, 4, 5, 6], dtype=torch.float64)
    for gate, changed, now in ((0.0, 2, keys[0, 0]), (1.0, 3, rows[3] + keys[0, 0])):
        new, weights = write(Memory(rows, read, usage), keys[0], torch.tensor([gate], dtype=torch.float64))
        expected = rows.clone()
        expected[2] = 0  # emptied in either case, before anything is written
        expected[changed] = now
        torch.testing.assert_close(new, expected)
        assert weights.argmax() == changed and weights.sum() == 1


def test_heads_have_slots_of_their_own() -> None:
    usage = torch.tensor([0.3, 0.1, 0.2, 0.1])
    assert least_used(usage, 3).argmax(1).tolist() == [1, 3, 2]
    assert least_used(torch.zeros(4), 2).argmax(1).tolist() == [0, 1]


def test_an_empty_row_is_like_nothing_and_has_a_finite_gradient() -> None:
    rows = torch.zeros(2, WIDTH, dtype=torch.float64, requires_grad=True)
    found = similarity(torch.ones(1, WIDTH, dtype=torch.float64), rows)
    (gradient,) = torch.autograd.grad(found.sum(), rows)
    assert found.tolist() == [[0.0, 0.0]] and bool(gradient.isfinite().all())


def test_many_keys_on_one_memory_are_as_each_alone() -> None:
    keys, gates = inputs(9, 2)
    memory, _ = run(keys[:4], gates[:4])
    together, reads = access(memory, keys[4:], gates[4:], DECAY)
    for i in range(5):
        alone, read = access(memory, keys[4 + i], gates[4 + i], DECAY)
        torch.testing.assert_close((together.rows[i], together.usage[i], reads[i]), (alone.rows, alone.usage, read))


def test_gradients_through_steps() -> None:
    keys, gates = (t.requires_grad_() for t in inputs(5, 2))
    assert torch.autograd.gradcheck(lambda k, g: run(k, g)[1], (keys, gates), atol=1e-6)
