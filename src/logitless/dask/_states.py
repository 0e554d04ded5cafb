"""Scores over chunks of rows and of classes: states of both, merged over the classes."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass
from functools import reduce
from itertools import accumulate
from typing import Any

import dask.array as da
import numpy as np
from dask.base import tokenize

from .._calls.targets import check_index
from ..head import LinearHead
from ..results import Scores, TopK
from ..states import RowState
from ._graph import Key, Layer, collected, first_rows, tree
from ._inputs import Inputs
from ._worker import Setting


@dataclass(frozen=True)
class Tasks:
    """What tasks do, the same for all chunks.

    Attributes
    ----------
    names : tuple of str
        Of the arrays that tasks are given last.
    n : int
        All classes.
    soft : bool
        Targets are class probabilities.
    of_head, of_loss : dict
        Options of the head, of losses.
    wanted : str
        "all", or the one field of Scores that is asked for.
    normalize : bool
        Best classes have log-probabilities.
    """

    setting: Setting
    names: tuple[str, ...]
    n: int
    soft: bool
    of_head: dict[str, Any]
    of_loss: dict[str, Any]
    wanted: str
    normalize: bool
    k: int = 0
    entropy: bool = False

    @property
    def ranks(self) -> bool:
        """Whether to find where the targets rank: their logits, first of all."""
        return self.wanted == "all" and "target" in self.names and not self.soft

    def scores(self, first_row: int | None, x: np.ndarray, weight: np.ndarray,
               bias: np.ndarray | None, *arrays: np.ndarray) -> Scores:
        """What is wanted of rows, from one head of all classes."""
        given: dict[str, Any] = dict(zip(self.names, arrays, strict=True))
        target = given.pop("target", None)
        with self.setting.of_task(first_row):
            head = self.head(weight, bias)
            if self.wanted == "predicted":
                return Scores(predicted=head.predict(x))
            if self.wanted == "top":
                return Scores(top=head.topk(x, self.k, normalize=self.normalize))
            if self.wanted == "loss":
                return Scores(loss=head.loss(x, target, **self.of_loss, **given))
            return head.score(x, target, k=self.k, entropy=self.entropy, **self.of_loss, **given)

    def target_logit(self, first_row: int | None, first: int, x: np.ndarray, weight: np.ndarray,
                     bias: np.ndarray | None, *arrays: np.ndarray) -> np.ndarray:
        """Logits of the targets that are classes of this chunk, NaN for the others."""
        given: dict[str, Any] = dict(zip(self.names, arrays, strict=True))
        options = {name: value for name, value in {**self.of_loss, **given}.items()
                   if name in ("ignore_index", "temperature")}
        with self.setting.of_task(first_row):
            return RowState.target_logits(x, weight, given["target"], bias, first=first,
                                          **self.of_head, **options)

    def state(self, first_row: int | None, known: np.ndarray | None, first: int, x: np.ndarray,
              weight: np.ndarray, bias: np.ndarray | None, *arrays: np.ndarray) -> RowState:
        """State of rows after the classes of a chunk, of which `first` is the first."""
        given: dict[str, Any] = dict(zip(self.names, arrays, strict=True))
        target = given.get("target")
        with self.setting.of_task(first_row):
            if first == 0 and target is not None and not self.soft:
                check_index(target, self.n, self.of_loss.get("ignore_index", -100))
            return RowState.of(x, weight, bias, first=first, k=self.k, entropy=self.entropy,
                               target_logit=known, **self.of_head, **self.of_loss, **given)

    def merge(self, states: list[Any]) -> Any:
        """One state of several, which stay as they are: Dask may merge them again."""
        merged = copy(states[0])
        for state in states[1:]:
            merged.merge(state)
        return merged

    def finish(self, states: list[Any]) -> Scores:
        """What has been found after all classes."""
        with self.setting.of_task():
            return self.merge(states).scores()

    def head(self, weight: np.ndarray, bias: np.ndarray | None) -> LinearHead:
        """Make a head, not packed: for the rows of a chunk that does not pay."""
        return LinearHead(weight, bias, pack=False, **self.of_head)


class BestTasks(Tasks):
    """The same where nothing but best classes is wanted, which takes no exponential."""

    def state(self, first_row: int | None, known: None, first: int, x: np.ndarray,  # type: ignore[override]
              weight: np.ndarray, bias: np.ndarray | None) -> TopK:
        """Best classes of a chunk."""
        with self.setting.of_task(first_row):
            head = self.head(weight, bias)
            top = head.topk(x, min(max(self.k, 1), head.n_classes), normalize=False)
        return TopK(top.index + first, top.logit)

    def merge(self, states: list[TopK]) -> TopK:
        """Best of the best: a NaN before every number, the lowest class among equals."""
        index = np.concatenate([top.index for top in states], axis=1)
        logit = np.concatenate([top.logit for top in states], axis=1)
        best = np.lexsort((index, -logit, ~np.isnan(logit)), axis=1)[:, : max(self.k, 1)]
        return TopK(*(np.take_along_axis(array, best, axis=1) for array in (index, logit)))

    def finish(self, states: list[TopK]) -> Scores:
        """The classes wanted."""
        top = self.merge(states)
        return Scores(predicted=top.index[:, 0], top=top)


FEW = 16  # classes, up to which a head has logits of another kind than a larger one


def kind_of_tasks(inputs: Inputs, wanted: str, normalize: bool) -> type[Tasks]:
    """The shortest way to what is wanted."""
    best = wanted == "predicted" or (wanted == "top" and not normalize)
    return BestTasks if best and min(inputs.class_chunks) > FEW else Tasks


def scores(inputs: Inputs, tasks: Tasks) -> da.Array:
    """Lazy Scores of each chunk of rows: a task for each of classes, and those that merge."""
    token = tokenize([array.name for array in inputs.dependencies], tasks)
    name, firsts = f"logitless-scores-{token}", [*accumulate(inputs.class_chunks[:-1], initial=0)]
    layer: Layer = {}
    for i, first_row in enumerate(first_rows(inputs.row_chunks)):
        x = (inputs.x.name, i, 0)
        if len(firsts) == 1:
            layer[name, i] = (tasks.scores, first_row, x, *inputs.classes(0), *inputs.keys(i, 0))
            continue
        shards = [(first, x, *inputs.classes(j), *inputs.keys(i, j))
                  for j, first in enumerate(firsts)]
        known = _target_logits(layer, f"logitless-target-{token}", i, first_row, shards, tasks)
        states = [(f"logitless-state-{token}", i, j) for j in range(len(firsts))]
        layer.update((state, (tasks.state, first_row, known, *shard))
                     for state, shard in zip(states, shards, strict=True))
        layer[name, i] = (tasks.finish, tree(layer, (name, i), states, tasks.merge))
    return collected(name, layer, (inputs.row_chunks,), inputs.dependencies)


def _target_logits(layer: Layer, name: str, row: int, first_row: int | None,
                   shards: list[tuple[Any, ...]], tasks: Tasks) -> Key | None:
    """Add the tasks that find logits of targets, which only their own shards know."""
    if not tasks.ranks:
        return None
    found = [(name, row, j) for j in range(len(shards))]
    layer.update((key, (tasks.target_logit, first_row, *shard))
                 for key, shard in zip(found, shards, strict=True))
    layer[name, row] = (_known, tree(layer, (name, row), found, _known))
    return (name, row)


def _known(logits: list[np.ndarray]) -> np.ndarray:
    """What any of them knows."""
    return reduce(np.fmax, logits)
