"""FAISS: classes as vectors, the best of them by inner product."""

from __future__ import annotations

import time

from contender import Contender
from shapes import SCREEN

NEIGHBOURS, SEARCH_WIDTH = 32, 64
MOST_WEIGHTS = 40_000_000  # of an approximate index that one thread makes in about a minute


class Faiss(Contender):
    """``IndexFlatIP``: the exact answer, every class looked at."""

    name = "FAISS"
    packages = ("faiss",)
    ops = SCREEN
    weight_copies = 1.0
    logit_copies = 0.0

    def __init__(self, problem, threads):
        super().__init__(problem, threads)
        import faiss

        faiss.omp_set_num_threads(threads)
        self.index = self.made(faiss, problem.shape.k)
        start = time.perf_counter()
        self.index.add(self.weight)
        self.build_seconds = time.perf_counter() - start

    def made(self, faiss, k: int):
        """Give an empty index."""
        return faiss.IndexFlatIP(k)

    @classmethod
    def declines(cls, shape, itemsize):
        return "FAISS has no float64" if itemsize == 8 else None

    def facts(self):
        return {"build_seconds": self.build_seconds}

    @classmethod
    def transient(cls, shape, op, itemsize):
        return 64 << 20

    def predict(self):
        return self.index.search(self.x, 1)[1][:, 0]

    def best(self):
        logit, index = self.index.search(self.x, self.problem.shape.top)
        return index, logit


class FaissHnsw(Faiss):
    """``IndexHNSWFlat``: a graph of classes, of which a search looks at some."""

    name = "FAISS, HNSW"
    agreement = "approximate"
    counts = False  # an approximate answer is another thing
    weight_copies = 2.0

    def made(self, faiss, k):
        index = faiss.IndexHNSWFlat(k, NEIGHBOURS, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efSearch = SEARCH_WIDTH
        return index

    @classmethod
    def declines(cls, shape, itemsize):
        if shape.n * shape.k > MOST_WEIGHTS:
            return f"making the index takes minutes above {MOST_WEIGHTS:,} weights"
        return super().declines(shape, itemsize)
