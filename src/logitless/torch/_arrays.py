"""A call of `logitless.torch` on the memory of its tensors."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from .. import functional
from .._arrays.bfloat16 import BFLOAT16, widened
from .._arrays.checks import check_storage, compute_dtype
from .._arrays.rows import Rows
from .._arrays.sparse import Compressed, checked_csr, is_canonical
from .._calls.backward import RowScores
from .._calls.options import HEAD, LOSS, LossOptions
from .._calls.value_and_grad import WORKSPACE_BYTES, value_and_grad
from ..head import LinearHead
from ..logits import log_softmax
from ..results import Gradients
from ._checks import Options, scored_shape

_BLOCK = 1 << 18  # entries of a gradient that are rounded at a time


class Problem:
    """The tensors of a call as arrays, and its options but for the dtype of the loss.

    With places (d1, ..., dK), each of them has a classifier of its own. The arrays see the
    memory of the tensors and are good for the duration of the call, no longer.
    """

    def __init__(self, tensors: Sequence[Any], options: Options):
        input, weight, bias, target, class_weight, temperatures, start, classes = tensors
        self.x, self.weight = as_array(input), as_array(weight)
        self.target: Any = as_array(target)
        self.bias = None if bias is None else as_numbers(bias)
        self.class_weight = None if class_weight is None else as_numbers(class_weight)
        self.soft = tensors[3].is_floating_point()
        self.n_classes, *places, self.n_features = self.weight.shape
        self.places = tuple(places)
        self.shape = scored_shape(input, weight, options.shift)  # of losses, the places at the end
        self.dtype = np.result_type(compute_dtype(self.x.dtype, "input"),
                                    compute_dtype(self.weight.dtype, "linear_weight"))
        if start is not None:
            self.target = _compressed(start, classes, as_numbers(target), self.n_classes)
        self.options = options
        self.of_head, self.of_loss = (
            {name: value for name, value in options._asdict().items() if name in names}
            for names in (HEAD, set(LOSS) - set(HEAD))
        )
        self.of_loss["class_weight"] = self.class_weight
        if temperatures is not None:
            del self.of_head["temperature"]
            if temperatures.ndim:
                self.of_loss["temperature"] = as_numbers(temperatures)
            else:  # that of the only row
                self.of_head["temperature"] = float(temperatures)

    def losses(
        self, wrt: Sequence[str], factor: np.ndarray | np.floating, with_scores: bool = False
    ) -> tuple[np.ndarray, dict[str, np.ndarray], list[np.ndarray]]:
        """Each loss; gradients of their sum times `factor`, with the classes after the places.

        With scores also, from the same pass: the log-sum-exp, the entropy and the prediction.
        """
        of_classes = *self.places, self.n_classes
        shapes = {"x": self.x.shape, "weight": (*of_classes, self.n_features), "bias": of_classes}
        found = {name: np.zeros(shapes[name], self.dtype) for name in wrt}
        losses = np.empty(self.shape, self.dtype)
        kinds = (self.dtype, self.dtype, np.int64) if with_scores else ()
        scores = [np.empty(self.shape, kind) for kind in kinds]
        factor = np.broadcast_to(factor, self.shape)
        for place in np.ndindex(self.places):
            weight, bias = self._classifier(place)
            here: tuple[Any, ...] = (..., *place)
            target = self.target[here] if place else self.target
            out = {name: g if name == "x" else g[place] for name, g in found.items()}
            of_gradients: dict[str, Any] = {
                "wrt": tuple(wrt), "grad_output": factor[here], "out": Gradients(**out),
                "accumulate": any(place), "filter_eps": self.options.filter_eps,
                "reduction": "none",
            }
            if with_scores:
                head = LinearHead(weight, bias, **self.of_head, pack=False)
                losses[here], *more = self._scored(head, target, of_gradients)
                for score, values in zip(scores, more, strict=True):
                    score[here] = values
            elif wrt:
                losses[here], _ = functional.linear_cross_entropy_value_and_grad(
                    self.x, weight, target, bias, **self.of_head, **self.of_loss, **of_gradients)
            else:
                losses[here] = functional.linear_cross_entropy(
                    self.x, weight, target, bias, **self.of_head, **self.of_loss)
        return losses, found, scores

    def _scored(
        self, head: LinearHead, target: Any, of_gradients: dict[str, Any]
    ) -> tuple[Any, ...]:
        """Losses and scores of one place, in the shape of its losses."""
        if not of_gradients["wrt"]:
            found = head.score(self.x, target, entropy=True, **self.of_loss)
            return found.loss, found.lse, found.entropy, found.predicted
        lead = self.shape[: self.x.ndim - 1]
        scores = RowScores(math.prod(lead), self.dtype)
        losses, _ = value_and_grad(
            head._layer, None, self.x, target, self.dtype, workspace_bytes=WORKSPACE_BYTES,
            options=LossOptions(**self.of_loss), scores=scores, **of_gradients)
        rows = scores.lse, scores.entropy, scores.predicted
        return losses, *(values.reshape(lead) for values in rows)

    def target_gradient(
        self, dtype: torch.dtype, factor: np.ndarray | np.floating
    ) -> torch.Tensor:
        """Gradient by class probabilities, or by those that are stored: 0 where no row uses them.

        factor * w[c] * (1 - label_smoothing) * -log p[c]; weight 0 makes 0 of anything.
        """
        blocks = self._target_gradients(factor, self.dtype.itemsize + dtype.itemsize)
        if isinstance(self.target, Compressed):
            entries = np.zeros(len(self.target.data), self.dtype)
            for _, rows, block in blocks:
                entry, of = self.target.entries(rows)
                entries[entry] = block[of, self.target.indices[entry]]
            return torch.from_numpy(entries).to(dtype)
        gradient = torch.empty(self.target.shape, dtype=dtype, device="cpu")
        if self.options.shift:
            gradient.narrow(self.x.ndim - 2, 0, self.options.shift).zero_()
        by_row = gradient.view(math.prod(self.x.shape[:-1]), self.n_classes, *self.places)
        for place, rows, block in blocks:
            here: tuple[Any, ...] = torch.from_numpy(rows), slice(None), *place
            by_row[here] = torch.from_numpy(block).to(dtype)
        return gradient

    def _target_gradients(
        self, factor: np.ndarray | np.floating, item: int
    ) -> Iterator[tuple[tuple[int, ...], np.ndarray, np.ndarray]]:
        """Places, rows of the targets, and their gradients, of `item` bytes an entry in the end."""
        n, shift = self.n_classes, self.options.shift
        x = Rows(self.x[..., : self.x.shape[-2] - shift, :] if shift else self.x)
        divisor = self.of_loss.get("temperature")
        if divisor is not None:
            divisor = divisor[..., shift:].reshape(-1, 1).astype(self.dtype)
            item += self.dtype.itemsize
        factor = np.broadcast_to(factor, self.shape).reshape(x.m, *self.places)
        of_class = np.full(n, self.options.label_smoothing - 1, self.dtype)
        if self.class_weight is not None:
            of_class *= self.class_weight
        step = max(1, WORKSPACE_BYTES // (n * item))
        memory = np.empty((min(step, x.m), n), self.dtype)
        for place in np.ndindex(self.places):
            head = LinearHead(*self._classifier(place), **self.of_head, pack=False)
            for first in range(0, x.m, step):
                some = slice(first, min(first + step, x.m))
                block = memory[: some.stop - first]
                if divisor is None:
                    head.predict_log_proba(x[some], out=block)
                else:
                    block[...] = log_softmax(head.logits(x[some], out=block) / divisor[some])
                here: tuple[Any, ...] = some, *place
                of_row = factor[here].astype(self.dtype)
                with np.errstate(all="ignore"):
                    block *= of_class
                    block *= of_row[:, None]
                block[of_row == 0] = 0
                block[:, of_class == 0] = 0
                rows = np.arange(some.start, some.stop)
                yield place, rows + shift * (1 + rows // x.lead[-1]) if shift else rows, block

    def _classifier(self, place: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray | None]:
        of_classes: tuple[Any, ...] = slice(None), *place
        return self.weight[of_classes], None if self.bias is None else self.bias[of_classes]

    def divisor(self) -> np.float64:
        """What the sum of the losses is divided by, NaN instead of 0."""
        if self.options.reduction != "mean":
            return np.float64(1)
        if self.soft:
            return np.float64(math.prod(self.shape) or math.nan)
        target = self.target
        if self.options.shift:
            target = np.moveaxis(target, self.x.ndim - 2, 0)[self.options.shift :]
        counted = target[target != self.options.ignore_index]
        if self.class_weight is None:
            return np.float64(counted.size or math.nan)
        # The losses find what is out of range.
        weights = self.class_weight.take(counted, mode="clip")
        return np.float64(weights.sum(dtype=np.float64) or math.nan)


def _compressed(start: torch.Tensor, classes: torch.Tensor, values: np.ndarray,
                n_classes: int) -> Compressed:
    """Class probabilities that are stored row by row, the classes of each ascending."""
    target = Compressed(as_array(start), as_array(classes), values, (len(start) - 1, n_classes))
    checked_csr(target, "target")
    if not is_canonical(target):
        raise ValueError("`target.col_indices()` must ascend in each row, and name no class twice")
    return target


def as_array(tensor: torch.Tensor) -> np.ndarray:
    """The memory of a tensor; bfloat16 as BFLOAT16.

    By way of DLPack the storage stays resizable, as those who shard parameters need it;
    ``tensor.numpy()`` would end that for good.
    """
    check_storage(tensor, "tensor")
    tensor = tensor.detach().resolve_conj().resolve_neg()
    if tensor.dtype == torch.bfloat16:
        return np.from_dlpack(tensor.view(torch.int16)).view(BFLOAT16)
    return np.from_dlpack(tensor)


def as_numbers(tensor: torch.Tensor) -> np.ndarray:
    """A tensor as an array that NumPy can read; of bfloat16, which it cannot, a copy."""
    array = as_array(tensor)
    return widened(array) if array.dtype == BFLOAT16 else array


def narrowed(array: np.ndarray, dtype: torch.dtype) -> torch.Tensor:
    """A gradient in the dtype of its tensor, where that is narrower in the same memory.

    So there is never more of a gradient than the array, which must own its memory, contiguous.
    What is left over is given back: nobody may read the array afterwards.
    """
    shape, size = array.shape, array.size
    wide = torch.from_numpy(array)
    if dtype.itemsize >= array.itemsize or size <= _BLOCK:
        return wide.to(dtype)
    wide = wide.view(-1)
    narrow = wide.view(dtype)[:size]
    for first in range(0, size, _BLOCK):  # written up to where it has been read, at most
        block = slice(first, first + _BLOCK)
        narrow[block] = wide[block].to(dtype)
    array.resize(-(-size * dtype.itemsize // array.itemsize), refcheck=False)
    return torch.from_numpy(array).view(dtype)[:size].view(shape)
