"""Probes of latents, against models written down by hand and formulas done the long way."""

import math

import pytest
import torch

from lv_core import DiagonalGaussian, Rows, stream
from lv_text import ThoughtConfig, ThoughtModel
from lv_text.probes import (
    bag_of_words,
    interpolate,
    label_probe,
    layer_decoding,
    layer_reconstruction,
    linear_probe,
    slot_ablation,
    swap_test,
)
from lv_text.probes.linear import assign_folds


def make(**changes):
    sizes = {
        "vocabulary": 11,
        "width": 16,
        "layers": 3,
        "heads": 2,
        "length": 8,
        "window": 3,
        "slots": 2,
        "slot_width": 5,
    }
    model = ThoughtModel(
        ThoughtConfig(**(sizes | changes)), generator=stream(0, "probes")
    ).double()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:  # initial weights are so small that the latent would not show
                parameter.mul_(10)
    return model


def data(model, batch=4, time=6):
    ids = torch.randint(11, (batch, time + 1), generator=stream(0, "probe ids"))
    shape = (batch, *model.config.event)
    z = torch.randn(shape, dtype=torch.float64, generator=stream(0, "probe latents"))
    return ids[:, :-1], ids[:, 1:], z


def cost(model, x, y, z):
    """NLL and share of best guesses from the logits, with no shared code but the decoder."""
    logits = model.decoder.logits(model.decoder(x, z)).log_softmax(-1)
    nll, share = [], []
    for row, wanted in zip(logits, y, strict=True):
        kept = wanted != -100
        nll.append(-row[kept].gather(1, wanted[kept][:, None]).sum())
        share.append((row[kept].argmax(1) == wanted[kept]).double().mean())
    return torch.stack(nll), torch.stack(share)


def prior_of(model):
    event = model.config.event
    mean = torch.linspace(-1, 1, math.prod(event), dtype=torch.float64).view(event)
    return DiagonalGaussian(mean, torch.full_like(mean, -0.7), event_ndim=3)


# ------------------------------------------------------------------------------- layers


@pytest.mark.parametrize("z_layers", [None, 2])
def test_layer_curves_equal_those_of_latents_cut_by_hand(z_layers):
    model = make(z_layers=z_layers)
    x, y, z = data(model)
    y = y.clone()
    y[1, 3:] = -100
    found = layer_reconstruction(model, x, y, z, generator=Rows.of(3, range(4)))
    drawn = Rows.of(3, range(4)).fill(z, "normal")
    count = (z_layers or 3) + 1
    assert found.nll_mean.shape == found.accuracy_prior.shape == (count, 4)
    for kept in range(count):
        zeros, noisy = torch.zeros_like(z), drawn.clone()
        zeros[:, :kept] = noisy[:, :kept] = z[:, :kept]
        nll, share = cost(model, x, y, zeros)
        torch.testing.assert_close(found.nll_mean[kept], nll)
        torch.testing.assert_close(found.accuracy_mean[kept], share)
        nll, share = cost(model, x, y, noisy)
        torch.testing.assert_close(found.nll_prior[kept], nll)
        torch.testing.assert_close(found.accuracy_prior[kept], share)
    torch.testing.assert_close(found.nll_prior[-1], found.nll_mean[-1])
    # Wrong control: keeping the LAST layers gives other numbers.
    last = torch.zeros_like(z)
    last[:, -1:] = z[:, -1:]
    assert (cost(model, x, y, last)[0] - found.nll_mean[1]).abs().min() > 1e-3
    assert found.tokens.tolist() == [6, 3, 6, 6]
    total = torch.stack((found.nll_mean.sum(1), found.nll_prior.sum(1))) / 21
    torch.testing.assert_close(found.per_token(), total)


def test_layers_are_blanked_by_the_prior_that_is_given():
    model = make()
    x, y, z = data(model)
    prior = prior_of(model)
    found = layer_reconstruction(model, x, y, z, prior=prior, generator=Rows.of(3, range(4)))
    torch.testing.assert_close(found.nll_mean[0], cost(model, x, y, prior.mean.expand_as(z))[0])
    drawn = prior.mean + math.exp(-0.7) * Rows.of(3, range(4)).fill(z, "normal")
    torch.testing.assert_close(found.nll_prior[0], cost(model, x, y, drawn)[0])


