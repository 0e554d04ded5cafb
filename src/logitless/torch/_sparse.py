"""Class probabilities in PyTorch's sparse layouts: what is stored of each row."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch


class SparseTarget(NamedTuple):
    """What is stored of class probabilities (..., C): dense tensors.

    Attributes
    ----------
    values : Tensor, shape (entries,)
        As a differentiable function of the sparse tensor, copied: compilers choke on a view.
    start : Tensor, shape (rows + 1,)
        Row i holds entries ``start[i]`` to ``start[i + 1]``.
    classes : Tensor, shape (entries,)
        That of each entry.
    """

    values: torch.Tensor
    start: torch.Tensor
    classes: torch.Tensor

    @classmethod
    def of(cls, target: torch.Tensor) -> SparseTarget:
        """Read a tensor in COO layout, entries of one place added up, or in CSR."""
        if target.layout == torch.sparse_csr:
            return cls(target.values().clone(), target.crow_indices(), target.col_indices())
        target = target.coalesce()
        *before, classes = target.indices()
        row = torch.zeros_like(classes)
        for size, at in zip(target.shape, before, strict=False):
            row = row * size + at
        rows = torch.arange(math.prod(target.shape[:-1]) + 1, device="cpu")
        return cls(target.values().clone(), torch.searchsorted(row, rows), classes)

    def hits(self, predicted: torch.Tensor) -> torch.Tensor:
        """Whether no entry of a row is larger than that of the class predicted for it, (rows,)."""
        row = torch.repeat_interleave(self.start.diff(), output_size=len(self.classes))
        nothing = self.values.new_zeros(len(self.start) - 1)
        of_predicted = self.values.masked_fill(self.classes != predicted[row], 0)
        best, of_predicted = (nothing.scatter_reduce(0, row, values, "amax")
                              for values in (self.values, of_predicted))
        return (of_predicted == best) & (best > 0)
