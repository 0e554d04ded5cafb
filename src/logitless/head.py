"""LinearHead: weights once, many calls."""

from __future__ import annotations

from functools import partial

import numpy as np

from ._backend import engine
from ._pass import Pass, losses_of
from ._request import Request
from ._results import Scores, TopK, top_of
from ._sample import draw
from ._validate import (
    Rows,
    check_candidates,
    check_integer,
    check_positive,
    check_target,
    check_weight,
    check_x,
    compute_dtype,
)


class LinearHead:
    """The last layer of a classifier, scored without ever holding its logits.

    The logits of an input row are ``z = x @ weight.T + bias``, then
    ``softcap * tanh(z / softcap)`` where `softcap` is given, then divided by
    `temperature`; all methods are about their softmax.

    Parameters
    ----------
    weight : array_like, shape (n, k)
        One row per class, as in ``torch.nn.Linear`` and scikit-learn's ``coef_``.
        float32 and float64 are computed in their own precision; float16,
        bfloat16, bool and 8- and 16-bit integers in float32; 32- and 64-bit
        integers in float64. The precision of a call is the wider of those of
        `weight` and `x`.
    bias : array_like, shape (n,), optional
    softcap : float, optional
        Positive bound of the logits.
    temperature : float, default 1.0
        Positive.
    pack : bool, default True
        Hold a copy of the weights laid out for speed: later changes of
        `weight` have no effect. Otherwise refer to the arrays given, without a
        copy where the kernels can read them: leave them as they are while the
        head is in use.
    screen : None
        Reserved.
    n_threads : int, optional
        Threads a call may use; by default what `logitless.threads`,
        ``LOGITLESS_NUM_THREADS`` or the machine says.

    Raises
    ------
    ValueError
        Shapes that do not fit, or an option out of range.
    TypeError
        A dtype that is not listed above.

    Notes
    -----
    Every method takes `x` of shape (..., k) and any layout, and gives results
    with that leading shape, written (m,) below; a single row (k,) gives scalars
    or a single row. Inputs are never written. Beyond its result a call needs a
    few MB, whatever m and n.

    ``-log p[c] = (max(z) - z[c]) + log1p(rest)`` with ``rest`` the sum of
    ``exp(z - max(z))`` over all classes but the largest: no digit cancels, so
    losses keep full relative precision down to the smallest. A logit of -inf is
    a class that cannot happen; a row with a NaN or +inf, or nothing but -inf,
    has NaN for all that depends on its softmax, and touches no other row.

    A head may be used by several threads at once, copied and pickled.

    The sum is found in one pass by keeping the running maximum, as in
    M. Milakov and N. Gimelshein, "Online normalizer calculation for softmax",
    2018, arXiv:1805.02867.

    Examples
    --------
    >>> import numpy as np
    >>> import logitless as ll
    >>> head = ll.LinearHead(np.eye(3))
    >>> head.predict_proba([1.0, 2.0, 3.0]).round(2)
    array([0.09, 0.24, 0.67])
    >>> head.loss([[1.0, 2.0, 3.0]], [2]).round(4)
    array([0.4076])
    """

    def __init__(
        self,
        weight,
        bias=None,
        *,
        softcap: float | None = None,
        temperature: float = 1.0,
        pack: bool = True,
        screen: None = None,
        n_threads: int | None = None,
    ):
        weight, bias = check_weight(weight, bias)
        if softcap is not None:
            softcap = check_positive(softcap, "softcap")
        temperature = check_positive(temperature, "temperature")
        if screen is not None:
            raise ValueError(f"`screen` must be None in this version, got {screen!r}")
        if n_threads is not None:
            n_threads = check_integer(n_threads, "n_threads", 1)
        self._options = {
            "softcap": softcap,
            "temperature": temperature,
            "pack": bool(pack),
            "n_threads": n_threads,
        }
        self._layer = engine.make_layer(
            weight, bias, softcap=softcap, temperature=temperature, pack=bool(pack)
        )
        self._score = partial(engine.score, self._layer)
        self._n_classes, self._n_features = weight.shape
        self._dtype = compute_dtype(weight.dtype, "weight")
        self._n_threads = n_threads

    @property
    def n_classes(self) -> int:
        """Number of classes, n."""
        return self._n_classes

    @property
    def n_features(self) -> int:
        """Number of features of a row, k."""
        return self._n_features

    @property
    def dtype(self) -> np.dtype:
        """float32 or float64: the precision the weights are computed in."""
        return self._dtype

    @property
    def nbytes(self) -> int:
        """Bytes the head itself holds: its packed weights, or next to nothing."""
        return self._layer.nbytes

    def loss(self, x, target, *, reduction: str = "none", ignore_index: int = -100, out=None):
        """Softmax cross entropy: ``-log(softmax(z)[target])``.

        With class probabilities ``t`` as target it is
        ``sum(t) * lse(z) - sum(t * z)``, each row of ``t`` used as given.

        Parameters
        ----------
        x : array_like, shape (m, k)
        target : array_like
            Class indices (m,) of any integer dtype, or class probabilities
            (m, n) of a float dtype: finite, not negative, not necessarily
            summing to 1. Rows that are exactly one-hot give the same bits as
            the index.
        reduction : {"none", "sum", "mean", "batch_mean"}
            The loss of each row; their sum; the sum divided by the number of
            rows that are not ignored; the sum divided by m. Sums are taken in
            float64.
        ignore_index : int, default -100
            Rows with this class index have loss 0 and do not count in "mean".
        out : ndarray, optional
            Where the result goes: in its shape and dtype. Written last, so it
            may overlap the inputs.

        Returns
        -------
        ndarray, shape (m,), or scalar
            In nats. "mean" of no rows that count is NaN, with a RuntimeWarning.

        Raises
        ------
        IndexError
            An index outside [0, n) that is not `ignore_index`: names the first.
        ValueError
            Shapes that do not fit, probabilities that are negative or not
            finite, an unknown `reduction`.
        TypeError
            A dtype that cannot be used.

        Examples
        --------
        >>> import numpy as np
        >>> import logitless as ll
        >>> head = ll.LinearHead(np.eye(3))
        >>> x = np.array([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0], [40.0, 0.0, 0.0]])
        >>> head.loss(x, [2, -100, 0])
        array([4.07605964e-01, 0.00000000e+00, 8.49670851e-18])
        >>> float(head.loss(x, [2, -100, 0], reduction="mean").round(6))
        0.203803
        """
        return self._pass(x).loss(target, reduction, ignore_index, out)

    def predict(self, x):
        """``argmax(z)``: the class of the largest logit, the lowest of equals.

        Parameters
        ----------
        x : array_like, shape (m, k)

        Returns
        -------
        ndarray of intp, shape (m,)
            In a row with NaN logits, the first of those.

        Examples
        --------
        >>> import numpy as np
        >>> import logitless as ll
        >>> ll.LinearHead(np.eye(3)).predict([[1.0, 2.0, 3.0], [5.0, 5.0, 0.0]])
        array([2, 0])
        """
        rows = self._pass(x)
        return rows.shaped(rows.run(Request(sums=False)).argmax)

    def predict_proba(self, x):
        """``softmax(z) = exp(z) / sum(exp(z))``.

        Parameters
        ----------
        x : array_like, shape (m, k)

        Returns
        -------
        ndarray, shape (m, n)
            Probabilities; the result has as many entries as there are logits.

        Examples
        --------
        >>> import numpy as np
        >>> import logitless as ll
        >>> ll.LinearHead(np.eye(3)).predict_proba([[1.0, 2.0, 3.0]]).round(4)
        array([[0.09  , 0.2447, 0.6652]])
        """
        return self._columns(x, "proba")

    def predict_log_proba(self, x):
        """``log(softmax(z)) = z - log(sum(exp(z)))``, as precise as `loss`.

        Parameters
        ----------
        x : array_like, shape (m, k)

        Returns
        -------
        ndarray, shape (m, n)
            In nats; the result has as many entries as there are logits.

        Examples
        --------
        >>> import numpy as np
        >>> import logitless as ll
        >>> ll.LinearHead(np.eye(3)).predict_log_proba([[1.0, 2.0, 3.0]]).round(4)
        array([[-2.4076, -1.4076, -0.4076]])
        """
        return self._columns(x, "log_proba")

    def logits(self, x):
        """``z = x @ weight.T + bias``, capped and divided by the temperature.

        Parameters
        ----------
        x : array_like, shape (m, k)

        Returns
        -------
        ndarray, shape (m, n)

        Examples
        --------
        >>> import numpy as np
        >>> import logitless as ll
        >>> head = ll.LinearHead([[1.0, 0.0], [1.0, 1.0]], [0.5, 0.0], temperature=2.0)
        >>> head.logits([[3.0, 4.0]])
        array([[1.75, 3.5 ]])
        """
        return self._columns(x, "logits")

    def topk(self, x, k: int, *, normalize: bool = True) -> TopK:
        """Find the `k` classes with the largest logits: best first, the lowest index among equals.

        Parameters
        ----------
        x : array_like, shape (m, k)
        k : int
            1 to n.
        normalize : bool, default True
            Give log-probabilities too. Without them no exponential is computed.

        Returns
        -------
        TopK
            `index`, `logit` and `log_prob`, each (m, k).

        Raises
        ------
        ValueError
            `k` outside [1, n].

        Examples
        --------
        >>> import numpy as np
        >>> import logitless as ll
        >>> top = ll.LinearHead(np.eye(3)).topk([[1.0, 2.0, 3.0]], 2)
        >>> top.index, top.logit, top.log_prob.round(4)
        (array([[2, 1]]), array([[3., 2.]]), array([[-0.4076, -1.4076]]))
        """
        k = check_integer(k, "k", 1, self._n_classes)
        rows = self._pass(x)
        return _shaped_top(top_of(rows.run(Request(sums=normalize, k=k)), normalize), rows)

    def logsumexp(self, x):
        """``log(sum(exp(z)))`` of each row.

        Parameters
        ----------
        x : array_like, shape (m, k)

        Returns
        -------
        ndarray, shape (m,)

        Examples
        --------
        >>> import numpy as np
        >>> import logitless as ll
        >>> ll.LinearHead(np.eye(3)).logsumexp([[1.0, 2.0, 3.0]]).round(4)
        array([3.4076])
        """
        rows = self._pass(x)
        return rows.shaped(rows.run(Request()).lse)

    def target_log_prob(self, x, target, *, ignore_index: int = -100):
        """``log(softmax(z)[target])``: minus the loss.

        Parameters
        ----------
        x : array_like, shape (m, k)
        target : array_like
            As for `loss`; or classes (m, j) of an integer dtype: j candidates
            for each row.
        ignore_index : int, default -100
            Rows of targets (m,) with this index give 0. No candidate is ignored.

        Returns
        -------
        ndarray, shape (m,) or (m, j)
            In nats.

        Raises
        ------
        IndexError, ValueError, TypeError
            As `loss`.

        Examples
        --------
        >>> import numpy as np
        >>> import logitless as ll
        >>> head = ll.LinearHead(np.eye(3))
        >>> head.target_log_prob([[1.0, 2.0, 3.0]], [2]).round(4)
        array([-0.4076])
        >>> head.target_log_prob([[1.0, 2.0, 3.0]], [[2, 0]]).round(4)
        array([[-0.4076, -2.4076]])
        """
        rows = self._pass(x)
        candidates = check_candidates(target, rows.rows.lead, self._n_classes)
        if candidates is None:
            losses = rows.loss(target, "none", ignore_index, None)
        else:
            losses = rows.shaped(rows.run(Request(targets=candidates)).target_loss)
        return losses.dtype.type(0) - losses  # not a negation: the loss 0 gives 0, not -0

    def sample(self, x, rng, size: int = 1):
        """Draw `size` classes for each row, with replacement, from ``softmax(z)``.

        The class of the largest ``z - log(e)`` with ``e`` standard exponential:
        the Gumbel-max trick.

        Parameters
        ----------
        x : array_like, shape (m, k)
        rng : numpy.random.Generator, int or None
            The source of randomness, or its seed. The numbers are drawn row by
            row, draw by draw, class by class: the same state gives the same
            classes.
        size : int, default 1

        Returns
        -------
        ndarray of intp, shape (m, size)
            A class whose logit is -inf is never drawn.

        Raises
        ------
        ValueError
            A row whose logits hold a NaN or +inf, or nothing but -inf, names
            no distribution; or `size` is negative.

        Examples
        --------
        >>> import numpy as np
        >>> import logitless as ll
        >>> head = ll.LinearHead(np.eye(3), [0.0, -np.inf, 0.0])
        >>> drawn = head.sample([[1.0, 9.0, 1.0]], 0, size=1000)
        >>> drawn.shape, np.unique(drawn)
        ((1, 1000), array([0, 2]))
        """
        size = check_integer(size, "size", 0)
        rows = self._pass(x)
        return rows.shaped(draw(rows, np.random.default_rng(rng), size))

    def score(
        self, x, target=None, *, k: int = 0, entropy: bool = False, ignore_index: int = -100
    ) -> Scores:
        """Everything about each row, from one pass over the weights.

        Parameters
        ----------
        x : array_like, shape (m, k)
        target : array_like, optional
            As for `loss`.
        k : int, default 0
            How many of the best classes to give.
        entropy : bool, default False
            Give the entropy of the softmax.
        ignore_index : int, default -100
            As for `loss`.

        Returns
        -------
        Scores

        Raises
        ------
        IndexError, ValueError, TypeError
            As `loss` and `topk`.

        Examples
        --------
        >>> import numpy as np
        >>> import logitless as ll
        >>> head = ll.LinearHead(np.eye(3))
        >>> scores = head.score([[1.0, 2.0, 3.0], [1.0, 0.0, 0.0]], [2, 1], entropy=True)
        >>> scores.loss.round(4), scores.target_rank, scores.accuracy
        (array([0.4076, 1.5514]), array([0, 1]), 0.5)
        >>> scores.entropy.round(4)
        array([0.8324, 0.9753])
        """
        k = check_integer(k, "k", 0, self._n_classes)
        rows = self._pass(x)
        request = Request(k=k, entropy=bool(entropy))
        if target is None:
            state = rows.run(request)
            loss = target_logit = target_rank = None
        else:
            targets = check_target(
                target, rows.rows.lead, self._n_classes, rows.dtype, ignore_index
            )
            request.targets = targets.index
            request.rank = targets.probs is None
            state = rows.run(request, targets.probs)
            loss = rows.shaped(losses_of(state, targets))
            target_logit = target_rank = None
            if request.rank:
                target_logit = rows.shaped(state.target_logit[:, 0])
                target_rank = rows.shaped(state.target_rank)
        return Scores(
            loss=loss,
            lse=rows.shaped(state.lse),
            target_logit=target_logit,
            target_rank=target_rank,
            predicted=rows.shaped(state.argmax),
            max_logit=rows.shaped(state.max),
            entropy=rows.shaped(state.entropy) if entropy else None,
            top=_shaped_top(top_of(state, True), rows) if k else None,
        )

    def _pass(self, x) -> Pass:
        x = check_x(x, self._n_features)
        dtype = compute_dtype(x.dtype, "x")
        if dtype.itemsize < self._dtype.itemsize:
            dtype = self._dtype
        return Pass(Rows(x), self._n_classes, dtype, self._score, self._n_threads)

    def _columns(self, x, write: str) -> np.ndarray:
        rows = self._pass(x)
        return rows.shaped(rows.columns(write))

    def __repr__(self) -> str:
        options = "".join(f", {name}={value}" for name, value in self._options.items())
        return (
            f"LinearHead(n_classes={self._n_classes}, n_features={self._n_features}, "
            f"dtype={self._dtype}{options})"
        )

    def __copy__(self) -> LinearHead:
        return self  # nothing about a head can change

    def __reduce__(self):
        weight, bias = self._layer.unpack()
        return _remake, (type(self), weight, bias, self._options)


def _remake(cls: type[LinearHead], weight, bias, options: dict) -> LinearHead:
    return cls(weight, bias, **options)


def _shaped_top(top: TopK, rows: Pass) -> TopK:
    log_prob = None if top.log_prob is None else rows.shaped(top.log_prob)
    return TopK(rows.shaped(top.index), rows.shaped(top.logit), log_prob)
