"""The chunked negative log-likelihood of tokens against cross-entropy of full logits."""

import pytest
import torch
from torch.nn import functional

from lv_core.nn.transformer import token_nll

DOUBLE = torch.float64


def problem(dtype=DOUBLE, *, ignore=True):
    hidden = (2 * torch.randn(3, 7, 16, dtype=dtype)).requires_grad_()
    weight = torch.randn(37, 16, dtype=dtype, requires_grad=True)
    targets = torch.randint(37, (3, 7))
    if ignore:
        targets[0, 2] = targets[2, 6] = -100
    return hidden, weight, targets


def reference(hidden, weight, targets):
    logits = functional.linear(hidden, weight).flatten(0, 1)
    return functional.cross_entropy(logits, targets.flatten(), reduction="none").view(
        targets.shape
    )


@pytest.mark.parametrize("chunk", [1, 4, 7, 21, 1000, None])
@pytest.mark.parametrize("which", ["hidden", "weight", "both"])
def test_values_and_gradients_equal_those_of_full_logits(chunk, which) -> None:
    hidden, weight, targets = problem()
    hidden.requires_grad_(which != "weight")
    weight.requires_grad_(which != "hidden")
    wanted = [x for x in (hidden, weight) if x.requires_grad]
    ours, plain = (
        token_nll(hidden, weight, targets, chunk=chunk),
        reference(hidden, weight, targets),
    )
    torch.testing.assert_close(ours, plain, rtol=0, atol=1e-12)
    assert ours[0, 2] == ours[2, 6] == 0
    scale = torch.randn(3, 7, dtype=DOUBLE)  # a weight for each token: sums would hide mix-ups
    ours_grads = torch.autograd.grad((ours * scale).sum(), wanted)
    plain_grads = torch.autograd.grad((plain * scale).sum(), wanted)
    for a, b in zip(ours_grads, plain_grads, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)
    if which != "weight":
        assert not ours_grads[0][0, 2].any()
        # Wrong control: the gradient of other targets.
        shifted = reference(hidden, weight, targets.roll(1, 1))
        (wrong,) = torch.autograd.grad((shifted * scale).sum(), [hidden])
        assert float((ours_grads[0] - wrong).abs().max()) > 0.1


def test_is_accurate_where_the_softmax_of_the_target_underflows() -> None:
    hidden = torch.tensor([[400.0], [-400.0], [0.0]])
    weight = torch.tensor([[1.0], [-1.0], [0.5]])
    nll = token_nll(hidden, weight, torch.tensor([1, 0, 2]))
    torch.testing.assert_close(nll, torch.tensor([800.0, 800.0, 1.0986123]))  # last: log 3


@pytest.mark.parametrize("frozen", [True, False])
def test_keeps_no_tensor_over_the_vocabulary(frozen) -> None:
    hidden, weight, targets = problem()
    weight.requires_grad_(not frozen)
    held = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: held.append(x) or x, lambda x: x):
        token_nll(hidden, weight, targets, chunk=4)
    sizes = [x.numel() for x in held]
    if frozen:
        assert sizes == [hidden.numel()]
    else:
        assert max(x.numel() for x in held if x.data_ptr() != weight.data_ptr()) == hidden.numel()
    held.clear()
    with torch.no_grad():
        nll = token_nll(hidden, weight, targets)
    assert not held
    assert not nll.requires_grad


def test_forms_two_products_with_the_vocabulary_when_the_weight_is_frozen() -> None:
    hidden, weight, targets = problem()
    weight.requires_grad_(False)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        torch.autograd.grad(token_nll(hidden, weight, targets).sum(), hidden)
    counts = {e.key: e.count for e in profile.key_averages()}
    assert counts["aten::mm"] == 2


def test_second_derivatives_are_refused_with_the_remedy() -> None:
    hidden, weight, targets = problem()
    with pytest.raises(
        RuntimeError, match=r"no second derivatives .* use functional.cross_entropy"
    ):
        torch.autograd.grad(token_nll(hidden, weight, targets).sum(), hidden, create_graph=True)


