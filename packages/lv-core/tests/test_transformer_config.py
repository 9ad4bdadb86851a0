"""The settings of the shared decoder: what they derive and what they refuse."""

import pytest

from lv_core.nn.transformer import DecoderConfig

BASE = {"vocabulary": 50, "width": 32, "layers": 3, "heads": 4, "max_length": 64}


@pytest.mark.parametrize(
    ("width", "mlp", "inner"),
    [(512, "swiglu", 1376), (768, "swiglu", 2048), (128, "swiglu", 352), (256, "gelu", 1024)],
)
def test_inner_widths_are_those_of_the_papers(width, mlp, inner) -> None:
    config = DecoderConfig(**BASE | {"width": width}, mlp=mlp)
    assert config.inner_width == inner
    assert DecoderConfig(**BASE, mlp=mlp, mlp_width=7).inner_width == 7


def test_slots_stand_where_the_released_code_puts_them() -> None:
    # Specification: 96 slots over 12 layers and 1024 tokens are 10 apart, though 128 would do.
    paper = BASE | {"layers": 12, "max_length": 1024}
    official = DecoderConfig(**paper, cross="per_layer", slots=8, z_rope="official")
    spread = DecoderConfig(**paper, cross="per_layer", slots=8, z_rope="spread")
    assert official.slot_stride == 10
    assert spread.slot_stride == 128
    assert DecoderConfig(**paper).slot_stride == 0


def test_layers_that_cross_attend_default_to_all_or_none() -> None:
    assert DecoderConfig(**BASE).crossing == ()
    assert DecoderConfig(**BASE, cross="shared").crossing == (0, 1, 2)
    assert DecoderConfig(**BASE, cross="shared", cross_layers=(2,)).crossing == (2,)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 0}, "width must be positive, got 0"),
        ({"window": 0}, "window must be positive, got 0"),
        ({"vocabulary": -1}, "vocabulary must be positive, got -1"),
        ({"heads": 5}, "heads must divide width, got 5 for 32"),
        ({"kv_heads": 3}, "kv_heads must divide heads, got 3 for 4"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0"),
        ({"heads": 32}, "needs an even width per head, got 32 / 32"),
        ({"z_rope": "spread", "slots": 2}, "needs positions='rope' and cross-attention"),
        (
            {"z_rope": "spread", "slots": 2, "cross": "shared", "positions": "none"},
            "needs positions='rope'",
        ),
        ({"z_rope": "spread", "cross": "shared"}, "needs slots, got None"),
        ({"cross_layers": (1,)}, "needs cross='per_layer' or 'shared', got 'none'"),
        (
            {"cross": "shared", "cross_layers": (2, 1)},
            "ascending different layers between 0 and 2",
        ),
        ({"cross": "shared", "cross_layers": (3,)}, r"got \(3,\)"),
        ({"cross": "shared", "cross_layers": ()}, r"got \(\)"),
        ({"outputs": 49}, "outputs must equal vocabulary when tie=True, got 49 and 50"),
        ({"mlp": "gelu", "scaled_init": "official"}, "use scaled_init='residual'"),
    ],
)
def test_refuses_settings_that_contradict_each_other(change, message) -> None:
    with pytest.raises(ValueError, match=message):
        DecoderConfig(**BASE | change)


@pytest.mark.parametrize("name", ["mlp", "norm", "positions", "cross", "z_rope"])
@pytest.mark.usefixtures("wrong_types")
def test_refuses_an_unknown_name_and_lists_those_there_are(name) -> None:
    with pytest.raises(ValueError, match=f"unknown {name} 'cube'; there are: .*, "):
        DecoderConfig(**BASE | {name: "cube"})
