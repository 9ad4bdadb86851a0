"""The normalization that the decoder takes on a CPU."""

import pytest
import torch
from torch.nn import functional

from lv_core.nn.transformer.norm import RmsNorm

DOUBLE = torch.float64


def layer(eps=1e-5):
    norm = RmsNorm(6, eps=eps).double()
    torch.nn.init.normal_(norm.weight)
    return norm


@pytest.mark.parametrize("wanted", ["x", "weight", "both"])
@pytest.mark.parametrize("batch", [(), (3,), (2, 3)])
def test_values_and_gradients_are_those_of_torch(batch, wanted) -> None:
    norm, x = layer(eps=0.1), torch.randn(*batch, 6, dtype=DOUBLE)
    x.requires_grad_(wanted != "weight")
    norm.weight.requires_grad_(wanted != "x")
    inputs = [v for v in (x, norm.weight) if v.requires_grad]
    ours, theirs = norm(x), functional.rms_norm(x, (6,), norm.weight, 0.1)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-14)
    other = functional.rms_norm(x, (6,), norm.weight, 0.2)
    assert not torch.allclose(ours, other)  # wrong control
    grad = torch.randn_like(ours)
    for a, b in zip(
        torch.autograd.grad(ours, inputs, grad),
        torch.autograd.grad(theirs, inputs, grad),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-13)


def test_gradients_of_gradients_are_exact() -> None:
    norm, x = layer(), torch.randn(3, 6, dtype=DOUBLE, requires_grad=True)
    inputs = (x, norm.weight)
    assert torch.autograd.gradgradcheck(lambda x, _: norm(x), inputs)
    norm.weight.requires_grad_(False)
    assert torch.autograd.gradgradcheck(norm, (x,))


def test_half_types_take_the_form_of_torch() -> None:
    norm, x = layer().bfloat16(), torch.randn(3, 6).bfloat16()
    assert torch.equal(norm(x), functional.rms_norm(x, (6,), norm.weight, 1e-5))
