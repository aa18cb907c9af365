from __future__ import annotations

import pytest
import torch

from crossmodal_bench.networks import reverse_gradient


@pytest.mark.parametrize("factor", [1.0, 0.25, 0.0, -2.0])
def test_identity_forwards_and_reversed_backwards(factor: float) -> None:
    x = torch.tensor([[1.0, -2.0], [3.0, 0.5]], requires_grad=True)
    y = reverse_gradient(x, factor)
    assert torch.equal(y, x)
    upstream = torch.tensor([[1.0, 2.0], [-3.0, 4.0]])
    y.backward(upstream)
    assert x.grad is not None
    torch.testing.assert_close(x.grad, -factor * upstream)


def test_factor_is_one_by_default_and_each_use_has_its_own() -> None:
    x = torch.ones(3, requires_grad=True)
    (reverse_gradient(x).sum() + reverse_gradient(x, 3.0).sum()).backward()
    assert x.grad is not None and x.grad.tolist() == [-4.0] * 3


def test_two_reversals_cancel() -> None:
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    reverse_gradient(reverse_gradient(x, 2.0), 0.5).square().sum().backward()
    assert x.grad is not None and x.grad.tolist() == [2.0, 4.0]
