"""What an engine is, what it is asked, and what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from .._arrays.exclusions import Exclusions
from .._arrays.files import Windows
from .._arrays.rows import Rows
from .._arrays.sparse import SparseRows
from .._arrays.sparse_x import SparseX
from ..results import Gradients


@dataclass(frozen=True, slots=True)
class Request:
    """What one pass over the classes should find out about each row.

    Everything here has been checked. The largest logit and its class are
    always found; the rest costs only where asked for.

    Attributes
    ----------
    dtype : dtype
        float32 or float64: of the computation and of all that comes back.
    sums : bool
        Find the softmax denominator. Whatever needs it (`lse`, `loss`,
        `entropy`, log-probabilities, a `write` other than "logits") sets it.
    targets : ndarray of int64, shape (m, j), or None
        Classes whose logits are wanted, C-contiguous; -1 stands for an ignored row.
    rank : bool
        Count the classes ranked before ``targets[:, 0]``.
    probs : ndarray of float, shape (m, n), or SparseRows, or Rows, or None
        Target distributions; any float dtype and layout. Rows where there is no view
        of all: `rows` makes an array of some.
    class_weight : ndarray, shape (n,), or None
        In `dtype`; multiplies `probs`, and is what `smooth` sums.
    smooth : bool
        Find ``sum(class_weight * -log p)``, of classes that are not excluded.
    k : int
        Keep the k best classes.
    entropy : bool
        Entropy of the softmax.
    square : bool
        What its variance is made of, with `entropy`.
    temperature : ndarray of float64, shape (m,), or None
        What the logits of each row are divided by, in place of the temperature of the layer,
        C-contiguous.
    known : ndarray, shape (m,), or None
        In `dtype`: logits of ``targets[:, 0]`` where a `Part` is to count ranks, as those classes
        may be others'. Targets are counted from its first class then, and may lie anywhere.
    exclude : Exclusions or None
        Classes whose logits are -inf, whatever they are. None of them is among the best, whose
        places are then left over: index -1, logit and log-probability -inf. A row with nothing
        left has argmax -1; an excluded target ranks behind all classes that are left.
    write : {None, "logits", "log_proba", "proba"}
        What to put in `out`.
    out : ndarray, shape (m, n), or None
        In `dtype`, rows contiguous.
    """

    dtype: np.dtype
    sums: bool = True
    targets: np.ndarray | None = None
    rank: bool = False
    probs: np.ndarray | SparseRows | Rows | None = None
    class_weight: np.ndarray | None = None
    smooth: bool = False
    k: int = 0
    entropy: bool = False
    square: bool = False
    temperature: np.ndarray | None = None
    known: np.ndarray | None = None
    exclude: Exclusions | None = None
    write: str | None = None
    out: np.ndarray | None = None

    @property
    def n_targets(self) -> int:
        """Targets of a row."""
        return 0 if self.targets is None else self.targets.shape[1]

    @property
    def only_best(self) -> bool:
        """Whether the largest logits and their classes are all that is asked for."""
        return self._asks_only("k", "exclude")

    @property
    def only_targets(self) -> bool:
        """Whether logits of targets are all that is asked for."""
        return self.targets is not None and self._asks_only("targets", "exclude", "temperature")

    def _asks_only(self, *names: str) -> bool:
        others = (getattr(self, field.name) for field in fields(self)
                  if field.name not in ("dtype", *names))
        return all(asked is None or (isinstance(asked, int) and not asked) for asked in others)

    def rows(self, block: slice) -> Request:
        """The same, asked about some of the rows."""
        return replace(
            self,
            targets=None if self.targets is None else self.targets[block],
            probs=None if self.probs is None else self.probs[block],
            temperature=None if self.temperature is None else self.temperature[block],
            known=None if self.known is None else self.known[block],
            exclude=None if self.exclude is None else self.exclude[block],
            out=None if self.out is None else self.out[block],
        )


# What a state has in place of an array that was not asked for. Whoever reads one has asked.
NOT_ASKED: Any = None


@dataclass(slots=True)
class State:
    """What a pass found out: arrays over the rows, NOT_ASKED where that is so.

    The softmax is held relative to the largest logit, and the class that has
    it is left out of the running sum: with ``rest = sum(exp(z - max))`` over
    all the other classes, ``-log p[c] = (max - z[c]) + log1p(rest)`` is a sum
    of two numbers that are not negative, so no digit cancels however sure the
    model is and however large an offset the logits share.

    Attributes
    ----------
    max : (m,)
        Largest logit; NaN in a row with a NaN.
    argmax : (m,) intp
        Its class: the lowest of equals, the first NaN where there is one.
    rest : (m,)
        See above; NaN or not where `log_norm` is NaN.
    log_norm : (m,)
        ``log1p(rest)``, that is ``lse - max``. NaN where the row has a NaN or
        +inf, or nothing but -inf.
    entropy : (m,)
    square : (m,)
        ``sum(exp(z - max) * (z - max)**2)``. The variance of the logits under the softmax is
        ``square / (1 + rest) - (log_norm - entropy)**2``.
    target_logit, target_loss : (m, j)
        NaN and 0 for target -1.
    target_rank : (m,) int64
        Classes with a larger logit, or an equal one and a lower index; a NaN
        ranks before every number. -1 for target -1, and in a row without a softmax.
    prob_sum, prob_loss : (m,)
        Sum of ``t``, the target distribution times the class weights, and
        ``sum(t * -log p)``; classes with ``t = 0`` contribute nothing.
    smooth_loss : (m,)
        ``sum(class_weight * -log p)``; likewise.
    top_index : (m, k) int64
    top_logit : (m, k)
        Best first, the lowest index among equals, a NaN before every number.
    top_log_prob : (m, k)
        ``(top_logit - max) - log_norm``, with `sums`.
    from_teacher, from_student : (m,) float64
        Divergence of what lies between two softmaxes from the teacher's, and from the student's:
        KL(q | m) and KL(p | m), see `Teacher`. One of them where the other is not needed.
    rescored : (m,) int32
        Classes computed exactly after screening, -1 where all were; None where
        nothing was screened.
    """

    max: np.ndarray = NOT_ASKED
    argmax: np.ndarray = NOT_ASKED
    rest: np.ndarray = NOT_ASKED
    log_norm: np.ndarray = NOT_ASKED
    entropy: np.ndarray = NOT_ASKED
    square: np.ndarray = NOT_ASKED
    target_logit: np.ndarray = NOT_ASKED
    target_loss: np.ndarray = NOT_ASKED
    target_rank: np.ndarray = NOT_ASKED
    prob_sum: np.ndarray = NOT_ASKED
    prob_loss: np.ndarray = NOT_ASKED
    smooth_loss: np.ndarray = NOT_ASKED
    top_index: np.ndarray = NOT_ASKED
    top_logit: np.ndarray = NOT_ASKED
    top_log_prob: np.ndarray = NOT_ASKED
    from_teacher: np.ndarray = NOT_ASKED
    from_student: np.ndarray = NOT_ASKED
    rescored: np.ndarray = NOT_ASKED

    @property
    def lse(self) -> np.ndarray:
        """Log of the sum of exp(z), (m,)."""
        return self.max + self.log_norm


@dataclass(slots=True)
class Part:
    """What is known of m rows after some of the classes, others of which can be merged with it.

    As in `State`, what was not asked for is NOT_ASKED.

    Attributes
    ----------
    sums : (spans, fields, m)
        Of each span of classes, as they follow each other, what is summed relative to its largest
        logit, and that first; `fold` merges them. In the precision of the computation, or in
        float64 all of it merged.
    max : (m,)
    argmax : (m,) int64
    rank : (m,) int64
        Classes before the target.
    target_logit : (m,)
        Anything where the target is none of these classes.
    top_logit, top_index : (m, k)
        Best classes, in an order of the engine's; index -1 stands for none.
    """

    sums: np.ndarray
    max: np.ndarray
    argmax: np.ndarray
    rank: np.ndarray = NOT_ASKED
    target_logit: np.ndarray = NOT_ASKED
    top_logit: np.ndarray = NOT_ASKED
    top_index: np.ndarray = NOT_ASKED


def gathered(m: int, parts: Iterable[tuple[slice, State]]) -> State:
    """Join the states of successive ranges of m rows."""
    whole = State()
    for rows, part in parts:
        if rows.stop - rows.start == m:
            return part
        for name in State.__slots__:
            values = getattr(part, name)
            if values is None:
                continue
            if rows.start == 0:
                setattr(whole, name, np.empty((m, *values.shape[1:]), values.dtype))
            getattr(whole, name)[rows] = values
    return whole


L = TypeVar("L", bound="Layer")  # an engine's own kind of layer


class Layer(Protocol):
    """A linear layer as an engine holds it; nothing about it changes.

    Attributes
    ----------
    n_classes, n_features : int
    dtype : dtype
        float32 or float64: what its weights are computed in.
    held : dtype
        As they are held: float16 and BFLOAT16 stay what they are.
    softcap, temperature : float
        0 for no cap.
    given : tuple
        The caller's arrays, where they may be in use.
    nbytes : int
        Bytes of arrays that are not the caller's.
    """

    @property
    def n_classes(self) -> int: ...
    @property
    def n_features(self) -> int: ...
    @property
    def dtype(self) -> np.dtype: ...
    @property
    def held(self) -> np.dtype: ...
    @property
    def softcap(self) -> float: ...
    @property
    def temperature(self) -> float: ...
    @property
    def given(self) -> tuple[np.ndarray | None, ...]: ...
    @property
    def nbytes(self) -> int: ...

    def unpack(self) -> tuple[np.ndarray, np.ndarray | None]:
        """Give a weight and a bias that make this layer again."""
        ...

    def take(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Give a weight and a bias that make a layer of some of its classes."""
        ...

    def tempered(self: L, temperature: float) -> L:
        """Make a layer of the same arrays with another temperature."""
        ...


