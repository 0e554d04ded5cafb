"""What `logitless evaluate` finds in one pass: how good predictions are, where they are not."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

import logitless as ll

from .._arrays.bfloat16 import is_bfloat16, widened
from .scoring import Block, Totals

BINS = 15


class Evaluation:
    """Sums over the rows that count; with probabilities as targets, classes that have any count.

    Parameters
    ----------
    ks : tuple of int
        Classes that a user would look at.
    n_hardest : int
    of_classes : bool
        Targets are one class a row.
    """

    def __init__(self, ks: tuple[int, ...], n_hardest: int, of_classes: bool):
        self.totals = Totals()
        self._ks, self._n_hardest, self._of_classes = ks, n_hardest, of_classes
        self._ranked, self._rank = 0, 0
        self._with_relevant = 0
        self._hit, self._recall, self._ndcg = (np.zeros(len(ks)) for _ in range(3))
        self._bins = np.zeros((3, BINS))  # predictions, sums of their confidence, hits
        self._hardest: list[dict[str, Any]] = []

    def add(self, block: Block) -> None:
        """Add a block of rows."""
        scores, counts = block.scores, block.counts
        self.totals = self.totals.plus(scores, counts)
        counted = np.broadcast_to(counts, scores.lse.shape)
        if self._of_classes:
            self._add_ranks(scores, counted)
        else:
            self._add_relevant(scores, block.target)
        self._add_hardest(block, counted)

    def _add_ranks(self, scores: ll.Scores, counted: np.ndarray) -> None:
        assert scores.target_rank is not None  # as targets are classes
        assert scores.loss is not None
        known = counted & (scores.target_rank >= 0)
        rank = scores.target_rank[known]
        left = np.isfinite(scores.loss[known])  # others are behind all, and among the best of none
        self._ranked += rank.size
        self._rank += int(rank.sum()) + rank.size
        self._with_relevant += int(np.count_nonzero(counted))
        for i, k in enumerate(self._ks):
            found = rank[(rank < k) & left]
            self._hit[i] += found.size
            self._recall[i] += found.size
            self._ndcg[i] += (1 / np.log2(found + 2)).sum()
        found_bins = ll.calibration_error(scores.confidence[known], rank == 0, bins=BINS)
        sums = [found_bins.count, found_bins.confidence, found_bins.accuracy]
        for i, values in enumerate(sums):
            self._bins[i] += np.nan_to_num(values) * (found_bins.count if i else 1)

    def _add_relevant(self, scores: ll.Scores, target: Any) -> None:
        assert scores.top is not None  # as it was asked for
        index = scores.top.index
        gain, ideal, relevant = _gains(target, index)
        some = np.isfinite(scores.lse) & (relevant > 0)
        self._with_relevant += int(np.count_nonzero(relevant > 0))
        discount = 1 / np.log2(np.arange(index.shape[1]) + 2)
        for i, k in enumerate(self._ks):
            hits = np.count_nonzero(gain[some, :k] > 0, axis=1)
            self._hit[i] += np.count_nonzero(hits)
            self._recall[i] += (hits / relevant[some]).sum()
            dcg, best = ((values[some, :k] * discount[:k]).sum(axis=1) for values in (gain, ideal))
            self._ndcg[i] += (dcg / best).sum()

    def _add_hardest(self, block: Block, counted: np.ndarray) -> None:
        scores = block.scores
        assert scores.loss is not None  # as there are targets
        loss = np.where(np.isnan(scores.loss), np.inf, scores.loss)
        rows = np.flatnonzero(counted)
        rows = rows[np.argsort(-loss[rows], kind="stable")[: self._n_hardest]]
        for row in rows.tolist():
            own = {"row": block.begin + row, "loss": float(scores.loss[row]),
                   "predicted": int(scores.predicted[row]),
                   "p_predicted": float(scores.confidence[row])}
            if self._of_classes:
                own |= {"target": int(block.target[row]), "p_target": math.exp(-own["loss"])}
            self._hardest.append(own)
        self._hardest.sort(key=lambda row: -row["loss"] if row["loss"] == row["loss"]
                           else -math.inf)
        del self._hardest[self._n_hardest :]

    def found(self) -> dict[str, Any]:
        """All of it by name; None for what cannot be told."""
        totals, rows = self.totals, max(self._with_relevant, 1)
        mean = totals.loss / totals.counted if totals.counted else math.nan
        with np.errstate(over="ignore"):
            perplexity = float(np.exp(mean))
        found: dict[str, Any] = {
            "rows": totals.rows, "counted": totals.counted, "no_softmax": totals.no_softmax,
            "mean_loss": mean, "perplexity": perplexity}
        for name, sums in (("topk_accuracy", self._hit), ("recall", self._recall),
                           ("ndcg", self._ndcg)):
            found[name] = {str(k): value / rows if self._with_relevant else math.nan
                           for k, value in zip(self._ks, sums.tolist(), strict=True)}
        if self._of_classes:
            correct = totals.correct or 0
            found["accuracy"] = correct / totals.counted if totals.counted else math.nan
            found["mean_rank"] = self._rank / self._ranked if self._ranked else math.nan
            count, confidence, hits = self._bins
            found["calibration_error"] = (float(np.abs(confidence - hits).sum() / count.sum())
                                          if count.any() else math.nan)
        found["hardest"] = self._hardest
        return found


def _gains(target: Any, index: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Probabilities of these classes (m, k), the largest k of each row, and how many there are."""
    m, k = index.shape
    if is_bfloat16(target.dtype):
        target = widened(target)
    there = index >= 0  # else fewer than k classes are left
    if isinstance(target, np.ndarray):
        return (np.where(there, np.take_along_axis(target, index, 1), 0),
                -np.sort(-target, axis=1)[:, :k], np.count_nonzero(target > 0, axis=1))
    if not target.has_canonical_format:
        target = target.copy()
        target.sum_duplicates()
    row = np.repeat(np.arange(m), np.diff(target.indptr))
    order = np.lexsort((-target.data, row))
    place = np.arange(len(row)) - target.indptr[row]
    first = place < k
    ideal = np.zeros((m, k))
    ideal[row[first], place[first]] = target.data[order][first]
    gain = np.asarray(target[np.repeat(np.arange(m), k), index.reshape(-1)]).reshape(m, k)
    return np.where(there, gain, 0), ideal, np.bincount(row[target.data > 0], minlength=m)


