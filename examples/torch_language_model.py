"""A language model trained with logitless.torch and with torch: the same curve of the loss."""

# %% [markdown]
# # A language model trained twice
#
# A small network learns the help texts that ship with Python, word by word: once with
# `logitless.torch.linear_cross_entropy` and once with PyTorch's function of that name, from the
# same seed. The call is the same, and so is the curve of the loss; but PyTorch makes a
# (samples x words) matrix of logits in every step, and another of their gradients.

# %%
import re
import time
from collections import Counter
from pydoc_data.topics import topics

import torch
from torch.nn.functional import linear_cross_entropy as of_torch

from logitless.torch import linear_cross_entropy as of_logitless

CONTEXT, FEATURES, BATCH, STEPS = 8, 64, 1024, 100

# %% [markdown]
# ## The text
#
# Words and punctuation marks, numbered from the most frequent on.

# %%
words = re.findall(r"\w+|[^\w\s]", " ".join(topics[name] for name in sorted(topics)).lower())
vocabulary = [word for word, _ in Counter(words).most_common()]
index = {word: i for i, word in enumerate(vocabulary)}
text = torch.tensor([index[word] for word in words])
print(f"{len(words):,} words, {len(vocabulary):,} of them different")

# %% [markdown]
# ## The model
#
# The features of a place come from the words before it. The head shares its weights with the
# embedding, whose gradient comes from both ends.


# %%
class Model(torch.nn.Module):
    """Makes features out of the last words, as in Bengio et al. 2003."""

    def __init__(self):
        super().__init__()
        self.embedding = torch.nn.Embedding(len(vocabulary), FEATURES)
        self.hidden = torch.nn.Linear(CONTEXT * FEATURES, FEATURES)
        self.bias = torch.nn.Parameter(torch.zeros(len(vocabulary)))
        torch.nn.init.normal_(self.embedding.weight, std=0.1)

    def forward(self, context):
        """Features (samples, FEATURES) of contexts (samples, CONTEXT)."""
        return torch.tanh(self.hidden(self.embedding(context).flatten(1)))


def train(linear_cross_entropy):
    """Losses of all steps; seconds spent on the head, and in all."""
    torch.manual_seed(0)
    model = Model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses, of_head, began = [], 0.0, time.perf_counter()
    for _ in range(STEPS):
        first = torch.randint(len(text) - CONTEXT, (BATCH, 1))
        sample = text[first + torch.arange(CONTEXT + 1)]
        features = model(sample[:, :-1])
        optimizer.zero_grad()

        start = time.perf_counter()
        leaf = features.detach().requires_grad_()  # parts the head from the rest, to time it
        loss = linear_cross_entropy(
            leaf, model.embedding.weight, sample[:, -1], linear_bias=model.bias
        )
        loss.backward()
        of_head += time.perf_counter() - start

        features.backward(leaf.grad)
        optimizer.step()
        losses.append(loss.item())
    return losses, of_head, time.perf_counter() - began


# %% [markdown]
# ## Twice the same

# %%
runs = {"logitless": train(of_logitless), "torch": train(of_torch)}
ours, theirs = (losses for losses, *_ in runs.values())

print(f"\n{'step':>6}{'logitless':>14}{'torch':>14}{'difference':>14}")
for step in (*range(0, STEPS, 10), STEPS - 1):
    print(f"{step:>6}{ours[step]:>14.6f}{theirs[step]:>14.6f}{ours[step] - theirs[step]:>14.1e}")

# %%
logits = BATCH * len(vocabulary) * 4 / 2**20  # float32
print(f"\n{'':<12}{'head':>10}{'all':>10}    logits in memory")
for name, (_, of_head, of_all) in runs.items():
    size = "none" if name == "logitless" else f"{logits:.0f} MiB, and as much for gradients"
    print(f"{name:<12}{of_head:>8.2f} s{of_all:>8.2f} s    {size}")

# %%
largest = max(abs(a - b) for a, b in zip(ours, theirs, strict=True))
print(f"\nlargest difference between the losses: {largest:.1e}")
assert ours[-1] < ours[0] - 2
assert largest < 1e-5