def test_several_prior_draws_are_averaged():
    model = make()
    x, y, z = data(model)
    source = stream(0, "several")
    found = layer_reconstruction(model, x, y, z, samples=3, generator=stream(0, "several"))
    draws = [torch.randn(z.shape, dtype=z.dtype, generator=source) for _ in range(3)]
    nll, share = (
        torch.stack(part).mean(0)
        for part in zip(*(cost(model, x, y, d) for d in draws), strict=True)
    )
    torch.testing.assert_close(found.nll_prior[0], nll)
    torch.testing.assert_close(found.accuracy_prior[0], share)


def test_a_document_keeps_its_prior_draw_in_any_batch():
    model = make()
    x, y, z = data(model)
    whole = layer_reconstruction(model, x, y, z, generator=Rows.of(3, range(4)))
    one = layer_reconstruction(model, x[2:3], y[2:3], z[2:3], generator=Rows.of(3, [2]))
    torch.testing.assert_close(one.nll_prior[:, 0], whole.nll_prior[:, 2])
    other = layer_reconstruction(model, x[2:3], y[2:3], z[2:3], generator=Rows.of(3, [1]))
    assert (other.nll_prior[0, 0] - whole.nll_prior[0, 2]).abs() > 1e-3


def test_free_running_decoding_follows_its_own_tokens():
    model = make()
    x, y, z = data(model)
    tokens = torch.cat((x, y[:, -1:]), 1)
    found = layer_decoding(model, tokens, z, generator=Rows.of(3, range(4)))
    drawn = Rows.of(3, range(4)).fill(z, "normal")
    for name, blank in (("share_mean", torch.zeros_like(z)), ("share_prior", drawn)):
        for kept in range(4):
            latent = torch.cat((z[:, :kept], blank[:, kept:]), 1)
            text = tokens[:, :1]
            for _ in range(6):
                guess = model.decoder.logits(model.decoder(text, latent))[:, -1].argmax(-1)
                text = torch.cat((text, guess[:, None]), 1)
            want = (text[:, 1:] == tokens[:, 1:]).double().mean(1)
            torch.testing.assert_close(getattr(found, name)[kept], want)
            # The document that the latent decodes to is reconstructed fully...
            again = layer_decoding(model, text, latent, generator=Rows.of(0, range(4)))
            assert (again.share_mean[-1] == 1).all()
    # ...and the control, decoding with other latents, is not.
    assert layer_decoding(model, text, z.flip(0)).share_mean[-1].mean() < 1


def test_decoding_may_be_the_callers():
    model = make()
    x, _, z = data(model)
    seen = []

    def parrot(first, latent, new):
        seen.append((tuple(first.shape), latent[0, :, 0, 0].ne(0).sum().item(), new))
        return x[:, 1 : 1 + new]

    found = layer_decoding(model, x, z, decode=parrot, generator=stream(0, "parrot"))
    assert (found.share_mean == 1).all()
    assert seen[:4] == [((4, 1), kept, 5) for kept in range(4)]


def test_layer_probes_refuse_what_does_not_fit():
    model = make()
    x, y, z = data(model)
    with pytest.raises(ValueError, match="samples must be at least 1, got 0"):
        layer_reconstruction(model, x, y, z, samples=0)
    with pytest.raises(ValueError, match="two tokens or more"):
        layer_decoding(model, x[:, :1], z)


@pytest.mark.usefixtures("wrong_types")
def test_probes_refuse_targets_of_another_length():
    model = make()
    x, y, z = data(model)
    with pytest.raises(ValueError, match="tokens and targets must have one shape"):
        slot_ablation(model, x, y[:, 1:], z)


@pytest.mark.parametrize("probe", [layer_reconstruction, slot_ablation, swap_test])
def test_probes_refuse_foreign_latents_and_unscored_sequences(probe):
    model = make()
    x, y, z = data(model)
    with pytest.raises(ValueError, match=r"z must be .* = \(4, 3, 2, 5\)"):
        probe(model, x, y, z[:, :2])
    y = y.clone()
    y[2] = -100
    with pytest.raises(ValueError, match="sequence 2 has only -100"):
        probe(model, x, y, z)


