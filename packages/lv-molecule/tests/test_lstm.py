"""The decoder against torch.nn.LSTM, and what it promises of strings."""

import pytest
import torch
from torch import nn

from lv_core import frozen
from lv_molecule.models import LstmDecoder
from lv_molecule.models.recurrence import recurrence

END, START, SIZE, LATENT, HIDDEN, EMBEDDING = 10, 11, 12, 5, 7, 6


def decoder(**options) -> LstmDecoder:
    made = LstmDecoder(
        SIZE, LATENT, end=END, start=START, embedding=EMBEDDING, hidden=HIDDEN, **options
    )
    return made.double()


@pytest.fixture
def tokens() -> torch.Tensor:
    rows = torch.randint(0, END, (4, 9))
    rows[0, 5:], rows[1, 2:], rows[2, 0:] = END, END, END  # row 3 is full, row 2 empty
    return rows


def reference(model: LstmDecoder) -> nn.LSTM:
    lstm = nn.LSTM(EMBEDDING + LATENT, HIDDEN, batch_first=True).double()
    with torch.no_grad():
        joined = torch.cat((model.from_token.weight, model.from_latent.weight), 1)
        lstm.weight_ih_l0.copy_(joined)
        lstm.weight_hh_l0.copy_(model.recurrent.weight)
        lstm.bias_ih_l0.copy_(model.from_latent.bias)
        lstm.bias_hh_l0.zero_()
    return lstm


def reference_log_likelihood(model, lstm, tokens, z):
    n, length = tokens.shape
    inputs = torch.cat((torch.full((n, 1), START), tokens[:, :-1]), 1)
    joined = torch.cat((model.embedding(inputs), z[:, None].expand(n, length, LATENT)), -1)
    start = (model.initial(z)[None], torch.zeros(1, n, HIDDEN).double())
    states, _ = lstm(joined, start)
    picked = model.output(states).log_softmax(-1).gather(-1, tokens[..., None])[..., 0]
    ended = tokens == END
    counted = (ended.int().cumsum(1) - ended.int()) == 0  # up to and with the first end
    return (picked * (counted | model.score_padding)).sum(1)


@pytest.mark.parametrize("score_padding", [False, True])
def test_equals_torch_lstm_in_value_and_every_gradient(tokens, score_padding):
    model = decoder(dropout=0.0, score_padding=score_padding)
    lstm = reference(model)
    z = torch.randn(4, LATENT, dtype=torch.float64, requires_grad=True)
    ours = model.log_likelihood(tokens, z)
    theirs = reference_log_likelihood(model, lstm, tokens, z)
    torch.testing.assert_close(ours, theirs)
    shared = [z, model.embedding.weight, model.initial.weight, model.output.weight]
    g = torch.autograd.grad(ours.sum(), [*shared, model.recurrent.weight, model.from_token.weight])
    h = torch.autograd.grad(theirs.sum(), [*shared, lstm.weight_hh_l0, lstm.weight_ih_l0])
    for a, b in zip(g[:-1], h[:-1], strict=True):
        torch.testing.assert_close(a, b)
    torch.testing.assert_close(g[-1], h[-1][:, :EMBEDDING])


def test_scoring_padding_is_another_density(tokens):
    """The control: both ways of scoring must not agree on strings that end early."""
    one, other = decoder(dropout=0.0), decoder(dropout=0.0, score_padding=True)
    other.load_state_dict(one.state_dict())
    z = torch.randn(4, LATENT).double()
    a, b = one.log_likelihood(tokens, z), other.log_likelihood(tokens, z)
    assert (a[:3] > b[:3]).all()
    torch.testing.assert_close(a[3], b[3])  # the full string has no padding


