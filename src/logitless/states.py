"""RowState: what is known of rows after some of the classes, to be merged with others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ._arrays.checks import check_flag, check_integer
from ._arrays.sparse_x import as_rows, check_rows
from ._calls import merged_parts, parts, pickled_parts
from ._calls.batch import shaped, top_of
from ._calls.objective import shifted
from ._calls.options import LossOptions, parted, spelled_out
from .head import LinearHead
from .results import Scores, TopK

if TYPE_CHECKING:
    from numpy.typing import ArrayLike
    from typing_extensions import Unpack

    from ._arrays.checks import TargetLike, Values
    from ._calls.options import HeadAndLossKeywords

_MOST_BEST = 1 << 40  # what NumPy can still be asked to have memory for
_SPAN = 4096  # classes: whole spans of either precision


def shard_bounds(n: int, parts: int) -> list[int]:
    """Where to cut `n` classes into `parts` so that merged states have the bits of one head.

    Parameters
    ----------
    n : int
        Number of classes.
    parts : int
        How many shards, each of at least one class: at most ``ceil(n / 4096)``.

    Returns
    -------
    list of int
        ``parts + 1`` classes: shard i has those from the i-th to the next. All are multiples of
        4,096 but the last, which is n; shards differ by one span of 4,096 at most.

    Raises
    ------
    ValueError
        There are fewer spans than parts, or none are asked for.
    TypeError
        A number that is none.

    Examples
    --------
    >>> import logitless as ll
    >>> ll.shard_bounds(20_000, 3)
    [0, 4096, 12288, 20000]
    """
    n = check_integer(n, "n", 1)
    spans = -(-n // _SPAN)
    parts = check_integer(parts, "parts", 1)
    if parts > spans:
        raise ValueError(f"`parts` must be at most {spans} for {n} classes, which are cut every "
                         f"{_SPAN}, got {parts}")
    return [*(i * spans // parts * _SPAN for i in range(parts)), n]


class RowState:
    """What is known of rows after some of the classes: states of others can be merged with it.

    Made by `of`, for any range of classes: of a head that is larger than memory, on several
    machines, or one after the other in a job that may be interrupted. Merged over all classes it
    gives what `LinearHead.score` finds.

    Notes
    -----
    Bits are those of one head with all classes where each range begins at a multiple of 4,096, as
    `shard_bounds` has them (of float64, 2,048 will do), in whatever order states are merged, on
    whatever machines. Elsewhere they are the same to rounding: the classes of a range are summed
    span after span from its first on, and ranges merged by their classes. So they are for plain
    NumPy.

    Memory: what is ordered (largest logit, target, best classes) is reduced at once, to some 30
    bytes a row and 12 or 16 a best class. Sums are kept for each span of 4,096 classes (2,048 of
    float64) until all classes before it are there: two numbers of the computation's precision a
    row, one more with an entropy, two with class probabilities, two with label smoothing. Then they
    are merged into as many float64: a state of all classes up to some number takes the same
    whatever that is. A pickle has as many bytes.

    A state is not changed by another being merged with it; ``copy.copy(state)`` takes no time, and
    what is merged with the copy leaves `state` as it is.

    Pickles are read by the version of the package, and the arithmetic, that wrote them.

    The merge is that of M. Milakov and N. Gimelshein, "Online normalizer calculation for softmax",
    2018, arXiv:1805.02867.

    Examples
    --------
    >>> import numpy as np
    >>> import logitless as ll
    >>> rng = np.random.default_rng(0)
    >>> x, weight = rng.standard_normal((3, 8)), rng.standard_normal((10_000, 8))
    >>> first, middle, last, n = ll.shard_bounds(10_000, 3)
    >>> state = ll.RowState.of(x, weight[middle:last], first=middle, k=2)
    >>> state.merge(ll.RowState.of(x, weight[last:n], first=last, k=2))
    RowState(rows=(3,), classes=[(4096, 10000)], dtype=float64)
    >>> state.merge(ll.RowState.of(x, weight[:middle], k=2)).scores().predicted
    array([ 133, 3572, 5495])
    >>> ll.linear_argmax(x, weight)
    array([ 133, 3572, 5495])
    """

    __slots__ = ("_held",)
    _held: parts.Held

    def __init__(self) -> None:
        raise TypeError("a RowState is made by `RowState.of`")

    @staticmethod
    @spelled_out(LossOptions, LinearHead, pack=False)
    def of(
        x: ArrayLike,
        weight: ArrayLike | LinearHead,
        bias: ArrayLike | None = None,
        *,
        first: int = 0,
        target: TargetLike | None = None,
        k: int = 0,
        entropy: bool = False,
        target_logit: ArrayLike | None = None,
        **options: Unpack[HeadAndLossKeywords],
    ) -> RowState:
        """Find the state of rows after classes [first, first + n) of all there are.

        Parameters
        ----------
        x : array_like, shape (m, k)
            Any leading shape; see `LinearHead` for dtypes and layouts.
        weight : array_like, shape (n, k), or LinearHead
            Of these classes alone. A head has the bias and its options.
        bias : array_like, shape (n,), optional
        first : int, default 0
            Number of the first class.
        target : array_like, optional
            Class indices (m,) in the numbering of all classes, any of them; or class probabilities
            (m, n) of these. As for `LinearHead.loss` else.
        k : int, default 0
            How many of the best classes to give in the end: there may be fewer here.
        entropy : bool, default False
            Give the entropy of the softmax.
        target_logit : array_like, shape (m,), optional
            Logits of the targets, of those that are none of these classes, as `target_logits`
            finds them. With it, ranks of all targets are counted. Without, ranks are those of a
            state whose classes have the targets of all rows: `target_rank` is None else.
        **options
            Options of `LinearHead`, `pack` being False unless given, and of `LinearHead.score`. Of
            `class_weight` the n of these classes.

        Returns
        -------
        RowState
            Of these classes.

        Raises
        ------
        IndexError, ValueError, TypeError
            As `LinearHead` and `LinearHead.score`.

        Notes
        -----
        Beyond the state a call takes as little memory as `LinearHead.score`.

        Examples
        --------
        >>> import numpy as np
        >>> import logitless as ll
        >>> state = ll.RowState.of([[1.0, 2.0]], np.eye(2), target=[1])
        >>> state.scores().loss.round(4)
        array([0.3133])
        """
        of_head, of_loss = parted("RowState.of", options)
        head = _head("RowState.of", weight, bias, of_head)
        checked = LossOptions.of("RowState.of", of_loss)
        first = check_integer(first, "first", 0, parts.MOST - head.n_classes)
        k = check_integer(k, "k", 0, _MOST_BEST)
        entropy = check_flag(entropy, "entropy")
        if type(checked.shift) is not int or checked.shift:
            x, target, checked = shifted(check_rows(x, head.n_features), target, checked)
        rows, dtype = head._checked(x)
        return _state(parts.score_part(
            head._layer, as_rows(rows), dtype, first, target, k, entropy, target_logit,
            checked, head._n_threads))

    @staticmethod
    def target_logits(
        x: ArrayLike,
        weight: ArrayLike | LinearHead,
        target: ArrayLike,
        bias: ArrayLike | None = None,
        *,
        first: int = 0,
        ignore_index: int = -100,
        temperature: ArrayLike = 1.0,
        **options: Any,
    ) -> np.ndarray:
        """Find logits of those targets that are among classes [first, first + n).

        Ranks are counted against the logit of the target, which only the classes with it know:
        ``np.fmax`` of what all ranges find is the `target_logit` of `of`. It takes the time of
        reading a weight a row.

        Parameters
        ----------
        x : array_like, shape (m, k)
        weight : array_like, shape (n, k), or LinearHead
        target : array_like, shape (m,)
            Class indices in the numbering of all classes.
        bias : array_like, shape (n,), optional
        first : int, default 0
            Number of the first class.
        ignore_index, temperature, **options
            As for `of`: `softcap`, `pack`, `n_threads`.

        Returns
        -------
        ndarray, shape (m,)
            NaN where the target is another class, or ignored.

        Raises
        ------
        IndexError, ValueError, TypeError
            As `of`.

        Examples
        --------
        >>> import numpy as np
        >>> import logitless as ll
        >>> ll.RowState.target_logits([[1.0, 2.0], [3.0, 4.0]], np.eye(2), [5, 1], first=4)
        array([ 2., nan])
        """
        of_head, of_loss = parted("RowState.target_logits",
                                  {"temperature": temperature, **options})
        head = _head("RowState.target_logits", weight, bias, of_head)
        first = check_integer(first, "first", 0, parts.MOST - head.n_classes)
        checked, dtype = head._checked(x)
        rows = as_rows(checked)
        return shaped(parts.logits_of_targets(
            head._layer, rows, dtype, first, target, ignore_index,
            of_loss.get("temperature"), head._n_threads), rows.lead)

    def merge(self, other: RowState) -> RowState:
        """Take in what is known of other classes.

        Parameters
        ----------
        other : RowState
            Of the same rows, with the same targets and options, and of none of the same classes. It
            stays as it is.

        Returns
        -------
        RowState
            This state.

        Raises
        ------
        ValueError
            States of the same classes, or of other rows, targets, options or dtypes: nothing has
            changed then.
        TypeError
            `other` is no RowState.

        Examples
        --------
        >>> import numpy as np
        >>> import logitless as ll
        >>> state = ll.RowState.of([[1.0, 2.0]], [[0.0, 1.0]], first=1)
        >>> state.merge(ll.RowState.of([[1.0, 2.0]], [[1.0, 0.0]])).scores().lse.round(4)
        array([2.3133])
        """
        if not isinstance(other, RowState):
            raise TypeError(f"`other` must be a RowState, got {type(other).__name__}")
        self._held = merged_parts.merge(self._held, other._held)
        return self

    def scores(self) -> Scores:
        """Everything about each row, when all classes have been merged.

        Returns
        -------
        Scores
            As of `LinearHead.score`; `target_rank` may be None, see `of`.

        Raises
        ------
        ValueError
            Classes are missing before others that are there, or `k` is larger than their number.
            (Whether there should be more behind the last, a state does not know.)
        IndexError
            A target is none of the classes.

        Notes
        -----
        The state can still be merged with later classes.

        Examples
        --------
        >>> import numpy as np
        >>> import logitless as ll
        >>> ll.RowState.of([[1.0, 2.0]], np.eye(2), k=1).scores().top.index
        array([[1]])
        """
        state, loss, logit, rank = merged_parts.finish(self._held)
        agreed = self._held.agreed

        def of_rows(values: np.ndarray | None) -> Values:
            return None if values is None else shaped(values, agreed.shape)

        top = None
        if agreed.k:
            best = top_of(state)
            top = TopK(of_rows(best.index), of_rows(best.logit), of_rows(best.log_prob))
        return Scores(
            loss=of_rows(loss), lse=of_rows(state.lse), target_logit=of_rows(logit),
            target_rank=of_rows(rank), predicted=of_rows(state.argmax),
            max_logit=of_rows(state.max), top=top,
            entropy=of_rows(state.entropy) if agreed.entropy else None)

    @property
    def classes(self) -> list[tuple[int, int]]:
        """Ranges of classes that are there, each up to the next that is missing."""
        joined: list[tuple[int, int]] = []
        for first, last in self._held.ranges:
            if joined and joined[-1][1] == first:
                first, _ = joined.pop()
            joined.append((first, last))
        return joined

    @property
    def nbytes(self) -> int:
        """Bytes of its arrays."""
        return parts.nbytes(self._held)

    def __copy__(self) -> RowState:
        return _state(self._held)

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (pickled_parts.made_by(), pickled_parts.written(self._held))

    def __repr__(self) -> str:
        agreed = self._held.agreed
        return f"RowState(rows={agreed.shape}, classes={self.classes}, dtype={agreed.dtype})"


def _state(held: parts.Held) -> RowState:
    state = object.__new__(RowState)
    state._held = held
    return state


def _restored(maker: object, contents: object) -> RowState:
    return _state(pickled_parts.read(maker, contents))


def _head(function: str, weight: Any, bias: Any, options: dict[str, Any]) -> LinearHead:
    """The head of some classes, given or made for the call."""
    if not isinstance(weight, LinearHead):
        return LinearHead(weight, bias, **{"pack": False, **options})
    if bias is not None or options:
        given = ", ".join(["bias"] * (bias is not None) + list(options))
        raise TypeError(f"{function}() takes the head as it is, got it with {given}")
    return weight