@pytest.mark.parametrize("probe", [layer_reconstruction, slot_ablation, swap_test])
def test_probes_leave_no_gradient_no_graph_and_the_mode(probe):
    model = make(dropout=0.5).train()
    x, y, z = data(model)
    first, second = (probe(model, x, y, z.requires_grad_()) for _ in range(2))
    nll = first.nll_mean if probe is layer_reconstruction else first.nll
    again = second.nll_mean if probe is layer_reconstruction else second.nll
    torch.testing.assert_close(nll, again, rtol=0, atol=0)  # no dropout inside
    assert not nll.requires_grad
    assert model.training
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


# --------------------------------------------------------------------------------- swap


def test_swap_matrix_holds_rows_of_texts_and_columns_of_latents():
    model = make()
    x, y, z = data(model)
    y = y.clone()
    y[0, :2] = -100
    found = swap_test(model, x, y, z)
    want = torch.empty(4, 4, dtype=torch.float64)
    for i in range(4):
        for j in range(4):
            want[i, j] = cost(model, x[i : i + 1], y[i : i + 1], z[j : j + 1])[0]
    torch.testing.assert_close(found.nll, want)
    assert (found.nll - want.T).abs().max() > 0.1  # control: the transpose is another table
    assert (found.gap.diagonal() == 0).all()
    torch.testing.assert_close(found.gap, want - want.diagonal()[:, None])
    assert found.gap_per_token == pytest.approx(found.gap.sum().item() / (3 * 22))
    assert found.retrieval == (want.argmin(1) == torch.arange(4)).double().mean()


def test_fitted_latents_are_found_again_and_equal_ones_are_worth_nothing():
    model = make()
    x, y, z = data(model)
    z = z.clone()
    for _ in range(30):
        z.requires_grad_()
        (slope,) = torch.autograd.grad(model.log_likelihood(x, y, z).sum(), z)
        z = (z + 0.3 * slope).detach()
    found = swap_test(model, x, y, z)
    assert found.retrieval == 1
    assert found.gap_per_token > 0.1
    nothing = swap_test(model, x, y, z[:1].expand_as(z))
    assert nothing.gap_per_token == pytest.approx(0, abs=1e-12)


def test_swap_needs_two_sequences():
    model = make()
    x, y, z = data(model, batch=1)
    with pytest.raises(ValueError, match="two sequences or more"):
        swap_test(model, x, y, z)


# ------------------------------------------------------------------------------- slots


def test_slot_importance_equals_costs_of_latents_blanked_by_hand():
    model = make()
    x, y, z = data(model)
    for prior in (None, prior_of(model)):
        found = slot_ablation(model, x, y, z, prior=prior)
        mean = torch.zeros_like(z) if prior is None else prior.mean.expand_as(z)
        base = cost(model, x, y, z)[0]
        torch.testing.assert_close(found.nll, base)
        for layer in range(3):
            for slot in range(2):
                cut = z.clone()
                cut[:, layer, slot] = mean[:, layer, slot]
                want = cost(model, x, y, cut)[0] - base
                torch.testing.assert_close(found.slots[layer, slot], want)
            cut = z.clone()
            cut[:, layer] = mean[:, layer]
            torch.testing.assert_close(found.layers[layer], cost(model, x, y, cut)[0] - base)
        torch.testing.assert_close(found.everything, cost(model, x, y, mean)[0] - base)
    torch.testing.assert_close(found.per_token(), found.slots.sum(-1) / 24)


def test_a_layer_that_ignores_its_latents_is_worth_nothing():
    model = make()
    x, y, z = data(model)
    names = [n for n, _ in model.named_parameters() if "blocks.1" in n or "layers.1" in n]
    crossing = [n for n in names if "cross" in n and n.endswith("weight")]
    assert crossing
    with torch.no_grad():
        for name in crossing:
            if model.get_parameter(name).ndim > 1:
                model.get_parameter(name).zero_()
    found = slot_ablation(model, x, y, z)
    assert (found.slots[1] == 0).all()
    assert (found.layers[1] == 0).all()
    assert (found.slots[[0, 2]].abs().amax(-1) > 1e-3).all()  # control


