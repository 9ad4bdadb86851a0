"""Sizes of the model against the published ones."""

import pytest

from lv_text import ThoughtConfig


def test_small_has_the_published_number_of_slots():
    config = ThoughtConfig.small()
    assert config.event == (3, 8, 512)
    assert config.layers * config.slots == 24  # N_z


@pytest.mark.parametrize(
    ("config", "layers", "slots"),
    [(ThoughtConfig.medium(), 6, 24), (ThoughtConfig.large(), 12, 96)],
)
def test_larger_ones_have_the_published_layers_and_slots(config, layers, slots):
    assert (config.layers, config.layers * config.slots) == (layers, slots)
    assert (config.width, config.heads, config.length, config.window) == (512, 8, 1024, 256)


@pytest.mark.parametrize("make", [ThoughtConfig.tiny, ThoughtConfig.small, ThoughtConfig.medium])
def test_twelve_latent_numbers_per_token(make):
    config = make()
    layers, slots, width = config.event
    assert layers * slots * width == 12 * config.length


def test_vocabulary_is_the_callers():
    for make in (ThoughtConfig.tiny, ThoughtConfig.small, ThoughtConfig.medium):
        assert make(77).vocabulary == 77
    assert ThoughtConfig.large(78).vocabulary == 78


def test_latents_of_some_layers_only():
    config = ThoughtConfig(layers=5, z_layers=2, slot_width=16)
    assert config.reading == 2
    assert config.event == (2, 8, 16)
    assert config.decoder().crossing == (3, 4)
    assert config.decoder().slot_width == 16


def test_all_layers_read_by_default():
    assert ThoughtConfig().decoder().crossing == (0, 1, 2)
    assert ThoughtConfig(z_layers=3).decoder() == ThoughtConfig().decoder()


def test_official_positions_crowd_at_the_beginning():
    large = {"layers": 12, "slots": 8}
    # 96 latents in 1024 positions: stride 10 as released, 128 when spread over the sequence.
    assert ThoughtConfig(z_rope="official", **large).decoder().slot_stride == 10
    assert ThoughtConfig(z_rope="spread", **large).decoder().slot_stride == 128


@pytest.mark.parametrize("z_layers", [0, 4, -1])
def test_refuses_more_reading_layers_than_layers(z_layers):
    with pytest.raises(ValueError, match=rf"z_layers must be in 1..layers = 3 .* got {z_layers}"):
        ThoughtConfig(z_layers=z_layers)


@pytest.mark.parametrize("slots", [0, -2])
def test_refuses_no_slots(slots):
    with pytest.raises(ValueError, match=f"slots must be positive, got {slots}"):
        ThoughtConfig(slots=slots)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"heads": 3}, "heads must divide width, got 3 for 512"),
        ({"slot_width": 0}, "memory_width must be positive, got 0"),
        ({"vocabulary": 0}, "vocabulary must be positive, got 0"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0"),
    ],
)
def test_refuses_sizes_that_do_not_fit(settings, message):
    with pytest.raises(ValueError, match=message):
        ThoughtConfig(**settings)
