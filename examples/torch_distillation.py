"""A small language model learns from a wide one, by logitless.torch.linear_kl_div."""

# %% [markdown]
# # A teacher and its students
#
# A wide network learns the help texts that ship with Python, word by word. Then small ones learn
# from it: to give each word the probability that it gives it, not just to guess the word that
# comes. What they are trained on is the divergence of two softmaxes over all words. `linear_kl_div`
# takes features and head of either side, and the (samples x words) logits of neither exist.

# %%
import re
import time
from collections import Counter
from pydoc_data.topics import topics

import torch

from logitless import LinearHead
from logitless.torch import linear_cross_entropy, linear_kl_div

CONTEXT, BATCH, STEPS = 8, 256, 120
WIDE, SMALL = 96, 32  # features of the teacher, and of its students

# %% [markdown]
# ## The text
#
# Words and punctuation marks, numbered from the most frequent on; the last twentieth is for tests.

# %%
words = re.findall(r"\w+|[^\w\s]", " ".join(topics[name] for name in sorted(topics)).lower())
vocabulary = [word for word, _ in Counter(words).most_common()]
index = {word: i for i, word in enumerate(vocabulary)}
text = torch.tensor([index[word] for word in words])
places = text.unfold(0, CONTEXT + 1, 1)
train, test = places[: -len(places) // 20], places[-len(places) // 20 :]
print(f"{len(words):,} words, {len(vocabulary):,} of them different")

# %% [markdown]
# ## The models
#
# Features of a place come from the words before it. Teacher and students have the same vocabulary;
# how many features they have is their own matter.


# %%
class Model(torch.nn.Module):
    """Makes features out of the last words, as in Bengio et al. 2003."""

    def __init__(self, features):
        super().__init__()
        self.embedding = torch.nn.Embedding(len(vocabulary), features)
        self.hidden = torch.nn.Linear(CONTEXT * features, features)
        self.head = torch.nn.Linear(features, len(vocabulary))

    def forward(self, context):
        """Features (samples, features) of contexts (samples, CONTEXT)."""
        return torch.tanh(self.hidden(self.embedding(context).flatten(1)))


def fit(model, loss_of, steps=STEPS):
    """Train by a loss of samples (samples, CONTEXT + 1); the loss of all steps."""
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    gen = torch.Generator().manual_seed(1)
    losses = []
    for _ in range(steps):
        loss = loss_of(model, train[torch.randint(len(train), (BATCH,), generator=gen)])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def by_words(model, samples):
    """Loss of the words that come."""
    return linear_cross_entropy(model(samples[:, :-1]), model.head.weight, samples[:, -1],
                                linear_bias=model.head.bias)


torch.manual_seed(0)
teacher = Model(WIDE)
losses = fit(teacher, by_words, 4 * STEPS)
teacher.requires_grad_(False)
print(f"teacher, {WIDE} features: loss {losses[0]:.3f} -> {losses[-1]:.3f} nats a word")

# %% [markdown]
# ## The students
#
# `beta` 0 is KL(teacher || student), which asks for mass wherever the teacher has some; 1 is the
# reverse, which asks for none where it has none; between them lies Jensen-Shannon.


# %%
def by_teacher(beta):
    """Divergence from the teacher at these samples."""

    def loss_of(model, samples):
        context = samples[:, :-1]
        return linear_kl_div(
            model(context), model.head.weight, teacher(context), teacher.head.weight,
            linear_bias=model.head.bias, teacher_bias=teacher.head.bias, beta=beta)

    return loss_of


def tested(model):
    """Loss of unseen words, divergence from the teacher there, and how often both guess alike."""
    with torch.no_grad():
        loss, divergence = (loss_of(model, test).item() for loss_of in (by_words, by_teacher(0.0)))
        guesses = [LinearHead.from_module(m.head, pack=False).predict(m(test[:, :-1]))
                   for m in (model, teacher)]
    return loss, divergence, (guesses[0] == guesses[1]).mean()


ways = {"words alone": by_words, "beta 0": by_teacher(0.0), "beta 0.5": by_teacher(0.5),
        "beta 1": by_teacher(1.0)}
curves, results = {}, {"the teacher": tested(teacher)}
start = time.perf_counter()
for name, loss_of in ways.items():
    torch.manual_seed(0)
    student = Model(SMALL)
    curves[name] = fit(student, loss_of)
    results[name] = tested(student)
print(f"{len(ways)} students, {SMALL} features: {time.perf_counter() - start:.1f} s\n")

# %% [markdown]
# ## The curves
#
# Each falls by its own measure.

# %%
print("step  " + "  ".join(f"{name:>11}" for name in curves))
for step in [0, *range(14, STEPS, 15)]:
    print(f"{step + 1:4}  " + "  ".join(f"{losses[step]:11.4f}" for losses in curves.values()))

# %% [markdown]
# ## On unseen text
#
# Students with `beta` up to a half are closer to the teacher than the one that has seen the words
# alone, and guess as it does more often. After so few steps the reverse divergence is behind.

# %%
print("\n             loss  from teacher  same guess")
for name, (loss, divergence, same) in results.items():
    print(f"{name:11} {loss:6.3f}  {divergence:12.4f}  {same:10.1%}")