# -------------------------------------------------------------------------------- paths


def test_a_straight_path_is_the_weighted_mean():
    a, b = torch.randn(2, 3, 2, 4, 5, dtype=torch.float64, generator=stream(0, "path"))
    path = interpolate(a, b, points=5, kind="linear")
    assert path.shape == (5, 3, 2, 4, 5)
    for k, t in enumerate((0, 0.25, 0.5, 0.75, 1)):
        torch.testing.assert_close(path[k], (1 - t) * a + t * b)


def test_an_arc_turns_evenly_and_keeps_the_length():
    a, b = torch.randn(2, 3, 2, 4, 5, dtype=torch.float64, generator=stream(0, "path"))
    b = b * (a.flatten(1).norm(dim=1) / b.flatten(1).norm(dim=1)).view(-1, 1, 1, 1)
    path = interpolate(a, b, points=7).flatten(2)
    norm = path.norm(dim=2)
    torch.testing.assert_close(norm, norm[:1].expand_as(norm))
    torch.testing.assert_close(path[0], a.flatten(1), rtol=0, atol=0)
    torch.testing.assert_close(path[-1], b.flatten(1), rtol=0, atol=0)
    unit = path / norm[..., None]
    turn = (unit[:-1] * unit[1:]).sum(-1).clamp(-1, 1).acos()
    torch.testing.assert_close(turn, turn[:1].expand_as(turn))
    torch.testing.assert_close(turn.sum(0), (unit[0] * unit[-1]).sum(-1).acos())
    # Control: the straight path is shorter in the middle, by 0.7 for nearly orthogonal ends.
    straight = interpolate(a, b, points=7, kind="linear").flatten(2).norm(dim=2)
    assert (straight[3] < 0.9 * norm[3]).all()


def test_lengths_along_an_arc_change_by_equal_factors():
    a = torch.zeros(1, 1, 2, dtype=torch.float64)
    b = a.clone()
    a[..., 0], b[..., 1] = 1.0, 4.0
    path = interpolate(a, b, points=3)
    half = math.sqrt(2)
    torch.testing.assert_close(path[1, 0, 0], torch.tensor([half, half], dtype=torch.float64))


def test_an_arc_between_equal_or_nearly_equal_latents_is_straight():
    a = torch.randn(2, 3, 4, dtype=torch.float64, generator=stream(0, "near"))
    torch.testing.assert_close(interpolate(a, a, points=3), a.expand(3, -1, -1, -1))
    b = a + 1e-7
    path = interpolate(a, b, points=3)
    assert path.isfinite().all()
    torch.testing.assert_close(path[1], (a + b) / 2, rtol=1e-9, atol=1e-12)


def test_interpolation_refuses_what_has_no_path():
    a = torch.ones(2, 3, 4)
    with pytest.raises(ValueError, match="points must be at least 2"):
        interpolate(a, a, points=1)
    with pytest.raises(ValueError, match="opposite directions"):
        interpolate(a, -2 * a)
    with pytest.raises(ValueError, match="must not be zero on an arc"):
        interpolate(a, 0 * a)
    assert interpolate(a, -a, kind="linear", points=3)[1].abs().max() == 0


@pytest.mark.usefixtures("wrong_types")
def test_interpolation_refuses_wrong_shapes_and_kinds():
    a = torch.ones(2, 3, 4)
    with pytest.raises(ValueError, match="one shape"):
        interpolate(a, torch.ones(2, 3, 5))
    with pytest.raises(ValueError, match="unknown kind 'bent'"):
        interpolate(a, a, kind="bent")


# ------------------------------------------------------------------------- linear probe


def clusters(n=60, wide=30, shift=1.0, name="clusters"):
    generator = stream(0, name)
    labels = torch.randint(3, (n,), generator=generator)
    centers = shift * torch.randn(3, wide, dtype=torch.float64, generator=generator)
    noise = torch.randn(n, wide, dtype=torch.float64, generator=generator)
    return centers[labels] + noise, labels * 7 - 3


