"""Scores of texts by causal language models: perplexity, and log-likelihoods of continuations."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from inspect import signature
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from .._arrays.checks import check_integer
from ..head import LinearHead
from ._check import in_evaluation, vocabulary
from ._deferred import DeferredHead, DeferredLogits
from ._patch import inner_model


@dataclass(frozen=True)
class Perplexity:
    """What `perplexity` found.

    Attributes
    ----------
    losses : ndarray, shape (n - 1,)
        Minus the log-probability of each token but the first, in nats.

    Examples
    --------
    >>> import numpy as np
    >>> from logitless.transformers import Perplexity
    >>> found = Perplexity(np.log([2.0, 8.0]))
    >>> found.n_tokens, round(found.nll, 3), round(found.perplexity, 3)
    (2, 2.773, 4.0)
    """

    losses: np.ndarray

    @property
    def n_tokens(self) -> int:
        """Number of tokens that count."""
        return len(self.losses)

    @property
    def nll(self) -> float:
        """Sum of the losses, in nats."""
        return math.fsum(self.losses)

    @property
    def perplexity(self) -> float:
        """The exponential of the mean loss."""
        return math.exp(self.nll / self.n_tokens)


def perplexity(
    model: Any, tokenizer_or_ids: Any, text: str | None = None, *, stride: int | None = None,
    max_length: int | None = None, progress: bool = True,
) -> Perplexity:
    """Find the perplexity of a long text, by windows that overlap, without logits.

    Each window gives losses of the tokens that the one before did not reach; what they have
    in common is context. Every token but the first of the text counts once.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        A causal language model on the CPU, patched or not, or one that peft has made of it.
        It is left in the mode it was in.
    tokenizer_or_ids : callable or sequence of int
        A tokenizer of transformers, for `text`; it adds the special tokens it adds. Or
        the ids, at least two: a sequence, array or tensor of shape (n,) or (1, n).
    text : str, optional
        With a tokenizer.
    stride : int, optional
        Tokens from window to window, in [1, `max_length` - 1]; half of `max_length` by
        default. Smaller ones give each token more context, and take longer.
    max_length : int, optional
        Tokens of a window, at least 2: the `max_position_embeddings` of the model by default.
    progress : bool, default True
        Show a progress bar, on stderr.

    Returns
    -------
    Perplexity
        Its `perplexity`, `nll`, `n_tokens`, and `losses` of the single tokens.

    Raises
    ------
    TypeError
        `model` is not a model of transformers, or cannot do without its logits; a text with
        no tokenizer, a tokenizer with no text, ids that are no integers.
    IndexError
        An id outside the model's vocabulary.
    ValueError
        The model is no causal one, fewer than two tokens, an option out of range, or no
        `max_length` where the model has none.

    Notes
    -----
    The head is copied once, packed; it is applied only to rows that count, a window at a
    time, so that memory does not grow with the text but for the losses. Models in 16 bits
    have their logits in float32.

    Examples
    --------
    >>> from transformers import GPT2Config, GPT2LMHeadModel
    >>> from logitless.transformers import perplexity
    >>> config = GPT2Config(vocab_size=50, n_embd=16, n_layer=1, n_head=2, n_positions=32)
    >>> found = perplexity(GPT2LMHeadModel(config), list(range(50)), stride=16, progress=False)
    >>> found.n_tokens, 30 < found.perplexity < 70
    (49, True)
    """
    inner = _causal(model)
    ids = _ids(tokenizer_or_ids, text, vocabulary(inner))
    max_length = _max_length(inner, max_length, 2)
    stride = max_length // 2 if stride is None else check_integer(stride, "stride", 1)
    if stride >= max_length:
        raise ValueError(f"`stride` must be less than `max_length`, {max_length}, got {stride}")
    scorer, losses = _Scorer(model), []
    with in_evaluation(model), torch.inference_mode(), tqdm(
        total=len(ids) - 1, unit=" tokens", disable=not progress
    ) as bar:
        for begin, first, end in _windows(len(ids), max_length, stride):
            rows = scorer.features(ids[None, begin:end])[0, first - 1 - begin : end - 1 - begin]
            losses.append(scorer.head.loss(rows, ids[first:end]))
            bar.update(end - first)
    return Perplexity(np.concatenate(losses))


def loglikelihood(
    model: Any, tokenizer: Any, pairs: Iterable[tuple[str, str]], *, batch_size: int = 8,
    max_length: int | None = None, add_special_tokens: bool = False, progress: bool = True,
) -> list[tuple[float, bool]]:
    """Find how likely continuations of contexts are, as evaluation harnesses ask for it.

    What lm-evaluation-harness calls `loglikelihood`, with requests as pairs of strings.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        As for `perplexity`.
    tokenizer : callable
        A tokenizer of transformers. White space between context and continuation is
        tokenized with the latter.
    pairs : iterable of (str, str)
        Contexts and continuations. In place of an empty context stands the tokenizer's
        beginning of a sequence, or if it has none its end.
    batch_size : int, default 8
        Pairs that go through the model together, those of similar length.
    max_length : int, optional
        Tokens the model takes, its `max_position_embeddings` by default. Contexts that are
        too long lose their beginning.
    add_special_tokens : bool, default False
        Have the tokenizer add special tokens to texts, as to the beginning of a context.
    progress : bool, default True
        Show a progress bar, on stderr.

    Returns
    -------
    list of (float, bool)
        For each pair the sum of the log-probabilities of the continuation's tokens, in nats,
        and whether each of them is the likeliest one.

    Raises
    ------
    TypeError
        As for `perplexity`; something among `pairs` that is no pair of strings.
    ValueError
        The model is no causal one, a continuation has no tokens or more than `max_length`,
        an option is out of range.

    Notes
    -----
    The head is copied once, packed, and applied to the rows of continuations alone, once.
    Its results are the same bits in any batch; those of the model before it
    may be rounded differently.

    Examples
    --------
    >>> from tokenizers import Tokenizer, models, pre_tokenizers
    >>> from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast
    >>> from logitless.transformers import loglikelihood
    >>> words = Tokenizer(models.WordLevel({"<s>": 0, "a": 1, "b": 2}, unk_token="<s>"))
    >>> words.pre_tokenizer = pre_tokenizers.Whitespace()
    >>> tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>")
    >>> model = GPT2LMHeadModel(GPT2Config(vocab_size=3, n_embd=16, n_layer=1, n_head=2))
    >>> found = loglikelihood(model, tokenizer, [("a b", " a"), ("", "b")], progress=False)
    >>> all(-2 < total < 0 for total, is_greedy in found)
    True
    """
    inner = _causal(model)
    max_length = _max_length(inner, max_length, 1)
    batch_size = check_integer(batch_size, "batch_size", 1)
    encoded = [_encoded(tokenizer, _checked(pair), max_length, add_special_tokens)
               for pair in pairs]
    order = sorted(range(len(encoded)), key=lambda i: -len(encoded[i][0]))
    scorer, found = _Scorer(model), [(0.0, True)] * len(encoded)
    with in_evaluation(model), torch.inference_mode(), tqdm(
        total=len(encoded), unit=" pairs", disable=not progress
    ) as bar:
        for first in range(0, len(order), batch_size):
            places = order[first : first + batch_size]
            results = _continuations(scorer, [encoded[i] for i in places])
            for place, result in zip(places, results, strict=True):
                found[place] = result
            bar.update(len(places))
    return found


class _Scorer:
    """A model that gives features, and its head, which is made when the first of them come."""

    head: LinearHead

    def __init__(self, model: Any) -> None:
        self.model = model
        self.known = signature(inner_model(model).forward).parameters

    def features(self, ids: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """What the head is applied to: (b, t, k) for token ids (b, t).

        A prompt that is learned, as peft prepends it, has features of its own before them.
        """
        options = {"attention_mask": mask, "use_cache": False}
        options = {name: value for name, value in options.items() if name in self.known}
        with DeferredHead(inner_model(self.model)) as deferred:
            logits = self.model(input_ids=ids, return_dict=True, **options).logits
        if not isinstance(logits, DeferredLogits):
            raise TypeError(f"the logits of {deferred.name} are not those of one linear layer, "
                            "`get_output_embeddings()`")
        if not hasattr(self, "head"):
            self.head = LinearHead.from_module(
                SimpleNamespace(weight=logits.weight, bias=logits.bias),
                softcap=logits.softcap, temperature=logits.temperature)
        return logits.x[:, -ids.shape[1] :]


def _continuations(
    scorer: _Scorer, batch: Sequence[tuple[list[int], list[int]]]
) -> list[tuple[float, bool]]:
    """The results of a batch of inputs with the tokens that their last rows are scored against."""
    length = max(len(given) for given, _ in batch)
    ids = torch.zeros(len(batch), length, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for i, (given, _) in enumerate(batch):  # what is beyond their ends, no causal model sees
        ids[i, : len(given)], mask[i, : len(given)] = torch.tensor(given), 1
    x = scorer.features(ids, mask)
    rows = [x[i, len(given) - len(wanted) : len(given)]
            for i, (given, wanted) in enumerate(batch)]
    targets = np.concatenate([wanted for _, wanted in batch])
    scores = scorer.head.score(torch.cat(rows), targets)
    found = np.column_stack([np.asarray(scores.loss), scores.predicted == targets])
    ends = np.cumsum([len(wanted) for _, wanted in batch])[:-1]
    return [(-math.fsum(part[:, 0]), bool(part[:, 1].all())) for part in np.split(found, ends)]


def _windows(n: int, max_length: int, stride: int) -> Iterator[tuple[int, int, int]]:
    """Where windows over `n` tokens begin, where what counts in them begins, and where they end."""
    first = 1
    for begin in range(0, n, stride):
        end = min(begin + max_length, n)
        yield begin, first, end
        if end == n:
            return
        first = end


def _encoded(
    tokenizer: Any, pair: tuple[str, str], max_length: int, add_special_tokens: bool
) -> tuple[list[int], list[int]]:
    """What a model is given, the last token left out, and the tokens of the continuation."""
    context, continuation = pair
    stripped = context.rstrip()
    continuation = context[len(stripped) :] + continuation
    if stripped:
        before, whole = (
            list(tokenizer(text, add_special_tokens=add_special_tokens, verbose=False)["input_ids"])
            for text in (stripped, stripped + continuation))
        wanted = whole[len(before) :]
    else:
        wanted = list(tokenizer(continuation, add_special_tokens=False, verbose=False)["input_ids"])
        before = [_prefix(tokenizer)]
    if not 0 < len(wanted) <= max_length:
        raise ValueError(f"a continuation must have 1 to {max_length} tokens (`max_length`), "
                         f"got {len(wanted)}: {continuation[:40]!r}")
    return (before + wanted)[-(max_length + 1) : -1], wanted


def _prefix(tokenizer: Any) -> int:
    for token in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if token is not None:
            return int(token)
    raise ValueError("an empty context needs a `bos_token` or `eos_token` of the tokenizer, "
                     "which has neither")


def _checked(pair: Any) -> tuple[str, str]:
    match pair:
        case (str(context), str(continuation)):
            return context, continuation
    raise TypeError("`pairs` must be pairs of strings, a context and a continuation each, "
                    f"got {pair!r}")


def _ids(tokenizer_or_ids: Any, text: str | None, n_classes: int) -> torch.Tensor:
    """The ids of a text, in one row."""
    ids = tokenizer_or_ids
    if callable(tokenizer_or_ids) != (text is not None):
        raise TypeError("`text` must be given along with a tokenizer, and with nothing else")
    if text is not None:
        if not isinstance(text, str):
            raise TypeError(f"`text` must be a string, got {type(text).__name__}")
        ids = tokenizer_or_ids(text, verbose=False)["input_ids"]
    array = np.asarray(ids)
    if array.ndim == 2 and array.shape[0] == 1:
        array = array[0]
    if array.ndim == 1 and len(array) > 1 and array.dtype.kind not in "iu":
        raise TypeError(f"ids of tokens must be integers, got {array.dtype}")
    if array.ndim != 1 or len(array) < 2:
        raise ValueError(f"a text must have two tokens at least, in one row, "
                         f"got ids of shape {array.shape}")
    if not 0 <= array.min() <= array.max() < n_classes:
        wrong = array[(array < 0) | (array >= n_classes)][0]
        raise IndexError(f"ids of tokens must be in [0, {n_classes}), got {wrong}")
    return torch.from_numpy(array.astype(np.int64))


def _causal(model: Any) -> Any:
    """The model of transformers itself."""
    inner = inner_model(model)
    if not inner.can_generate() or inner.config.is_encoder_decoder:
        raise ValueError(f"{type(inner).__name__} is no causal language model: it has no "
                         "probabilities of the next token")
    return inner


def _max_length(inner: Any, max_length: int | None, least: int) -> int:
    if max_length is None:
        max_length = getattr(inner.config.get_text_config(), "max_position_embeddings", None)
    if max_length is None:
        raise ValueError(f"`max_length` must be given: {type(inner).__name__} has no "
                         "`max_position_embeddings`")
    return check_integer(max_length, "max_length", least)