def test_probabilities_of_all_short_strings_sum_to_one():
    model = LstmDecoder(4, 2, end=2, start=3, embedding=3, hidden=4, dropout=0.0).double()
    # The start symbol takes probability in the softmax but is never generated; remove it.
    with torch.no_grad():
        model.output.bias[3] = -1e9
    symbols = torch.tensor([0, 1, 2])
    rows = torch.cartesian_prod(symbols, symbols, symbols)
    ended = (rows == 2).cumsum(1) > 0
    rows = torch.unique(torch.where(ended, 2, rows), dim=0)
    z = torch.randn(1, 2).double().expand(len(rows), 2)
    assert model.log_likelihood(rows, z).exp().sum().item() == pytest.approx(1.0, abs=1e-12)


def test_recurrence_passes_gradcheck():
    counts, width = (3, 2, 2, 1), 4
    inputs = torch.randn(sum(counts), 4 * width, dtype=torch.float64, requires_grad=True)
    latent = torch.randn(3, 4 * width, dtype=torch.float64, requires_grad=True)
    h0 = torch.randn(3, width, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(4 * width, width, dtype=torch.float64, requires_grad=True)

    def call(a, b, c, d):
        return recurrence(a, b, c, d, counts)

    assert torch.autograd.gradcheck(call, (inputs, latent, h0, weight))


def test_packed_tokens_give_the_same_and_leave_parameters_alone(tokens):
    model = decoder(dropout=0.3).eval()
    z = torch.randn(4, LATENT, dtype=torch.float64, requires_grad=True)
    plain = model.log_likelihood(tokens, z)
    with frozen(model):
        packed = model.pack(tokens)
        value = model.log_likelihood(packed, z)
        value.sum().backward()
    torch.testing.assert_close(value, plain)
    assert all(p.grad is None for p in model.parameters())


def test_order_of_the_batch_does_not_matter(tokens):
    model = decoder(dropout=0.0)
    z, order = torch.randn(4, LATENT).double(), torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(
        model.log_likelihood(tokens[order], z[order]), model.log_likelihood(tokens, z)[order]
    )


def test_samples_follow_the_model():
    model = LstmDecoder(4, 2, end=2, start=3, embedding=3, hidden=4, init_range=1.0).double()
    model.eval()
    z = torch.randn(1, 2).double().expand(20_000, 2)
    drawn = model.sample(z, max_length=1)[:, 0]
    with torch.no_grad():
        model.output.bias[3] = -1e9
        rows = torch.tensor([[0], [1], [2]])
        expected = model.log_likelihood(rows, z[:3]).exp()
    found = torch.bincount(drawn, minlength=3)[:3] / len(z)
    # Five standard errors of a share from 20,000 draws are at most 0.018.
    assert (found - expected).abs().max() < 0.018
    assert (found - expected.roll(1)).abs().max() > 0.018


def test_samples_end_once_never_start_and_keep_lengths():
    model = decoder().eval()
    z = torch.randn(200, LATENT).double()
    drawn = model.sample(z, max_length=12, min_length=4)
    assert (drawn != START).all()
    assert (drawn[:, :4] != END).all()
    ended = (drawn == END).cumsum(1) > 0
    assert (drawn[ended] == END).all()


def test_sampling_is_a_function_of_the_generator_and_of_the_row():
    model = decoder().eval()
    z = torch.randn(6, LATENT).double()

    def draw(latents):
        return model.sample(latents, max_length=9, generator=torch.Generator().manual_seed(3))

    assert torch.equal(draw(z), draw(z))
    changed = z.clone()
    changed[0] += 5.0  # the first row ends elsewhere; the numbers of the others must stay
    assert torch.equal(draw(changed)[1:], draw(z)[1:])


def test_greedy_decoding_takes_the_most_probable():
    model = decoder().eval()
    z = torch.randn(5, LATENT).double()
    a, b = (model.sample(z, max_length=9, temperature=0.0) for _ in range(2))
    assert torch.equal(a, b)


@pytest.mark.parametrize("options", [{"max_length": 0}, {"max_length": 3, "min_length": 4}])
def test_refuses_impossible_lengths(options):
    with pytest.raises(ValueError, match="min_length"):
        decoder().sample(torch.zeros(1, LATENT).double(), **options)


def test_refuses_equal_end_and_start():
    with pytest.raises(ValueError, match="two different tokens"):
        LstmDecoder(5, 2, end=1, start=1)