def by_hand(features, labels, folds, penalties, standardize):
    """The same probe by the normal equations and by leaving each document out for real."""
    classes = sorted(set(labels.tolist()))
    y = torch.stack([(labels == c).double() for c in classes], 1)
    guess, chosen = labels.clone(), []

    def solve(x, y, penalty):
        xm, ym = x.mean(0), y.mean(0)
        a = (x - xm).T @ (x - xm) + penalty * torch.eye(x.shape[1], dtype=x.dtype)
        w = torch.linalg.solve(a, (x - xm).T @ (y - ym))
        return lambda new: ym + (new - xm) @ w

    for fold in range(int(folds.max()) + 1):
        out = folds == fold
        x, inner = features[~out], y[~out]
        held = features[out]
        scale = x.std(0, correction=0) if standardize else torch.ones(x.shape[1])
        x, held = x / scale, held / scale
        power = (x - x.mean(0)).square().sum(1).mean()
        errors = []
        for penalty in penalties:
            left = []
            for i in range(len(x)):
                rest = torch.arange(len(x)) != i
                left.append(inner[i] - solve(x[rest], inner[rest], penalty * power)(x[i]))
            errors.append(torch.stack(left).square().mean())
        best = penalties[int(torch.stack(errors).argmin())]
        chosen.append(best)
        scores = solve(x, inner, best * power)(held)
        guess[out] = torch.tensor([classes[k] for k in scores.argmax(1).tolist()])
    return guess, tuple(chosen)


@pytest.mark.parametrize("standardize", [True, False])
@pytest.mark.parametrize("wide", [5, 80])
def test_ridge_probe_equals_normal_equations_and_real_leave_one_out(wide, standardize):
    features, labels = clusters(40, wide, 0.4)
    features = features * torch.linspace(0.5, 2, wide)
    penalties = (1e-3, 1e-2, 0.1, 1.0)
    found = linear_probe(
        features,
        labels,
        folds=4,
        penalties=penalties,
        standardize=standardize,
        generator=stream(0, "folds"),
    )
    guess, chosen = by_hand(features, labels, found.folds, penalties, standardize)
    assert found.penalties == chosen
    assert torch.equal(found.predictions, guess)
    right = (guess == labels).double()
    assert found.accuracy == pytest.approx(right.mean().item())
    assert found.standard_error == pytest.approx(right.std().item() / math.sqrt(40))
    fold_means = torch.stack([right[found.folds == k].mean() for k in range(4)])
    torch.testing.assert_close(found.fold_accuracy, fold_means)


def test_probe_finds_clusters_and_nothing_in_noise():
    features, labels = clusters()
    found = linear_probe(features, labels, generator=stream(0, "folds"))
    assert found.accuracy > 0.9
    # Wrong control: labels that belong to other documents. 5 standard errors of a share of 60.
    mixed = labels[torch.randperm(60, generator=stream(0, "mixed"))]
    none = linear_probe(features, mixed, generator=stream(0, "folds"))
    assert none.accuracy < 0.4 + 5 * math.sqrt(0.25 / 60)
    assert none.accuracy < found.accuracy - 0.3
    assert none.majority < 0.6


def test_features_that_are_constant_do_not_disturb():
    features, labels = clusters()
    more = torch.cat((features, torch.full((60, 3), 1e6, dtype=torch.float64)), 1)
    a = linear_probe(features, labels, generator=stream(0, "folds"))
    b = linear_probe(more.view(60, 3, 11), labels, generator=stream(0, "folds"))
    assert torch.equal(a.predictions, b.predictions)


def test_grouped_folds_stop_the_probe_from_recognizing_books():
    # 30 books of 4 passages; each book has a place of its own, authors have none.
    generator = stream(0, "books")
    books = torch.arange(30).repeat_interleave(4)
    authors = torch.arange(3).repeat(10)[torch.randperm(30, generator=generator)][books]
    places = 3 * torch.randn(30, 40, dtype=torch.float64, generator=generator)
    features = places[books] + 0.3 * torch.randn(120, 40, dtype=torch.float64, generator=generator)
    loose = linear_probe(features, authors, generator=stream(0, "folds"))
    held = linear_probe(features, authors, groups=books, generator=stream(0, "folds"))
    for book in range(30):
        assert len(held.folds[books == book].unique()) == 1
    assert loose.accuracy > 0.9  # the leak
    # Chance is 1/3 of 30 independent books: 5 standard errors are 0.43.
    assert held.accuracy < 1 / 3 + 0.43
    assert held.accuracy < loose.accuracy - 0.2
    assert held.standard_error > 1.5 * math.sqrt(held.accuracy * (1 - held.accuracy) / 120)