@pytest.mark.parametrize("bad", [37, -1, -99])
def test_refuses_a_target_outside_the_vocabulary_by_name(bad) -> None:
    hidden, weight, targets = problem()
    targets[1, 1] = bad
    with pytest.raises(ValueError, match=rf"targets must be ids in \[0, 37\) .* got {bad}:"):
        token_nll(hidden, weight, targets)


@pytest.mark.usefixtures("wrong_types")
def test_refuses_shapes_that_disagree() -> None:
    hidden, weight, targets = problem()
    with pytest.raises(ValueError, match=r"must agree, got \(3, 7, 16\), \(37, 16\) and \(3, 6\)"):
        token_nll(hidden, weight, targets[:, 1:])
    with pytest.raises(ValueError, match="must agree"):
        token_nll(hidden, weight[:, 1:], targets)


def test_refuses_chunks_of_no_token() -> None:
    with pytest.raises(ValueError, match="chunk must be positive, got 0"):
        token_nll(*problem(), chunk=0)


@pytest.mark.parametrize("frozen", [True, False])
def test_sums_in_single_precision_under_autocast(frozen) -> None:
    hidden, weight, targets = problem(torch.float32)
    weight.requires_grad_(not frozen)
    wanted = [hidden] if frozen else [hidden, weight]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours = token_nll(hidden, weight, targets, chunk=4)
    assert ours.dtype == torch.float32
    plain = reference(hidden, weight, targets)
    # Products of bfloat16 have 8 bits: logits of about 10 are off by about 0.05.
    torch.testing.assert_close(ours, plain, rtol=0, atol=0.3)
    assert (
        float((ours - plain).detach().abs().max()) > 1e-5
    )  # products are indeed of lower precision
    for a, b in zip(
        torch.autograd.grad(ours.sum(), wanted),
        torch.autograd.grad(plain.sum(), wanted),
        strict=True,
    ):
        assert a.dtype == torch.float32
        torch.testing.assert_close(a, b, rtol=0, atol=0.3)


def test_takes_half_types_and_returns_single_precision() -> None:
    hidden, weight, targets = problem(torch.bfloat16)
    ours = token_nll(hidden, weight, targets, chunk=4)
    assert ours.dtype == torch.float32
    grads = torch.autograd.grad(ours.sum(), (hidden, weight))
    assert [g.dtype for g in grads] == [torch.bfloat16] * 2


def test_sequences_without_tokens_have_no_loss() -> None:
    hidden, weight, targets = problem()
    assert token_nll(hidden[:, :0], weight, targets[:, :0]).shape == (3, 0)


@pytest.mark.parametrize("which", ["hidden", "weight", "both", "none"])
def test_more_tokens_and_ids_than_a_tile_holds(which) -> None:
    # On a CPU scores are formed in tiles of about a thousand tokens and ids: both are crossed.
    hidden = torch.randn(1100, 4, dtype=DOUBLE).requires_grad_(which in ("hidden", "both"))
    weight = torch.randn(2100, 4, dtype=DOUBLE).requires_grad_(which in ("weight", "both"))
    targets = torch.randint(2100, (1100,))
    targets[-1] = -100
    targets[:3] = torch.tensor([0, 1024, 2099])
    ours = token_nll(hidden, weight, targets)
    plain = functional.cross_entropy(hidden @ weight.T, targets, reduction="none")
    torch.testing.assert_close(ours, plain, rtol=0, atol=1e-11)
    wanted = [x for x in (hidden, weight) if x.requires_grad]
    if wanted:
        scale = torch.randn(1100, dtype=DOUBLE)
        pairs = zip(
            torch.autograd.grad((ours * scale).sum(), wanted),
            torch.autograd.grad((plain * scale).sum(), wanted),
            strict=True,
        )
        for a, b in pairs:
            torch.testing.assert_close(a, b, rtol=0, atol=1e-11)