# Fields of Scores up to entropy, and those of TopK.
ScoreFields = tuple[Any, Any, Any, Any, Any, Any, Any]
TopFields = tuple[Any, Any, Any]


class FewRows(Protocol):
    """A short way for calls of a few rows; each gives None for what is not for it."""

    def loss(self, x: object, target: object) -> np.ndarray | None: ...
    def predict(self, x: object) -> np.ndarray | None: ...
    def columns(self, x: object, write: str) -> np.ndarray | None: ...
    def topk(self, x: object, top: int, normalize: bool) -> TopFields | None: ...
    def score(
        self, x: object, target: object, top: int, entropy: bool
    ) -> tuple[ScoreFields, TopFields | None] | None: ...


# Of a row of G = d loss / d logits, times 1 / temperature:
# G[c] = softmax * p[c] - target * (c == y) - class_weight[c] * (probs * t[c] + smooth)
#        - entropy * p[c] * (log p[c] + H),
# or, where t is sparse and has an entry for c, given * class_weight[c] * t[c] unless given is 0;
# where what is smaller than the limit may be left out. H is the entropy, which is asked for then.
COEFFICIENTS = ("softmax", "target", "probs", "smooth", "entropy", "given", "limit")


class Backward(Protocol):
    """What makes coefficients of gradients from the states of rows.

    Attributes
    ----------
    filters : bool
        Tiles below the limits are to be left out.
    """

    @property
    def filters(self) -> bool: ...

    def take(self, state: State, rows: slice) -> np.ndarray:
        """Note the losses of some rows and give their COEFFICIENTS, (7, rows)."""
        ...


