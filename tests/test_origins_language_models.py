"""The page for who comes from a library for language models: its numbers are theirs.

Their formulas are written out here, on logits.
"""

from __future__ import annotations

import pathlib
from types import SimpleNamespace

import pytest
from support import pages

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

F = torch.nn.functional
PAGE = pathlib.Path(__file__).parents[1] / "docs" / "coming-from-language-models.md"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def page():
    """What the names of the page's blocks stand for in the end, and the logits of its heads."""
    if not PAGE.exists():
        pytest.skip("no documentation beside these tests")
    *_, names = pages.run(PAGE)
    found = SimpleNamespace(**names)
    with torch.no_grad():
        found.logits = found.hidden @ found.weight.T
        found.teacher_logits = found.teacher_hidden @ found.teacher_weight.T
        found.after = found.labels[:, 1:]
    return found


def close(ours, theirs, **tolerance):
    torch.testing.assert_close(ours.detach(), theirs.detach(), **tolerance)


def causal(logits, labels, **options):
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), **options)


def capped(logits, cap=30.0):
    return cap * torch.tanh(logits / cap)


def test_16_bits(page):
    x, weight = page.half
    exact = causal(x.double() @ weight.double().T, page.labels)
    theirs = causal(F.linear(x, weight).float(), page.labels)
    assert page.loss_16.dtype == torch.float32
    assert abs(page.loss_16 - exact) < min(1e-6, abs(theirs - exact) / 10)


def test_transformers(page):
    import logitless.transformers

    model = page.model
    assert model(input_ids=page.input_ids, labels=page.labels).logits is None
    logitless.transformers.unpatch(model)
    for loss in page.loss_patched, page.loss_model:
        close(loss, model(input_ids=page.input_ids, labels=page.labels).loss)
    close(page.loss_items, model(input_ids=page.input_ids, labels=page.labels,
                                 num_items_in_batch=page.items).loss)
    logits = 0.0625 * capped(model(input_ids=page.input_ids).logits)
    close(page.loss_scaled, causal(logits, page.labels))
    assert 1 < page.found.perplexity < 1000
    assert page.found.n_tokens == 59


def generalized_jsd(page, beta, temperature=1.0):
    """Mean over the tokens that count."""
    q, p = (logits[:, :-1][page.after != -100].div(temperature).log_softmax(-1)
            for logits in (page.teacher_logits, page.logits))
    m = torch.logsumexp(torch.stack([q + torch.tensor(beta).log(),
                                     p + torch.tensor(1 - beta).log()]), 0)
    if beta in (0, 1):
        q, p = (q, p) if beta == 0 else (p, q)
        return (q.exp() * (q - p)).sum(-1).mean()
    of_q, of_p = ((of.exp() * (of - m)).sum(-1) for of in (q, p))
    return (beta * of_q + (1 - beta) * of_p).mean()


def test_trl_divergences(page):
    close(page.loss_jsd, generalized_jsd(page, 0.5))
    close(page.loss_forward, generalized_jsd(page, 0.0))
    close(page.loss_reverse, generalized_jsd(page, 1.0, 2.0))


def picked(logits, tokens):
    """Log-probabilities of the tokens, and entropies."""
    log_p = logits.log_softmax(-1)
    return (log_p.gather(-1, tokens.clamp(min=0)[..., None])[..., 0],
            -(log_p.exp() * log_p).sum(-1))


def test_trl_policies(page):
    logps, entropies = picked(page.states @ page.weight.T / 0.9, page.tokens)
    close(page.logps, logps)
    close(page.entropies, entropies)
    ratio = torch.exp(logps - page.old)
    losses = -torch.min(ratio * page.advantages, ratio.clamp(0.8, 1.2) * page.advantages)
    close(page.loss_grpo, ((losses * page.mask).sum(-1) / page.mask.sum(-1)).mean())


def test_trl_sequences(page):
    logps = picked(page.logits[:, :-1], page.after)[0]
    close(page.sequence_logps, (logps * (page.after != -100)).sum(-1))


def test_liger(page):
    close(page.loss_liger, causal(page.logits, page.labels))
    counts = page.after != -100
    lse = capped(page.logits)[:, :-1].logsumexp(-1)[counts]
    close(page.loss_options, causal(capped(page.logits), page.labels, label_smoothing=0.1)
          + 1e-4 * lse.square().mean())
    z_loss = 1e-4 * page.logits[:, :-1].logsumexp(-1)[counts].square().mean()
    close(page.z_loss, z_loss)
    close(page.loss_scores, causal(page.logits, page.labels) + z_loss)
    predicted = page.logits[:, :-1].argmax(-1)
    close(page.token_accuracy, (predicted == page.after)[counts].float().mean())
    close(page.predicted_tokens, torch.where(counts, predicted, -1).flatten())
    close(page.loss_liger_jsd, generalized_jsd(page, 0.5, 2.0))


def test_cut_cross_entropy(page):
    close(page.loss_cce, causal(page.logits, page.labels))
    losses = causal(capped(page.logits), page.labels, reduction="none")
    close(page.losses_cce, losses.view(page.b, page.t - 1))
    close(page.loss_lse, page.loss_cce)
    close(page.lse, page.logits[:, :-1].logsumexp(-1))
    close(page.loss_filtered, page.loss_cce)


def test_verl(page):
    """The gradient too, all that the page's tensors get."""
    hidden, weight = (tensor.detach().requires_grad_() for tensor in (page.hidden, page.weight))
    logits = (hidden @ weight.T)[:, -page.completion - 1 : -1] / 0.7
    log_probs, entropy = picked(logits, page.tokens)
    close(page.log_probs, log_probs)
    close(page.entropy, entropy)
    gain = (log_probs * page.advantages + 0.01 * entropy) * page.mask
    loss = -gain.sum() / page.mask.sum()
    close(page.loss_verl, loss)
    loss.backward()
    close(page.hidden.grad, hidden.grad)
    close(page.weight.grad, weight.grad)
    each = picked(logits.detach() * 0.7 / page.temperature[..., None], page.tokens)
    close(page.log_probs_each, each[0])
    close(page.entropy_each, each[1])