def as_json(found: Any) -> Any:
    """Numbers that JSON has: None in place of others."""
    if isinstance(found, dict):
        return {name: as_json(value) for name, value in found.items()}
    if isinstance(found, list):
        return [as_json(value) for value in found]
    return None if isinstance(found, float) and not math.isfinite(found) else found


def show(console: Console, found: dict[str, Any]) -> None:
    """Print what was found."""
    lines = [("rows", f"{found['rows']:,}")]
    if found["no_softmax"]:
        lines.append(("no softmax", f"{found['no_softmax']:,} rows"))
    if found["counted"] != found["rows"]:
        lines.append(("counted", f"{found['counted']:,}"))
    lines += [("mean loss", f"{found['mean_loss']:.6g} nats"),
              ("perplexity", f"{found['perplexity']:.6g}")]
    if "accuracy" in found:
        lines += [("accuracy", f"{found['accuracy']:.2%}"),
                  ("mean rank", f"{found['mean_rank']:.6g}, 1 is best"),
                  ("calibration error", f"{found['calibration_error']:.4f}, expected, of "
                                        f"{BINS} bins")]
    console.print(_table(None, lines), "")
    console.print(_table(("k", "top-k accuracy", "recall at k", "NDCG at k"), [
        (k, *(f"{found[name][k]:.4f}" for name in ("topk_accuracy", "recall", "ndcg")))
        for k in found["recall"]]))
    if found["hardest"]:
        console.print("", _table(tuple(found["hardest"][0]), [
            tuple(f"{value:.4g}" if isinstance(value, float) else str(value)
                  for value in row.values()) for row in found["hardest"]]))


def _table(names: tuple[str, ...] | None, rows: list[Any]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, show_header=names is not None)
    for name in names or ("", ""):
        table.add_column(name.replace("_", " "), justify="right" if names else "left",
                         no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table
