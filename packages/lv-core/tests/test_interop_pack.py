"""Named blocks of one vector."""

import pytest
import torch

from lv_core.pack import Pack

SHAPES = {"mu": (), "theta": (4,), "cov": (2, 3)}


def test_lengths_are_those_of_the_blocks() -> None:
    layout = Pack(SHAPES)
    assert layout.lengths == {"mu": 1, "theta": 4, "cov": 6}
    assert layout.total == 11


@pytest.mark.parametrize("batch", [(), (5,), (2, 3), (0,)])
def test_packing_undoes_unpacking(batch) -> None:
    layout, packed = Pack(SHAPES), torch.randn(*batch, 11)
    blocks = layout.unpack(packed)
    assert {name: tuple(b.shape) for name, b in blocks.items()} == {
        name: (*batch, *shape) for name, shape in SHAPES.items()
    }
    assert torch.equal(layout.pack(blocks), packed)
    assert torch.equal(blocks["mu"], packed[..., 0])
    assert torch.equal(blocks["cov"].flatten(-2), packed[..., 5:])


def test_order_is_that_of_the_shapes_and_not_of_the_blocks() -> None:
    layout, packed = Pack(SHAPES), torch.randn(3, 11)
    turned = dict(reversed(layout.unpack(packed).items()))
    assert torch.equal(layout.pack(turned), packed)
    other = Pack(dict(reversed(SHAPES.items())))  # wrong control
    assert not torch.equal(other.pack(turned), packed)


def test_gradients_pass_through() -> None:
    packed = torch.randn(3, 11, requires_grad=True)
    layout = Pack(SHAPES)
    (grad,) = torch.autograd.grad(layout.unpack(packed)["theta"].sum(), packed)
    assert torch.equal(grad[:, 1:5], torch.ones(3, 4))
    assert grad.sum() == 12


def test_blocks_that_do_not_fit_are_refused() -> None:
    layout = Pack({"a": (), "b": (2, 3)})
    with pytest.raises(ValueError, match=r"blocks must be \['a', 'b'\], got \['a'\]"):
        layout.pack({"a": torch.zeros(())})
    for shape in ((3, 2), (2,)):
        with pytest.raises(ValueError, match=r"block 'b' must end in shape \(2, 3\), got"):
            layout.pack({"a": torch.zeros(()), "b": torch.zeros(shape)})
    with pytest.raises(ValueError, match=r"one batch shape.*'a': \(4,\), 'b': \(5,\)"):
        layout.pack({"a": torch.zeros(4), "b": torch.zeros(5, 2, 3)})
    with pytest.raises(ValueError, match=r"must be 7 long, got shape \(4, 6\)"):
        layout.unpack(torch.zeros(4, 6))


@pytest.mark.parametrize("shapes", [{}, {"a": (0,)}])
def test_layouts_without_entries_are_refused(shapes) -> None:
    with pytest.raises(ValueError, match="at least one block, each with entries"):
        Pack(shapes)
