"""A language model of transformers trained and scored without its logits, beside stock."""

# %% [markdown]
# # Perplexity of a text
#
# A small Llama learns the help texts that ship with Python, byte by byte, with the one line that
# leaves the logits out of its loss. Then the perplexity of a part that it has not seen is found by
# windows that overlap: by `logitless.transformers.perplexity`, and by the loop of transformers'
# documentation.

# %%
import math
from pydoc_data.topics import topics

import torch
from transformers import LlamaConfig, LlamaForCausalLM

import logitless.transformers

WINDOW, STRIDE, BATCH, STEPS, HELD_OUT = 128, 64, 16, 60, 2000

# %% [markdown]
# ## The text and the model
#
# Bytes are their own numbers: no tokenizer.

# %%
text = torch.tensor(list(" ".join(topics[name] for name in sorted(topics)).encode()))
train, held_out = text[:-HELD_OUT], text[-HELD_OUT:]
print(f"{len(train):,} bytes to learn, {len(held_out):,} to score")

torch.manual_seed(0)
model = LlamaForCausalLM(LlamaConfig(
    vocab_size=256, hidden_size=64, intermediate_size=128, num_hidden_layers=2,
    num_attention_heads=4, max_position_embeddings=WINDOW))
logitless.transformers.patch(model)

# %% [markdown]
# ## Training
#
# The model is called as ever.

# %%
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
for step in range(STEPS):
    first = torch.randint(len(train) - WINDOW, (BATCH, 1))
    ids = train[first + torch.arange(WINDOW)]
    output = model(input_ids=ids, labels=ids)
    assert output.logits is None
    optimizer.zero_grad()
    output.loss.backward()
    optimizer.step()
    if step % 20 == 0 or step == STEPS - 1:
        print(f"step {step:>3}: loss {output.loss.item():.3f}")

# %% [markdown]
# ## Perplexity, twice
#
# Every byte but the first counts once, with at least `WINDOW - STRIDE` bytes before it once there
# are as many.


# %%
def perplexity_of_stock(model):
    """The loop of transformers' documentation."""
    total, count, before = 0.0, 0, 0
    for begin in range(0, len(held_out), STRIDE):
        end = min(begin + WINDOW, len(held_out))
        ids = held_out[None, begin:end]
        labels = ids.clone()
        labels[:, : -(end - before)] = -100
        valid = int((labels[:, 1:] != -100).sum())
        with torch.no_grad():
            total += model(input_ids=ids, labels=labels).loss.item() * valid
        count, before = count + valid, end
        if end == len(held_out):
            break
    return math.exp(total / count)


found = logitless.transformers.perplexity(model, held_out, stride=STRIDE, progress=False)
print(f"\nlogitless: {found.perplexity:.4f} a byte, {found.n_tokens:,} bytes")

logitless.transformers.unpatch(model).eval()
theirs = perplexity_of_stock(model)
print(f"stock:     {theirs:.4f} a byte")

# %% [markdown]
# Losses of single bytes say what the model did not expect.

# %%
worst = found.losses.argsort()[-5:][::-1] + 1
for place in worst:
    before, byte = bytes(held_out[max(place - 20, 0) : place].tolist()), held_out[place].item()
    print(f"unexpected: {chr(byte)!r} after {before.decode(errors='replace')!r}")

# %%
difference = abs(found.perplexity / theirs - 1)
print(f"\ndifference: {difference:.1e}")
assert found.perplexity < 30
assert difference < 1e-5
