"""LinearHead: weights once, many calls."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from ._arrays.bfloat16 import outside
from ._arrays.checks import (
    check_direct_out,
    check_divisor,
    check_flag,
    check_integer,
    check_positive,
    check_weight,
    compute_dtype,
)
from ._arrays.exclusions import Exclusions, check_exclude
from ._arrays.files import check_mapped
from ._arrays.rows import Rows
from ._arrays.sparse_x import SparseX, as_rows, check_rows
from ._calls.batch import Batch, check_loss_out, given_loss, screen_stats, top_of
from ._calls.candidates import best_of, check_ranked
from ._calls.coefficients import head_arrays, module_arrays
from ._calls.divergence import WORKSPACE_BYTES as DIVERGENCE_BYTES
from ._calls.divergence import Divergence, kl_div
from ._calls.divergence import value_and_grad as divergence_value_and_grad
from ._calls.objective import Objective, check_temperature, shifted
from ._calls.options import DEFAULTS, LossOptions, has_axes, spelled_out
from ._calls.sampling import draw, generator
from ._calls.targets import check_candidates, check_taken
from ._calls.topk_divergence import TopKDivergence
from ._calls.value_and_grad import NAMES, WORKSPACE_BYTES, value_and_grad
from ._engines.choice import engine
from ._engines.interface import Request, State
from .results import Gradients, Scores, ScreenStats, TopK

if TYPE_CHECKING:
    from numpy.typing import ArrayLike
    from typing_extensions import Unpack

    from ._arrays.checks import ExcludeLike, TargetLike, Values
    from ._calls.options import HeadKeywords, LossKeywords


_MOST_DRAWN = 1 << 40  # a row: what NumPy can still be asked to have memory for
_NONE = "none"  # the same object wherever it is spelled out; any other takes the longer way


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
        `weight` and `x`. float16 and bfloat16 (that of ml_dtypes or torch) are held as
        narrow as they come, and widened where they are used: the bits are those of the
        widened weights. Rows of bfloat16 against weights of bfloat16 are multiplied
        exactly and added in float32, by the processor's instructions for that where it
        has any.
    bias : array_like, shape (n,), optional
    softcap : float, optional
        Positive bound of the logits. A logit of -inf stays what it is.
    temperature : float, default 1.0
        Positive. Neither it nor the cap may be smaller than the smallest normal number
        of the weights' precision, 1.2e-38 in float32. `loss`, `value_and_grad`, `score`
        and `target_log_prob` take one for each row.
    pack : bool, default True
        Hold a copy of the weights laid out for speed: later changes of
        `weight` have no effect. It takes as long as reading them a few times, and
        their size (integers that of the precision of the head): worth it for many calls, for those
        of a few rows above all, and hardly ever for a single one. Otherwise refer to
        the arrays given, without a copy where the kernels can read them: leave them as
        they are while the head is in use.
    screen : {None, "int8"}
        With "int8", `predict` and `topk` first go through a copy of the weights in
        bytes, which tells of nearly all classes that they cannot be among the best,
        and compute the others as always: the results are the same bits, several
        times sooner where classes are many. For `topk` this takes
        ``normalize=False``, and `k` up to 1,024 and a 128th of the classes that count; of
        more than 64 rows must be few, or classes and features many, for it to pay. Rows
        for which too many classes are left are computed without it.
        The copy takes a byte and a half a weight and 16 bytes a class. Needs `pack`. Everything
        else is as without: whatever a softmax is part of needs all classes, `score` too.
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
    or a single row. `x` may also be a SciPy sparse matrix or array (m, k) of any format, read
    as CSR: a call then costs as much as there are entries, and results are those of dense
    rows, to the sign of a zero. Inputs are never written. Beyond its result a call needs a
    few MB a thread, whatever m and n, and whatever must be converted on the way.

    An `x` that is neither in memory nor a frame, but has `shape`, `dtype` and slices, as
    data sets of h5py and arrays of zarr have, is read some MB at a time, in whole chunks
    where it is stored in chunks of up to 16 MB; the results are the bits of those of an
    array. What goes wrong in reading comes out as it is: an `out` of as many columns as
    there are classes then holds the rows before, any other what it held.

    Bad arguments leave `out` as it was. A call that a MemoryError or Ctrl-C ends may have
    left anything in the `out` of a matrix or of gradients; any other holds what it held.

    ``-log p[c] = (max(z) - z[c]) + log1p(rest)`` with ``rest`` the sum of
    ``exp(z - max(z))`` over all classes but the largest: no digit cancels, so
    losses keep full relative precision down to the smallest. A logit of -inf is
    a class that cannot happen; a row with a NaN or +inf, or nothing but -inf,
    has NaN for all that depends on its softmax, and touches no other row.

    A head may be used by several threads at once, copied and pickled.

    Why a screen loses no class: the error of the products of bytes is bounded by
    the Cauchy-Schwarz inequality, the rounding of the exact logits and of the
    bounds themselves included; docs/screening.md in the sources has the proof.

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
        weight: ArrayLike,
        bias: ArrayLike | None = None,
        *,
        softcap: float | None = None,
        temperature: float = 1.0,
        pack: bool = True,
        screen: str | None = None,
        n_threads: int | None = None,
    ):
        weight, bias = check_weight(weight, bias)
        if softcap is not None:
            softcap = check_positive(softcap, "softcap")
        if has_axes(temperature):
            raise TypeError("`temperature` of a head must be a number, got "
                            f"{type(temperature).__name__}: `loss`, `value_and_grad`, `score` and "
                            "`target_log_prob` take one for each row")
        temperature = check_positive(temperature, "temperature")
        _check_scale(softcap, temperature, compute_dtype(weight.dtype, "weight"))
        pack = check_flag(pack, "pack")
        _check_screen(screen, pack)
        if n_threads is not None:
            n_threads = check_integer(n_threads, "n_threads", 1)
        self._options = {
            "softcap": softcap,
            "temperature": temperature,
            "pack": pack,
            "screen": screen,
            "n_threads": n_threads,
        }
        self._hold(engine.make_layer(
            weight, bias, softcap=softcap, temperature=temperature, pack=pack,
            screen=screen is not None,
        ))
        self._n_classes, self._n_features = self._layer.n_classes, self._layer.n_features
        self._dtype = compute_dtype(weight.dtype, "weight")
        self._n_threads = n_threads

    def _hold(self, layer: Any) -> None:
        self._layer = layer
        self._score = partial(engine.score, layer)
        self._few_rows = engine.few_rows(layer)
        self._stats = None if self._options["screen"] is None else screen_stats(State())

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
        """The precision the weights are computed in, float32 or float64."""
        return self._dtype

    @property
    def weight_dtype(self) -> np.dtype:
        """The dtype the weights are held in: float16 and bfloat16 stay as narrow as they came.

        bfloat16 is that of ml_dtypes where the package is installed.
        """
        return outside(self._layer.held)

    @property
    def nbytes(self) -> int:
        """Bytes the head itself holds: its packed weights, or next to nothing."""
        return self._layer.nbytes

    @property
    def screen_stats(self) -> ScreenStats | None:
        """What the screen did in the last `predict`, or `topk` without log-probabilities.

        None for a head without a screen. No rows are screened where classes are too
        few for the number wanted, rows come in a wider precision than the weights, or
        plain NumPy takes the place of the kernels.
        """
        return self._stats

    @classmethod
    def from_estimator(cls, fitted: Any, **options: Unpack[HeadKeywords]) -> LinearHead:
        """Make a head of a fitted classifier: ``z = x @ coef_.T + intercept_``.

        Two classes with a single row of coefficients, and the score ``z``, become
        the logits ``[0, z]``: their softmax is ``[1 - sigmoid(z), sigmoid(z)]``.

        Parameters
        ----------
        fitted : estimator
            A linear classifier of scikit-learn, or anything with its attributes:
            `coef_` (n, k), or (1, k) or (k,) for two classes, dense or sparse;
            `classes_` (n,); and `intercept_`, (n,) or a number, if it has one. Also a
            MultinomialNB; an MLPClassifier, of which the head is the last layer; a
            OneVsRestClassifier of linear classifiers; and a pipeline that ends in one of
            these, or a search, such as GridSearchCV, that has found it.
        **options
            Options of `LinearHead`.

        Returns
        -------
        LinearHead
            Its classes are positions: ``fitted.classes_[head.predict(x)]`` are
            the labels that ``fitted.predict(x)`` gives. Its rows are what the last step
            sees: those of a pipeline as ``pipeline[:-1].transform(x)`` makes them, those of
            an MLPClassifier the outputs of its last hidden layer. The head does not know
            what comes before it.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            `fitted` has not been fitted; it is a ValueError.
        TypeError
            `fitted` is none of these: a regressor, a support vector machine that tells
            more than two classes apart in pairs, another naive Bayes, a search that was
            not told to `refit`, or one with several labels a row.
        ValueError
            An option out of range.

        Notes
        -----
        The logits are the estimator's `decision_function`. The head's probabilities are
        its `predict_proba` where that is their softmax: multinomial
        LogisticRegression, LinearDiscriminantAnalysis, MultinomialNB, MLPClassifier,
        `logitless.sklearn.SoftmaxRegression`, and with two classes also OneVsRestClassifier of
        these and SGDClassifier with ``loss="log_loss"``. With more, classifiers fitted one class
        against the rest (SGDClassifier and OneVsRestClassifier among them) normalise
        sigmoids instead. Scores of LinearSVC, RidgeClassifier and Perceptron are no
        log-probabilities: the head ranks classes as they do, and what it says of
        probabilities and losses is a softmax of their margins.

        Examples
        --------
        >>> import numpy as np
        >>> import logitless as ll
        >>> from sklearn.linear_model import LogisticRegression
        >>> x = np.array([[0.0], [1.0], [2.0], [3.0]])
        >>> fitted = LogisticRegression().fit(x, ["a", "a", "b", "b"])
        >>> head = ll.LinearHead.from_estimator(fitted)
        >>> fitted.classes_[head.predict([[0.5], [2.5]])]
        array(['a', 'b'], dtype='<U1')
        >>> np.allclose(head.predict_proba(x), fitted.predict_proba(x))
        True
        """
        return cls(*head_arrays(fitted), **options)

    @classmethod
    def from_file(
        cls, path: str | os.PathLike[str], key: str | None = None, bias_key: str | None = None,
        **options: Unpack[HeadKeywords],
    ) -> LinearHead:
        """Make a head of weights in a file, which is mapped, not read, with ``pack=False``.

        Parameters
        ----------
        path : path-like
            A .npy, .npz or .safetensors file, or the index of a checkpoint in several of
            the latter, "model.safetensors.index.json". Which of them, the first bytes
            tell, not the name.
        key : str, optional
            Name of the weight (n, k) in the file. Unless given: one that last layers have
            ("lm_head.weight", "weight", "head.weight", "score.weight",
            "classifier.weight", "fc.weight", "output.weight", "embed_out.weight", or if
            there is none of them that of embeddings, which the last layer then shares:
            "model.embed_tokens.weight", "transformer.wte.weight", "wte.weight"), or else
            that of the only two-dimensional array.
        bias_key : str, optional
            Name of the bias (n,). Unless given it is the weight's with "bias" in place of
            "weight"; where there is no such array, the head has no bias.
        **options
            Options of `LinearHead`. Those of a .npz file whose weight is named "weight"
            are its `softcap` and `temperature`, unless they are given here.

        Returns
        -------
        LinearHead

        Raises
        ------
        OSError
            The file, or a part of a checkpoint, is missing or cannot be read.
        ValueError
            The file is none of these or is damaged; there is no array of that name, or none
            is given and several could be meant, which are listed with their shapes; the
            array is of a dtype that heads do not take, as float8; shapes do not fit; an
            option is out of range.

        Notes
        -----
        With ``pack=False`` a .npy or .safetensors file stays where it is: making the head
        takes no time, and pages come into the system's cache when a call first needs them,
        one after the other at the disk's rate, and leave it when memory is short. So a head
        may be larger than memory; where it is larger than the address space, as
        ``ulimit -v`` can make it, a few MB at a time are read. Do not change the file as
        long as the head is in use: a call on one that has become smaller is an OSError, but
        one that becomes smaller during a call ends the process. With ``pack=True``, the
        default, weights are read once and memory is that of the packed head. Arrays in a
        .npz file are read in any case.

        The index of a checkpoint may name files in its own folder and those below it alone.

        Examples
        --------
        >>> import os, tempfile
        >>> import numpy as np
        >>> import logitless as ll
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = os.path.join(folder, "head.npz")
        ...     np.savez(path, weight=np.eye(3), bias=np.zeros(3), temperature=2.0)
        ...     head = ll.LinearHead.from_file(path)
        >>> head.logits([[1.0, 2.0, 3.0]])
        array([[0.5, 1. , 1.5]])
        """
        from .io import read_head  # brings archives and JSON in

        found = read_head(path, key=key, bias_key=bias_key)
        if found.softcap is not None:
            options.setdefault("softcap", found.softcap)
        if found.temperature is not None:
            options.setdefault("temperature", found.temperature)
        return cls(found.weight, found.bias, **options)

    @classmethod
    def from_module(cls, linear: Any, **options: Unpack[HeadKeywords]) -> LinearHead:
        """Make a head of a linear layer of another library, as it is.

        Parameters
        ----------
        linear : module
            Anything with a `weight` (n, k) and, if it has one, a `bias` (n,) that is not
            None: a ``torch.nn.Linear``, whose parameters may require gradients (the head
            takes no part in these). An embedding that the last layer shares will do.
        **options
            Options of `LinearHead`. With ``pack=False`` the head refers to the module's
            memory and sees what an optimiser does to it.

        Returns
        -------
        LinearHead

        Raises
        ------
        TypeError
            `linear` has no `weight` that is an array in CPU memory, or it is of a dtype
            that heads do not take. Weights of quantised layers, which are integers and
            scales, are refused: dequantise them first.
        ValueError
            Shapes that do not fit, tensors that hold nothing (on the device "meta"), or an
            option out of range.

        Examples
        --------
        >>> import numpy as np
        >>> import logitless as ll
        >>> from types import SimpleNamespace
        >>> head = ll.LinearHead.from_module(SimpleNamespace(weight=np.eye(3), bias=None))
        >>> head.predict([[1.0, 3.0, 2.0]])
        array([1])
        """
        return cls(*module_arrays(linear), **options)

    def take(self, classes: ArrayLike) -> LinearHead:
        """Make a head of some of the classes, in this order, with the same options.

        Parameters
        ----------
        classes : array_like of int, shape (j,)
            At least one; the same may be there several times.

        Returns
        -------
        LinearHead
            Its class i is this head's ``classes[i]``: a copy, in the dtype that the
            weights are held in, also of a head that refers to them.

        Raises
        ------
        IndexError
            A class outside [0, n): names the first.
        ValueError
            `classes` is not of one dimension, or empty.
        TypeError
            `classes` is not of an integer dtype.

        Examples
        --------
        >>> import numpy as np
        >>> import logitless as ll
        >>> head = ll.LinearHead(np.eye(3), [0.0, 1.0, 2.0]).take([2, 0])
        >>> head.logits([[1.0, 2.0, 3.0]])
        array([[5., 1.]])
        """
        weight, bias = self._layer.take(check_taken(classes, self._n_classes))
        return _remake(type(self), weight, bias, self._options)

    def with_temperature(self, temperature: float) -> LinearHead:
        """Make the same head with another temperature, which shares its weights.

        Parameters
        ----------
        temperature : float
            In place of the head's own: positive, and as large as that must be.

        Returns
        -------
        LinearHead
            The bits of a head made with this temperature; it takes no memory and no time.

        Raises
        ------
        TypeError, ValueError
            As `LinearHead`.

        See Also
        --------
        logitless.fit_temperature : The temperature that a head had best have.

        Examples
        --------
        >>> import numpy as np
        >>> import logitless as ll
        >>> ll.LinearHead(np.eye(3)).with_temperature(2.0).logits([[1.0, 2.0, 3.0]])
        array([[0.5, 1. , 1.5]])
        """
        temperature = check_positive(temperature, "temperature")
        _check_scale(self._layer.softcap or None, temperature, self._dtype)
        head = object.__new__(type(self))
        head.__dict__.update(self.__dict__)
        head._options = {**self._options, "temperature": temperature}
        head._hold(self._layer.tempered(temperature))
        return head

    @spelled_out(LossOptions)
    def loss(
        self,
        x: ArrayLike,
        target: TargetLike,
        *,
        reduction: str = "none",
        out: np.ndarray | None = None,
        exclude: ExcludeLike | None = None,
        **options: Unpack[LossKeywords],
    ) -> Values:
        """Softmax cross entropy: ``-log(softmax(z)[target])``.

        With class probabilities ``t`` as target it is
        ``sum(t) * lse(z) - sum(t * z)``, each row of ``t`` used as given. With
        all options, class weights ``w``, sample weight ``s`` and label smoothing
        ``e``, the loss of a row is::

            s * (sum(w * ((1 - e) * t + e / n) * (lse(z) - z)) + z_loss * lse(z)**2
                 + entropy_weight * entropy(softmax(z)))

        where for a class index ``y`` the sum is ``(1 - e) * w[y] * (lse(z) - z[y])
        + e / n * sum(w * (lse(z) - z))``.

        Parameters
        ----------
        x : array_like, shape (m, k)
        target : array_like
            Class indices (m,) of any integer dtype, or class probabilities
            (m, n): of a float dtype, or a SciPy sparse matrix or array; finite,
            not negative, not necessarily summing to 1. Rows that are exactly
            one-hot give the same bits as the index.
        reduction : {"none", "sum", "mean", "batch_mean"}
            The loss of each row; their sum; the sum divided by the sum of the
            weights (``s * w[y]``, for class probabilities ``s``) of the rows
            that are not ignored; the sum divided by m. Sums are taken in float64.
        ignore_index : int, default -100
            Rows with this class index have loss 0 and do not count in "mean".
        class_weight : array_like, shape (n,), optional
            Finite and not negative; a class of weight 0 adds nothing.
        sample_weight : array_like, shape (m,), optional
            Finite; a row of weight 0 has loss 0, whatever it holds.
        label_smoothing : float, default 0.0
            In [0, 1]: this part of each target is spread over all classes.
        z_loss : float, default 0.0
            Not negative: adds this times the square of the log-sum-exp.
        entropy_weight : float, default 0.0
            Finite, of either sign: adds this times the entropy of the softmax. A negative
            one is a bonus for rows that are unsure, as in reinforcement learning, a
            positive one a penalty.
        temperature : array_like, shape (m,), optional
            What the logits of each row are divided by, in place of the temperature of the
            head: positive, and as large as that must be. A row has the bits that a head
            of its temperature gives.
        shift : int, default 0
            For causal models: with `x` of shape (..., t, k) and `target` (..., t),
            position i is scored against the target (with the sample weight and the
            temperature) of position i + shift; results have t - shift positions.
        out : ndarray, optional
            Where the result goes: in its shape and dtype. Written last, so it
            may overlap the inputs.
        exclude : sparse matrix (m, n) or array of bool (n,), optional
            As for `topk`: classes that the softmax of a row is without. Infinite is the loss
            of a row whose target is excluded. Label smoothing goes over the classes that are
            left, with their number in place of n.

        Returns
        -------
        ndarray, shape (m,), or scalar
            In nats. "mean" of no rows that count is NaN, with a RuntimeWarning.

        Raises
        ------
        IndexError
            An index outside [0, n) that is not `ignore_index`: names the first.
        ValueError
            Shapes that do not fit, probabilities or weights that are negative or
            not finite, an unknown `reduction`, an option out of range.
        TypeError
            A dtype that cannot be used.

        Notes
        -----
        The options mean what they mean in ``torch.nn.functional.cross_entropy``.
        z-loss is due to B. Zoph et al., "ST-MoE: designing stable and transferable
        sparse expert models", 2022, arXiv:2202.08906; label smoothing to C. Szegedy
        et al., "Rethinking the Inception architecture for computer vision", 2016.

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
        >>> head.loss(x[:1], [2], class_weight=[1, 1, 2], label_smoothing=0.1).round(4)
        array([0.888])
        """
        of_loss = LossOptions.of("LinearHead.loss", options) if options else DEFAULTS
        if (
            self._few_rows is not None
            and out is None
            and exclude is None
            and reduction is _NONE
            and (of_loss is DEFAULTS or of_loss.change_nothing)
        ):
            losses = self._few_rows.loss(x, target)
            if losses is not None:
                return losses
        batch, target, of_loss = self._paired(x, target, of_loss, exclude)
        return batch.loss(target, out, reduction, of_loss)

    @spelled_out(LossOptions)
    def value_and_grad(
        self,
        x: ArrayLike,
        target: TargetLike,
        *,
        reduction: str = "mean",
        wrt: str | Iterable[str] = NAMES,
        grad_output: ArrayLike | None = None,
        workspace_bytes: int = WORKSPACE_BYTES,
        filter_eps: float = 0.0,
        out: Gradients | None = None,
        accumulate: bool = False,
        **options: Unpack[LossKeywords],
    ) -> tuple[Values, Gradients]:
        """Loss and its gradients with respect to `x`, the weights and the bias.

        With ``G[i, c]`` the derivative of the reduced loss by logit c of row i,
        ``softmax(z[i])[c] - (c == target[i])`` times what the options make of it::

            grad.x = G @ weight     grad.weight = G.T @ x     grad.bias = G.sum(0)

        Parameters
        ----------
        x : array_like, shape (m, k)
        target : array_like
            As for `loss`.
        reduction : {"mean", "sum", "none", "batch_mean"}
            As for `loss`.
        wrt : sequence of {"x", "weight", "bias"}
            Gradients wanted; the others cost nothing. Of sparse `x`, whose gradient would be
            dense, "x" is not offered, and not among the default.
        grad_output : array_like, optional
            Factor of the gradients: with reduction "none" one for each row, (m,),
            which makes them the vector-Jacobian product; else one number. 1 by
            default.
        workspace_bytes : int, default 64 MiB
            How much memory the logits of some rows may take, and these rows as they
            are packed, no fewer than 240. From as much as 240 rows of logits up (fewer
            beyond 65,000 classes, and always less than 64 MiB up to 690,000 classes in
            float32) no product is computed twice; with less, logits are. At least a
            block of 512 classes (about 0.5 MiB) is used.
        filter_eps : float, default 0.0
            Leave out of the gradients each entry of ``softmax(z) - target``, or of what
            the options make of that, softcap included, that is smaller than this: about
            2.6 times as fast where a row has 50 to 100 likely classes of 20,000. 0 is exact.
        out : Gradients, optional
            Where the gradients go: C-contiguous arrays of the right shape and
            dtype for all of `wrt`, which overlap none of the inputs.
        accumulate : bool, default False
            Add to what `out` holds.
        ignore_index, class_weight, sample_weight, label_smoothing, z_loss, entropy_weight
        temperature
            As for `loss`.
        shift : int, default 0
            As for `loss`; ``grad.x`` has the shape of `x`.

        Returns
        -------
        loss : ndarray, shape (m,), or scalar
            Bit for bit as `loss`.
        grad : Gradients
            `x` in the shape of `x`, `weight` (n, k), `bias` (n,), also where the
            head has none; in the precision of the computation.

        Raises
        ------
        IndexError, ValueError, TypeError
            As `loss`; before anything is written to `out`. "x" in `wrt` for sparse `x`.

        Notes
        -----
        6 m n k flops, as three dense products. With sparse `x` 4 n for each of its entries,
        which are held once more, feature by feature; the workspace has at least a group of
        rows of one block of classes. Class probabilities in another precision
        or layout than can be read in place are copied for up to 240 rows a thread at a time
        (more where classes are few), beside the workspace. The gradients are the same bits for
        any number of threads, any `workspace_bytes`, any instruction set. Rows that
        are ignored or have weight 0 add nothing, whatever they hold. A head with
        ``pack=False`` is the one to train: the weights are then the caller's.

        Leaving out small entries is the gradient filtering of E. Wijmans et al., "Cut
        your losses in large-vocabulary language models", 2024, arXiv:2411.09009, which
        leaves out blocks of them.

        Examples
        --------
        >>> import numpy as np
        >>> import logitless as ll
        >>> head = ll.LinearHead(np.eye(2), pack=False)
        >>> loss, grad = head.value_and_grad([[0.0, 0.0], [0.0, 3.0]], [0, 1])
        >>> float(loss.round(4)), grad.x.round(4)
        (0.3709, array([[-0.25  ,  0.25  ],
               [ 0.0237, -0.0237]]))
        >>> grad.bias.round(4)
        array([-0.2263,  0.2263])
        """
        rows, dtype = self._checked(x)
        return value_and_grad(
            self._layer, self._n_threads, rows, target, dtype, reduction=reduction, wrt=wrt,
            grad_output=grad_output, workspace_bytes=workspace_bytes, filter_eps=filter_eps,
            out=out, accumulate=accumulate,
            options=LossOptions.of("LinearHead.value_and_grad", options),
        )

    def kl_div(
        self,
        x: ArrayLike,
        teacher: LinearHead,
        teacher_x: ArrayLike,
        *,
        beta: float = 0.0,
        reduction: str = "none",
        sample_weight: ArrayLike | None = None,
        out: np.ndarray | None = None,
    ) -> Values:
        """Divergence of this head's softmax from a teacher's, without the logits of either.

        With p the softmax of this head, q that of the teacher and
        ``m = beta * q + (1 - beta) * p``::

            beta 0    KL(q || p) = sum q log(q / p)
            beta 1    KL(p || q) = sum p log(p / q)
            between   beta KL(q || m) + (1 - beta) KL(p || m)

        Parameters
        ----------
        x : array_like, shape (m, k)
        teacher : LinearHead
            Of as many classes; features, softcap and temperature are its own.
        teacher_x : array_like, shape (m, k')
            What the teacher makes of the same samples, in the leading shape of `x`.
        beta : float, default 0.0
            In [0, 1]; between its ends the generalised Jensen-Shannon divergence.
        reduction : {"none", "sum", "mean", "batch_mean"}
            As for `loss`; "mean" divides by the sum of the sample weights.
        sample_weight : array_like, shape (m,), optional
            Finite; a row of weight 0 has divergence 0, whatever it holds.
        out : ndarray, optional
            Where the result goes: of its shape and dtype.

        Returns
        -------
        ndarray, shape (m,), or scalar
            In nats, in the widest precision of the two heads and their rows. Infinite where
            a class that one side is sure about cannot happen on the other; NaN where one
            of the two has no softmax.

        Raises
        ------
        ValueError
            Heads of different numbers of classes, rows that do not pair, options out of range.
        TypeError
            A teacher that is no LinearHead, a dtype that cannot be computed with.

        Notes
        -----
        The logits of both heads are kept for a few rows, up to 64 MiB. What is summed up are
        terms that are not negative, ``q * (expm1(d) - d)`` with ``d = log(p / q)``, a block of
        classes after the other in float64: nearly equal heads keep their digits, as do rows in
        which both are sure, and an offset that all logits of a head share cancels.

        For beta between 0 and 1 it is what R. Agarwal et al. distil with, "On-policy
        distillation of language models", 2023, arXiv:2306.13649.

        Examples
        --------
        >>> import numpy as np
        >>> import logitless as ll
        >>> student, teacher = ll.LinearHead(np.eye(2)), ll.LinearHead(2 * np.eye(2))
        >>> x = [[0.0, 1.0], [3.0, 3.0]]
        >>> student.kl_div(x, teacher, x).round(4)
        array([0.0671, 0.    ])
        """
        rows, divergence = self._divergence(x, teacher, teacher_x, beta, reduction, sample_weight)
        return kl_div(self._layer, self._n_threads, as_rows(rows), divergence, out)

    def kl_div_value_and_grad(
        self,
        x: ArrayLike,
        teacher: LinearHead,
        teacher_x: ArrayLike,
        *,
        beta: float = 0.0,
        reduction: str = "mean",
        sample_weight: ArrayLike | None = None,
        wrt: str | Iterable[str] = NAMES,
        grad_output: ArrayLike | None = None,
        workspace_bytes: int = DIVERGENCE_BYTES,
        out: Gradients | None = None,
        accumulate: bool = False,
    ) -> tuple[Values, Gradients]:
        """`kl_div` and its gradients with respect to this head and its rows.

        With ``G[i, c]`` the derivative by logit c of this head in row i, which is
        ``p - q`` for beta 0 and otherwise ``p * (l - sum p l)`` with ``l = log(p / q)`` for
        beta 1, ``l = (1 - beta) log(p / m)`` between::

            grad.x = G @ weight     grad.weight = G.T @ x     grad.bias = G.sum(0)

        Parameters
        ----------
        x, teacher, teacher_x, beta, sample_weight
            As for `kl_div`.
        reduction, wrt, grad_output, out, accumulate
            As for `value_and_grad`.
        workspace_bytes : int, default 128 MiB
            As for `value_and_grad`, for the logits of both heads.

        Returns
        -------
        divergence : ndarray, shape (m,), or scalar
            As `kl_div`.
        grad : Gradients
            As `value_and_grad`.

        Raises
        ------
        ValueError, TypeError
            As `kl_div` and `value_and_grad`.

        Examples
        --------
        >>> import numpy as np
        >>> import logitless as ll
        >>> student, teacher = ll.LinearHead(np.eye(2)), ll.LinearHead(2 * np.eye(2))
        >>> value, grad = student.kl_div_value_and_grad([[0.0, 1.0]], teacher, [[0.0, 1.0]])
        >>> float(value.round(4)), grad.x.round(4)
        (0.0671, array([[ 0.1497, -0.1497]]))
        """
        rows, divergence = self._divergence(x, teacher, teacher_x, beta, reduction, sample_weight)
        return divergence_value_and_grad(
            self._layer, self._n_threads, rows, divergence, wrt=wrt, grad_output=grad_output,
            workspace_bytes=workspace_bytes, out=out, accumulate=accumulate,
        )

    def topk_kl_div(
        self,
        x: ArrayLike,
        index: ArrayLike,
        prob: ArrayLike,
        *,
        beta: float = 0.0,
        reduction: str = "none",
        sample_weight: ArrayLike | None = None,
        out: np.ndarray | None = None,
    ) -> Values:
        """Divergence from a teacher of whom the probabilities of a few classes are known.

        That of `kl_div`, all other classes of a row being one, whose probability is what
        is left: none of it is taken for nothing, as it would be if only these were summed.

        Parameters
        ----------
        x : array_like, shape (m, k)
        index : array_like of int, shape (m, j)
            Classes of each row, none of them twice; -1 for none.
        prob : array_like, shape (m, j)
            Their probabilities by the teacher, which sum up to at most 1.
        beta, reduction, sample_weight, out
            As for `kl_div`.

        Returns
        -------
        ndarray, shape (m,), or scalar
            In nats. At most what `kl_div` finds, and that where a row names all classes
            but one.

        Raises
        ------
        IndexError
            A class that is neither in [0, n) nor -1.
        ValueError, TypeError
            Shapes that do not fit, a class twice, probabilities outside [0, 1], options as
            for `kl_div`.

        Notes
        -----
        One pass, as `target_log_prob`, in float64 from there, in some 40 bytes for each entry of
        `index`. What is left of the student's probability is a difference of sums, whose error is
        that of the sum of all classes but the largest. Where less than the root of the precision's
        epsilon of that sum is left, `beta` is 0 and the teacher leaves something, rows are
        scored once more without the classes of `index`. `beta` 1 is infinite if the teacher
        leaves nothing, in float64, and the student something.

        Examples
        --------
        >>> import numpy as np
        >>> import logitless as ll
        >>> head = ll.LinearHead(np.eye(3))
        >>> head.topk_kl_div([[0.0, 0.0, 0.0]], [[1, -1]], [[0.8, 0.0]]).round(4)
        array([0.4596])
        """
        _, rows, divergence = self._topk_divergence(x, index, prob, beta, reduction, sample_weight,
                                                    self._n_threads)
        if out is not None:
            check_loss_out(out, divergence, rows.lead)
        batch = Batch(rows, self._n_classes, divergence.dtype, self._score, self._n_threads)
        for some, state in batch.parts(divergence.request):
            divergence.take(state, some)
        return given_loss(divergence.losses, divergence, rows.lead, out)

    def topk_kl_div_value_and_grad(
        self,
        x: ArrayLike,
        index: ArrayLike,
        prob: ArrayLike,
        *,
        beta: float = 0.0,
        reduction: str = "mean",
        sample_weight: ArrayLike | None = None,
        wrt: str | Iterable[str] = NAMES,
        grad_output: ArrayLike | None = None,
        workspace_bytes: int = WORKSPACE_BYTES,
        out: Gradients | None = None,
        accumulate: bool = False,
    ) -> tuple[Values, Gradients]:
        """`topk_kl_div` and its gradients.

        Parameters
        ----------
        x, index, prob, beta, sample_weight
            As for `topk_kl_div`.
        reduction, wrt, grad_output, workspace_bytes, out, accumulate
            As for `value_and_grad`.

        Returns
        -------
        divergence : ndarray, shape (m,), or scalar
            As `topk_kl_div`.
        grad : Gradients
            As `value_and_grad`.

        Raises
        ------
        IndexError, ValueError, TypeError
            As `topk_kl_div` and `value_and_grad`.

        Examples
        --------
        >>> import numpy as np
        >>> import logitless as ll
        >>> head = ll.LinearHead(np.eye(3))
        >>> value, grad = head.topk_kl_div_value_and_grad([[0.0, 0.0, 0.0]], [[1]], [[0.8]])
        >>> float(value.round(4)), grad.x.round(4)
        (0.4596, array([[ 0.2333, -0.4667,  0.2333]]))
        """
        checked, _, divergence = self._topk_divergence(x, index, prob, beta, reduction,
                                                       sample_weight, 1)
        return divergence_value_and_grad(
            self._layer, self._n_threads, checked, divergence, wrt=wrt, grad_output=grad_output,
            workspace_bytes=workspace_bytes, out=out, accumulate=accumulate,
        )

    def _topk_divergence(
        self, x: ArrayLike, index: object, prob: object, beta: object, reduction: str,
        sample_weight: object, n_threads: int | None,
    ) -> tuple[np.ndarray | SparseX, Rows | SparseX, TopKDivergence]:
        """Rows as they came and as rows, and what is asked, of some again by so many threads."""
        checked, dtype = self._checked(x)
        rows = as_rows(checked)
        score = partial(self._score, n_threads=n_threads)
        return checked, rows, TopKDivergence(index, prob, rows, score, self._n_classes, dtype,
                                             beta, reduction, sample_weight)

    def _divergence(
        self, x: ArrayLike, teacher: LinearHead, teacher_x: ArrayLike, beta: object,
        reduction: str, sample_weight: object,
    ) -> tuple[np.ndarray | SparseX, Divergence]:
        """Rows, and what is asked about them and a teacher."""
        if not isinstance(teacher, LinearHead):
            raise TypeError(f"`teacher` must be a LinearHead, got {type(teacher).__name__}")
        rows, dtype = self._checked(x)
        other, wide = teacher._checked(teacher_x, "teacher_x")
        dtype = wide if wide.itemsize > dtype.itemsize else dtype
        return rows, Divergence(teacher._layer, other, rows.shape[:-1], self._n_classes, dtype,
                                beta, reduction, sample_weight)

    def predict(self, x: ArrayLike, *, exclude: ExcludeLike | None = None) -> Values:
        """``argmax(z)``: the class of the largest logit, the lowest of equals.

        Parameters
        ----------
        x : array_like, shape (m, k)
        exclude : sparse matrix (m, n) or array of bool (n,), optional
            As for `topk`.

        Returns
        -------
        ndarray of intp, shape (m,)
            In a row with NaN logits, the first of those; -1 where all classes are excluded.

        Raises
        ------
        IndexError, ValueError, TypeError
            As `topk`, of `exclude`.

        Examples
        --------
        >>> import numpy as np
        >>> import logitless as ll
        >>> ll.LinearHead(np.eye(3)).predict([[1.0, 2.0, 3.0], [5.0, 5.0, 0.0]])
        array([2, 0])
        """
        if self._few_rows is not None and self._stats is None and exclude is None:
            best = self._few_rows.predict(x)
            if best is not None:
                return best
        rows = self._batch(x, exclude)
        return rows.shaped(self._screened(rows, Request(rows.dtype, sums=False)).argmax)

    def predict_proba(
        self, x: ArrayLike, *, out: np.ndarray | None = None, exclude: ExcludeLike | None = None
    ) -> np.ndarray:
        """``softmax(z) = exp(z) / sum(exp(z))``.

        Parameters
        ----------
        x : array_like, shape (m, k)
        out : ndarray, shape (m, n), optional
            Where the result goes, instead of new memory: C-contiguous, of the result's dtype.
        exclude : sparse matrix (m, n) or array of bool (n,), optional
            As for `topk`.

        Returns
        -------
        ndarray, shape (m, n)
            Probabilities; the result has as many entries as there are logits.

        Raises
        ------
        TypeError, ValueError
            `out` does not fit, or shares memory with `x` or the layer.
        IndexError, ValueError, TypeError
            As `topk`, of `exclude`.

        Examples
        --------
        >>> import numpy as np
        >>> import logitless as ll
        >>> ll.LinearHead(np.eye(3)).predict_proba([[1.0, 2.0, 3.0]]).round(4)
        array([[0.09  , 0.2447, 0.6652]])
        """
        return self._columns(x, "proba", out, exclude)

    def predict_log_proba(
        self, x: ArrayLike, *, out: np.ndarray | None = None, exclude: ExcludeLike | None = None
    ) -> np.ndarray:
        """``log(softmax(z)) = z - log(sum(exp(z)))``, as precise as `loss`.

        Parameters
        ----------
        x : array_like, shape (m, k)
        out : ndarray, shape (m, n), optional
            Where the result goes, instead of new memory: C-contiguous, of the result's dtype.
        exclude : sparse matrix (m, n) or array of bool (n,), optional
            As for `topk`.

        Returns
        -------
        ndarray, shape (m, n)
            In nats; the result has as many entries as there are logits.

        Raises
        ------
        TypeError, ValueError
            `out` does not fit, or shares memory with `x` or the layer.
        IndexError, ValueError, TypeError
            As `topk`, of `exclude`.

        Examples
        --------
        >>> import numpy as np
        >>> import logitless as ll
        >>> ll.LinearHead(np.eye(3)).predict_log_proba([[1.0, 2.0, 3.0]]).round(4)
        array([[-2.4076, -1.4076, -0.4076]])
        """
        return self._columns(x, "log_proba", out, exclude)

    def logits(self, x: ArrayLike, *, out: np.ndarray | None = None) -> np.ndarray:
        """``z = x @ weight.T + bias``, capped and divided by the temperature.

        Parameters
        ----------
        x : array_like, shape (m, k)
        out : ndarray, shape (m, n), optional
            Where the result goes, instead of new memory: C-contiguous, of the result's dtype.

        Returns
        -------
        ndarray, shape (m, n)
            In the precision of the computation.

        Raises
        ------
        TypeError, ValueError
            `out` does not fit, or shares memory with `x` or the layer.

        Examples
        --------
        >>> import numpy as np
        >>> import logitless as ll
        >>> head = ll.LinearHead([[1.0, 0.0], [1.0, 1.0]], [0.5, 0.0], temperature=2.0)
        >>> head.logits([[3.0, 4.0]])
        array([[1.75, 3.5 ]])
        """
        return self._columns(x, "logits", out)

    def topk(
        self, x: ArrayLike, k: int, *, normalize: bool = True,
        exclude: ExcludeLike | None = None, candidates: ArrayLike | None = None,
    ) -> TopK:
        """Find the `k` classes with the largest logits: best first, the lowest index among equals.

        Parameters
        ----------
        x : array_like, shape (m, k)
        k : int
            1 to n.
        normalize : bool, default True
            Give log-probabilities too. Without them no exponential is computed.
        exclude : sparse matrix (m, n) or array of bool (n,), optional
            Classes that do not count, as if there were none of them: in each row those that a
            SciPy sparse matrix or array has entries for, whatever these are, zeros too; or
            in all rows those where an array is true. Their logits may be anything, NaN too.
        candidates : array_like of int, shape (m, j), optional
            The classes of each row to choose from, -1 for none; one that is there twice
            counts once. Log-probabilities are those among all classes. Without them
            only logits of candidates are computed.

        Returns
        -------
        TopK
            `index`, `logit` and `log_prob`, each (m, k). Where fewer than `k` classes are left,
            the last ones are -1, -inf and -inf.

        Raises
        ------
        ValueError
            `k` outside [1, n], shapes that do not fit, a sparse matrix whose structure is damaged.
        IndexError
            An entry of `exclude` or `candidates` that is no class.
        TypeError
            `exclude` is neither sparse nor bool, `candidates` are not integers.

        Notes
        -----
        Excluded entries are checked and held as 8 bytes each, in whatever order they come.
        They cost next to no time beside the products, and a screen goes round them, too.
        Candidates take 8 bytes each for a few copies, and the time of a few classes in a
        pass; where that is more than a pass, there is one.

        Examples
        --------
        >>> import numpy as np
        >>> import logitless as ll
        >>> head = ll.LinearHead(np.eye(3))
        >>> top = head.topk([[1.0, 2.0, 3.0]], 2)
        >>> top.index, top.logit, top.log_prob.round(4)
        (array([[2, 1]]), array([[3., 2.]]), array([[-0.4076, -1.4076]]))
        >>> head.topk([[1.0, 2.0, 3.0]], 2, exclude=[False, True, False]).index
        array([[2, 0]])
        >>> head.topk([[1.0, 2.0, 3.0]], 2, candidates=[[0, -1]]).index
        array([[ 0, -1]])
        """
        k = check_integer(k, "k", 1, self._n_classes)
        normalize = normalize is True or check_flag(normalize, "normalize")
        plain = exclude is None and candidates is None
        if plain and self._few_rows is not None and (normalize or self._stats is None):
            top = self._few_rows.topk(x, k, normalize)
            if top is not None:
                return TopK(*top)
        rows = self._batch(x, exclude)
        if candidates is not None:
            ranked = check_ranked(candidates, rows.rows.lead, rows.n)
            return _shaped_top(best_of(rows, ranked, k, normalize, self._n_threads), rows)
        request = Request(rows.dtype, sums=normalize, k=k)
        state = rows.run(request) if normalize else self._screened(rows, request)
        return _shaped_top(top_of(state), rows)

    def logsumexp(self, x: ArrayLike, *, exclude: ExcludeLike | None = None) -> Values:
        """``log(sum(exp(z)))`` of each row.

        Parameters
        ----------
        x : array_like, shape (m, k)
        exclude : sparse matrix (m, n) or array of bool (n,), optional
            As for `topk`.

        Returns
        -------
        ndarray, shape (m,)
            NaN in a row without a softmax, one with a NaN or +inf, or nothing but -inf, where
            `logitless.logsumexp` of logits at hand gives NaN, +inf and -inf.

        Raises
        ------
        IndexError, ValueError, TypeError
            As `topk`, of `exclude`.

        Examples
        --------
        >>> import numpy as np
        >>> import logitless as ll
        >>> ll.LinearHead(np.eye(3)).logsumexp([[1.0, 2.0, 3.0]]).round(4)
        array([3.4076])
        """
        rows = self._batch(x, exclude)
        return rows.shaped(rows.each(Request(rows.dtype), lambda state, _: state.lse))

    def target_log_prob(
        self, x: ArrayLike, target: TargetLike, *, ignore_index: int = -100,
        temperature: ArrayLike | None = None,
    ) -> Values:
        """``log(softmax(z)[target])``: minus the loss.

        Parameters
        ----------
        x : array_like, shape (m, k)
        target : array_like
            As for `loss`; or classes (m, j) of an integer dtype: j candidates
            for each row.
        ignore_index : int, default -100
            Rows of targets (m,) with this index give 0. No candidate is ignored.
        temperature : array_like, shape (m,), optional
            As for `loss`.

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
        rows = self._batch(x)
        candidates = check_candidates(target, rows.rows.lead, self._n_classes)
        if candidates is None:
            options = LossOptions(ignore_index=ignore_index, temperature=temperature)
            losses = rows.loss(target, None, "none", options)
        else:
            of_rows = check_temperature(temperature, rows.rows.lead, rows.dtype,
                                        self._layer.softcap)
            request = Request(rows.dtype, targets=candidates, temperature=of_rows)
            losses = rows.shaped(rows.each(request, lambda state, _: state.target_loss))
        return losses.dtype.type(0) - losses  # not a negation: the loss 0 gives 0, not -0

    def sample(
        self, x: ArrayLike, rng: np.random.Generator | int | None, size: int = 1, *,
        exclude: ExcludeLike | None = None,
    ) -> np.ndarray:
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
        exclude : sparse matrix (m, n) or array of bool (n,), optional
            As for `topk`.

        Returns
        -------
        ndarray of intp, shape (m, size)
            A class whose logit is -inf is never drawn, nor one that is excluded; -1 where all
            are excluded.

        Raises
        ------
        ValueError
            A row whose logits hold a NaN or +inf, or nothing but -inf, names
            no distribution; or `size` is negative.
        IndexError, ValueError, TypeError
            As `topk`, of `exclude`.

        Examples
        --------
        >>> import numpy as np
        >>> import logitless as ll
        >>> head = ll.LinearHead(np.eye(3), [0.0, -np.inf, 0.0])
        >>> drawn = head.sample([[1.0, 9.0, 1.0]], 0, size=1000)
        >>> drawn.shape, np.unique(drawn)
        ((1, 1000), array([0, 2]))
        """
        size = check_integer(size, "size", 0, _MOST_DRAWN)
        rows = self._batch(x, exclude)
        return rows.shaped(draw(rows, generator(rng), size))

    @spelled_out(LossOptions)
    def score(
        self,
        x: ArrayLike,
        target: TargetLike | None = None,
        *,
        k: int = 0,
        entropy: bool = False,
        exclude: ExcludeLike | None = None,
        **options: Unpack[LossKeywords],
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
        exclude : sparse matrix (m, n) or array of bool (n,), optional
            As for `topk` and `loss`. The rank of an excluded target is the number of classes
            that are left.
        ignore_index, class_weight, sample_weight, label_smoothing, z_loss, entropy_weight
        temperature, shift
            As for `loss`.

        Returns
        -------
        Scores
            Losses, log-sum-exp, predictions, ranks and what else was asked for.

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
        entropy = entropy is not False and check_flag(entropy, "entropy")
        of_loss = LossOptions.of("LinearHead.score", options)
        if self._few_rows is not None and exclude is None and of_loss.change_nothing:
            found = self._few_rows.score(x, target, k, entropy)
            if found is not None:
                return Scores(*found[0], None if found[1] is None else TopK(*found[1]))
        rows, target, of_loss = self._paired(x, target, of_loss, exclude)
        loss = target_logit = target_rank = None
        if target is None:
            of_rows = check_temperature(of_loss.temperature, rows.rows.lead, rows.dtype,
                                        self._layer.softcap)
            state = rows.run(Request(rows.dtype, k=k, entropy=entropy, temperature=of_rows))
        else:
            objective = Objective(target, rows.rows.lead, rows.n, rows.dtype, "none", of_loss,
                                  self._layer.softcap, rows.exclude)
            ranks = objective.targets.probs is None
            state = rows.run(objective.request(k=k, entropy=entropy, rank=ranks))
            loss = rows.shaped(objective.losses(state))
            if ranks:
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
            top=_shaped_top(top_of(state), rows) if k else None,
        )

    def _checked(self, x: Any, name: str = "x") -> tuple[np.ndarray | SparseX, np.dtype]:
        """Rows (..., k), and the precision of a computation with them."""
        x = check_rows(x, self._n_features, name)
        for weights in self._layer.given:
            if weights is not None:
                check_mapped(weights, "weight")
        dtype = compute_dtype(x.dtype, name)
        return x, dtype if dtype.itemsize > self._dtype.itemsize else self._dtype

    def _batch(self, x: ArrayLike, exclude: Any = None) -> Batch:
        checked, dtype = self._checked(x)
        rows = as_rows(checked)
        if exclude is not None and not isinstance(exclude, Exclusions):
            exclude = check_exclude(exclude, rows.lead, self._n_classes)
        return Batch(rows, self._n_classes, dtype, self._score, self._n_threads,
                     self._layer.softcap, exclude)

    def _paired(
        self, x: Any, target: Any, options: LossOptions, exclude: Any = None
    ) -> tuple[Batch, Any, LossOptions]:
        """Rows with the targets and the options of the loss that belong to them."""
        if type(options.shift) is not int or options.shift:
            x = check_rows(x, self._n_features)
            lead = x.shape[:-1]
            x, target, options = shifted(x, target, options)
            if exclude is not None:
                row = np.arange(math.prod(lead)).reshape(lead)[..., : x.shape[-2]]
                exclude = check_exclude(exclude, lead, self._n_classes)[row.reshape(-1)]
        return self._batch(x, exclude), target, options

    def _screened(self, batch: Batch, request: Request) -> State:
        """Run a batch that the screen may shorten."""
        state = batch.run(request)
        if self._stats is not None:
            self._stats = screen_stats(state)
        return state

    def _columns(self, x: ArrayLike, write: str, out: np.ndarray | None,
                 exclude: ExcludeLike | None = None) -> np.ndarray:
        if out is None and exclude is None and self._few_rows is not None:
            columns = self._few_rows.columns(x, write)
            if columns is not None:
                return columns
        rows = self._batch(x, exclude)
        if out is None:
            return rows.shaped(rows.columns(write))
        shape = (*rows.rows.lead, rows.n)
        check_direct_out(out, shape, rows.dtype, "out", (*rows.rows.arrays, *self._layer.given))
        rows.columns(write, out.reshape(rows.rows.m, rows.n))
        return out

    def __repr__(self) -> str:
        options = "".join(f", {name}={value}" for name, value in self._options.items())
        return (
            f"LinearHead(n_classes={self._n_classes}, n_features={self._n_features}, "
            f"dtype={self._dtype}{options})"
        )

    def __copy__(self) -> LinearHead:
        return self  # nothing about a head can change

    def __reduce__(self) -> tuple[Any, ...]:
        weight, bias = self._layer.unpack()
        return _remake, (type(self), weight, bias, self._options)


def _check_scale(softcap: float | None, temperature: float, dtype: np.dtype) -> None:
    """Check that logits can be divided by the cap and the temperature in their precision."""
    check_divisor(temperature, "`temperature`", dtype)
    if softcap is not None:
        check_divisor(softcap, "`softcap`", dtype)
        check_divisor(softcap / temperature, "`softcap / temperature`", dtype)


def _check_screen(screen: object, pack: object) -> None:
    if screen is None:
        return
    if not isinstance(screen, str) or screen != "int8":
        raise ValueError(f"`screen` must be None or 'int8', got {screen!r}")
    if not pack:
        raise ValueError("`screen` needs `pack=True`: it holds what the weights are now")


def _remake(cls: type[LinearHead], weight: np.ndarray, bias: np.ndarray | None,
            options: dict[str, Any]) -> LinearHead:
    return cls(weight, bias, **options)


def _shaped_top(top: TopK, rows: Batch) -> TopK:
    log_prob = None if top.log_prob is None else rows.shaped(top.log_prob)
    return TopK(rows.shaped(top.index), rows.shaped(top.logit), log_prob)