@dataclass(frozen=True, slots=True)
class Teacher(Generic[L]):
    """A head whose softmax q another's, p, is held against, as m rows of the same m.

    With m = beta q + (1 - beta) p, a divergence is beta KL(q | m) + (1 - beta) KL(p | m), and
    KL(q | p) for beta = 0 and KL(p | q) for beta = 1.
    """

    layer: L
    x: Rows | SparseX
    beta: float


class Engine(Protocol[L]):
    """What does the arithmetic: a module. Everything that comes in has been checked."""

    def available_isas(self) -> tuple[str, ...]:
        """Instruction sets that are built and run here, best first."""
        ...

    def active_isa(self) -> str:
        """Name the one in use."""
        ...

    def make_layer(
        self, weight: np.ndarray | Windows, bias: np.ndarray | None, *, softcap: float | None,
        temperature: float, pack: bool, screen: bool,
    ) -> L:
        """Make a layer of weight (n, k) and bias (n,)."""
        ...

    def few_rows(self, layer: L) -> FewRows | None:
        """Give the layer for calls of a few rows, where there is a short way."""
        ...

    def score(
        self, layer: L, x: np.ndarray | SparseX, request: Request, n_threads: int | None
    ) -> State:
        """Find out what `request` asks for about the rows of x (m, k)."""
        ...

    def score_logits(self, logits: np.ndarray, request: Request, n_threads: int | None) -> State:
        """Find out what `request` asks for about the rows of logits (m, n)."""
        ...

    def contract(self) -> str:
        """Version of the arithmetic; what two of them have made of a row is not to be mixed."""
        ...

    def span(self, dtype: np.dtype) -> int:
        """Classes whose sums are merged as one."""
        ...

    def part(
        self, layer: L, x: np.ndarray | SparseX, request: Request, apart: bool,
        n_threads: int | None,
    ) -> Part:
        """Find out what `request` asks for as far as it can be merged with other classes.

        Spans are kept `apart`, or merged where these are the first of all classes.
        """
        ...

    def target_logits(
        self, layer: L, x: np.ndarray | SparseX, request: Request, n_threads: int | None
    ) -> np.ndarray:
        """Find the logits of ``request.targets[:, 0]`` alone, (m,): all are classes there are."""
        ...

    def fold(self, request: Request, sums: np.ndarray | None, later: np.ndarray) -> np.ndarray:
        """Merge the sums (spans, fields, m) of a `Part` with those of all classes before it.

        These and the result are (fields, m) in float64; None stands for no classes.
        """
        ...

    def merge_top(self, part: Part, other: Part) -> tuple[np.ndarray, np.ndarray]:
        """Find the best classes of two, as a `Part` has them."""
        ...

    def finish(self, request: Request, n: int, sums: np.ndarray, part: Part) -> State:
        """All n classes have been merged: find what `score` does."""
        ...

    def empty(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """Memory for a gradient."""
        ...

    def gradients(
        self, layer: L, x: Rows | SparseX, request: Request, backward: Backward, grads: Gradients,
        accumulate: bool, workspace_bytes: int, n_threads: int | None,
        teacher: Teacher[L] | None = None,
    ) -> None:
        """Take the rows of x (m, k) in by `backward` and write the gradients into `grads`.

        ``grads.x`` is Rows where there is no view of all of them. With a teacher, the states that
        `backward` takes have divergences, and what "softmax" of its coefficients multiplies is
        their derivative; the other coefficients are 0.
        """
        ...

    def divergence(
        self, layer: L, x: Rows | SparseX, teacher: Teacher[L], dtype: np.dtype,
        take: Callable[[State, slice], object], workspace_bytes: int, n_threads: int | None,
    ) -> None:
        """Let `take` have the states, with divergences, of the rows of x, some after the other."""
        ...

    def neg_log(self, p: np.ndarray) -> np.ndarray:
        """``-log(p)``, contiguous in one dimension."""
        ...

    def neg_log_sum(self, p: np.ndarray, t: np.ndarray) -> np.ndarray:
        """``-sum(t * log(p))`` of each row; entries with t = 0 contribute nothing."""
        ...

    def spin_fma(self, dtype: np.dtype, rounds: int) -> float:
        """Keep one core's multiply-add units busy; returns the flops done."""
        ...

    def spin_bf16(self, rounds: int) -> float:
        """Multiply bfloat16 as fast as one core can; flops done, 0 where nothing does that."""
        ...

    def spin_int8(self, rounds: int) -> float:
        """Multiply bytes as fast as one core can; operations done, 0 where nothing does that."""
        ...

    def spin_read(self, memory: np.ndarray, streams: int) -> None:
        """Read an array of float64 once, so many parts of it side by side."""
        ...

    def bf16_name(self) -> str:
        """Name what multiplies bfloat16; empty where nothing does."""
        ...

    def int8_name(self) -> str:
        """Name what multiplies bytes; empty where nothing does."""
        ...