def test_folds_hold_all_classes_evenly():
    codes = torch.tensor([0] * 20 + [1] * 10 + [2] * 5)
    fold = assign_folds(codes, folds=5, groups=None, generator=stream(0, "even"))
    for number in range(5):
        assert torch.bincount(codes[fold == number], minlength=3).tolist() == [4, 2, 1]
    other = assign_folds(codes, folds=5, groups=None, generator=stream(1, "even"))
    assert not torch.equal(fold, other)


def test_probe_refuses_what_cannot_be_validated():
    features, labels = clusters(12)
    with pytest.raises(ValueError, match="two classes or more, got 1"):
        linear_probe(features, torch.zeros_like(labels))
    with pytest.raises(ValueError, match=r"folds must be in 2\.\.12"):
        linear_probe(features, labels, folds=13)
    with pytest.raises(ValueError, match=r"folds must be in 2\.\.3"):
        linear_probe(features, labels, folds=4, groups=torch.arange(12) % 3)
    with pytest.raises(ValueError, match="penalties must be"):
        linear_probe(features, labels, penalties=(0.0, 1.0))
    lonely = torch.zeros_like(labels)
    lonely[4] = 9
    with pytest.raises(ValueError, match="label 9 is only in fold"):
        linear_probe(features, lonely)
    features[3, 2] = math.nan
    with pytest.raises(ValueError, match="features must be finite"):
        linear_probe(features, labels)


@pytest.mark.usefixtures("wrong_types")
def test_probe_refuses_other_numbers_of_documents():
    features, labels = clusters(12)
    with pytest.raises(ValueError, match="as many documents"):
        linear_probe(features[1:], labels)
    with pytest.raises(ValueError, match="tokens and labels must speak of as many"):
        label_probe(features, torch.zeros(11, 3, dtype=torch.int64), labels)


# -------------------------------------------------------------------------------- words


def test_bag_of_words_counts_ids_and_skips_padding():
    tokens = torch.tensor([[5, 5, 5, 9], [9, 2, -100, -100]])
    rows = torch.tensor([[0, math.log(4), math.log(2)], [math.log(2), 0, math.log(2)]])
    torch.testing.assert_close(bag_of_words(tokens), rows / rows.norm(dim=1, keepdim=True))
    with pytest.raises(ValueError, match="1 empty ones"):
        bag_of_words(torch.tensor([[1, 2], [-100, -100]]))


def test_label_probe_compares_latents_with_words_on_the_same_folds():
    generator = stream(0, "label probe")
    labels = torch.arange(3).repeat(20)
    # Words tell the label, latents nothing; and the other way round.
    told = torch.randint(5, (60, 30), generator=generator) + 4 * labels[:, None]
    mute = torch.randint(12, (60, 30), generator=generator)
    noise = torch.randn(60, 2, 3, 4, generator=generator)
    clear = noise + 2 * torch.nn.functional.one_hot(labels, 4)[:, None, None]
    words = label_probe(noise, told, labels)
    latents = label_probe(clear, mute, labels)
    assert words.words.accuracy > 0.9
    assert words.advantage < -5 * words.standard_error
    assert latents.latents.accuracy > 0.9
    assert latents.advantage > 5 * latents.standard_error
    assert torch.equal(latents.latents.folds, latents.words.folds)
    right = (
        latents.latents.predictions.eq(labels).double()
        - latents.words.predictions.eq(labels).double()
    )
    assert latents.advantage == pytest.approx(right.mean().item())
    assert latents.standard_error == pytest.approx(right.std().item() / math.sqrt(60))
    assert label_probe(clear, mute, labels, seed=1).latents.folds.ne(latents.latents.folds).any()
