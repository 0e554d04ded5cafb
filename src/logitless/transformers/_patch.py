"""`patch`: a model whose loss does without its logits."""

from __future__ import annotations

import inspect
from functools import cache, wraps
from typing import Any, TypeVar

import torch
from transformers import PreTrainedModel

from ._check import check_model
from ._deferred import DeferredHead, DeferredLogits

_Model = TypeVar("_Model", bound=torch.nn.Module)


class Patched:
    """What patched models are instances of, beside their own class."""

    stock: Any  # the model's own class
    train_only: bool
    training: bool

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Copy and pickle as an instance of a class that is made anew."""
        reduced: Any = super().__reduce_ex__(max(protocol, 2))
        return _bare, (self.stock, self.train_only), *reduced[2:]


def patch(model: _Model, train_only: bool = False) -> _Model:
    """Have a model of transformers find its loss without its logits.

    Called with labels, the model gives the loss it would give without the patch, and
    its gradients, from one pass over the weights of its head; the `logits` of its output
    are then None. Called without labels it is what it was: `generate` sees no difference.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        A model on the CPU whose `forward` takes `labels`, and whose logits are one linear
        layer, with or without a bias, a scale and a cap: causal and masked language
        models, encoders with decoders, in float32, bfloat16 or float16. Or one that peft
        has made of it. A model that is patched already is patched anew.
    train_only : bool, default False
        Leave the model as it was in evaluation, logits included: for metrics of the
        Trainer that need them. It has no predictions otherwise, but an empty tuple.

    Returns
    -------
    model
        The same object.

    Raises
    ------
    TypeError
        `model` is not a model of transformers, but a wrapper, say: patch what is inside,
        then wrap.
    ValueError
        The model cannot do without its logits, or not on this device; says which model,
        and why.

    See Also
    --------
    unpatch : Undo it.

    Notes
    -----
    The model's own forward runs, with logits that are not computed but know how; what it
    does to them up to the loss is noted and left to `logitless.torch.linear_cross_entropy`:
    the loss in float32 of models in 16 bits, `num_items_in_batch`, `shift_labels`, other
    terms of the loss as those of routers. On a tiny batch of drawn numbers the loss and the
    gradient by the head's input are held against stock, here, once. What a model does to its
    logits that is not known here is an error then, or later where it depends on arguments.
    Neither gradients, nor the state of random generators, nor the mode of any module change.

    The class of the model becomes one of the same name below its own, so that copies
    and pickles of a patched model are patched. The head is looked up in every call: it
    may be resized, tied, or saved by peft's `modules_to_save`, whose adapters may be
    switched. LoRA on the head itself is refused: there is no single weight until it is
    merged.

    Patch first, then wrap: by accelerate (`prepare`), `torch.compile`, `fully_shard` (not
    of the head alone, unless with ``reshard_after_forward=False``). The Trainer needs
    nothing. Its label smoothing and `compute_loss_func` take the labels away from the
    model and find the loss from logits, as ever; for `compute_metrics` give `train_only`.

    Examples
    --------
    >>> import torch
    >>> from transformers import LlamaConfig, LlamaForCausalLM
    >>> import logitless.transformers
    >>> config = LlamaConfig(vocab_size=64, hidden_size=16, intermediate_size=16,
    ...                      num_hidden_layers=1, num_attention_heads=2)
    >>> model = logitless.transformers.patch(LlamaForCausalLM(config))
    >>> ids = torch.arange(10)[None]
    >>> output = model(input_ids=ids, labels=ids)
    >>> output.loss.backward()
    >>> output.logits is None
    True
    >>> model(input_ids=ids).logits.shape
    torch.Size([1, 10, 64])
    """
    inner = inner_model(model)
    if "forward" in vars(inner):
        raise ValueError(f"`forward` of this {type(inner).__name__} has been replaced, as "
                         "accelerate's `prepare` does it: patch first")
    stock: Any = inner.stock if isinstance(inner, Patched) else type(inner)
    check_model(inner, stock)
    inner.__class__ = _patched(stock, bool(train_only))
    return model


def unpatch(model: _Model) -> _Model:
    """Undo `patch`: the model is of its own class again. One that is not patched stays as it is.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        Or one that peft has made of it.

    Returns
    -------
    model
        The same object.

    Raises
    ------
    TypeError
        `model` is not a model of transformers.
    ValueError
        Something else has changed the class since, as `fully_shard` does it.

    Examples
    --------
    >>> from transformers import GPT2Config, GPT2LMHeadModel
    >>> from logitless.transformers import patch, unpatch
    >>> model = GPT2LMHeadModel(GPT2Config(vocab_size=64, n_embd=16, n_layer=1, n_head=2))
    >>> type(unpatch(patch(model))) is GPT2LMHeadModel
    True
    """
    inner = inner_model(model)
    if isinstance(inner, Patched):
        inner.__class__ = inner.stock
    return model


def inner_model(model: Any) -> Any:
    """The model of transformers itself, that peft may have wrapped."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    if not isinstance(inner, PreTrainedModel):
        raise TypeError("`model` must be a transformers.PreTrainedModel, before anything else "
                        f"wraps it, got {type(inner).__name__}")
    if isinstance(inner, Patched) and "stock" not in vars(type(inner)):  # a class above ours
        raise ValueError(f"{inner.stock.__name__} was patched, and its class changed since to "
                         f"{type(inner).__name__}: undo that first")
    return inner


@cache
def _patched(stock: Any, train_only: bool) -> Any:
    """The class of patched models below `stock`, under its name: saved models say their class."""
    names = list(inspect.signature(stock.forward).parameters)
    place = names.index("labels") - 1  # without self

    @wraps(stock.forward)
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        labels = args[place] if len(args) > place else kwargs.get("labels")
        # accelerate keeps this function where it wraps a model, unpatched later or not.
        wanted = isinstance(self, Patched) and (self.training or not self.train_only)
        if labels is None or not wanted:
            return stock.forward(self, *args, **kwargs)
        with DeferredHead(self):
            output = stock.forward(self, *args, **kwargs)
        return _without_logits(output, stock.__name__)

    body = {"forward": forward, "stock": stock, "train_only": train_only,
            "__module__": stock.__module__, "__doc__": stock.__doc__}
    return type(stock.__name__, (Patched, stock), body)


def _without_logits(output: Any, name: str) -> Any:
    """The output of a model, a tuple where that was asked for, with None for its logits."""
    values = output if isinstance(output, tuple) else output.values()
    if not any(isinstance(value, DeferredLogits) for value in values):
        raise ValueError(f"the head of {name} has changed since it was patched, and its logits "
                         "are none of one linear layer: unpatch it")
    if isinstance(output, tuple):
        return tuple(value for value in output if not isinstance(value, DeferredLogits))
    return type(output)(**{key: value for key, value in output.items()
                           if not isinstance(value, DeferredLogits)})


def _bare(stock: Any, train_only: bool) -> Any:
    """An instance without a state, as unpickling needs it."""
    cls = _patched(stock, train_only)
    return cls.__new__(cls)
