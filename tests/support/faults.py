"""Faults on purpose: allocations that fail, interrupts wherever they can come; and calls to try.

``c/faults.c`` makes them; it is compiled when it is first asked for.
"""

from __future__ import annotations

import gc
import pickle
import signal
import subprocess
import sys
import sysconfig
import threading
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from functools import cache
from importlib.machinery import ExtensionFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import pytest

import logitless as ll

from .c_programs import TESTS, compiler_named

REST = 6  # of Python's memory: that of objects, and of what they hold
NAMES = (
    "loss", "loss, out", "loss, soft", "loss, halves", "predict", "topk", "topk, excluded",
    "candidates", "screened", "screened, few", "proba", "proba, out", "score", "score, few",
    "few", "few, predict", "few, loss", "gradients", "gradients, out", "gradients, added",
    "divergence", "divergences", "named", "named, gradients", "sample", "targets", "sparse",
    "sparse gradients", "state", "states", "head", "head, halves", "head, screened",
    "head, of a file", "head, taken", "temperature", "softmax",
)


@cache
def module():
    """The compiled module, or a skip where there is no compiler or Python has no headers."""
    if not (Path(sysconfig.get_path("include")) / "Python.h").exists():
        pytest.skip("the headers of Python are missing")
    path = str(Path(mkdtemp(), "faults.so"))
    flags = [f"-I{sysconfig.get_path('include')}", f"-I{np.get_include()}"]
    subprocess.run([compiler_named("gcc"), "-shared", "-fPIC", "-O1", *flags,
                    str(TESTS / "c" / "faults.c"), "-o", path], check=True, timeout=120)
    loader = ExtensionFileLoader("faults", path)
    found = module_from_spec(spec_from_loader("faults", loader))
    loader.exec_module(found)
    return found


def starved(call, which, domains=0):
    """What a call gives or raises when an allocation fails, and how many of these there were."""
    result, error = None, None
    module().starve(which, domains)
    try:
        result = call()
    except BaseException as raised:
        error = raised
    finally:
        count = module().feed()
    return result, error, count


def interrupted(call, first, second=0):
    """The same of a call that is interrupted, perhaps again on the way out.

    Python itself loses an interrupt that comes in a ``__del__``: then there were no looks.
    """
    faults, result, error, lost = module(), None, None, []
    before, sys.unraisablehook = sys.unraisablehook, lost.append
    handler = signal.signal(signal.SIGINT, faults.on_signal)
    try:
        try:
            faults.interrupt(first, second)
            result = call()
            count = faults.calm()
        except BaseException as raised:
            error, count = raised, faults.calm()
    except KeyboardInterrupt as raised:
        error, count = raised, faults.calm()
    signal.signal(signal.SIGINT, handler)
    sys.unraisablehook = before
    return result, error, 0 if lost and error is None else count


def flat(result):
    """All arrays of a result, in order."""
    if result is None:
        return []
    if is_dataclass(result):
        result = [getattr(result, field.name) for field in fields(result)]
    if isinstance(result, (tuple, list)):
        return [array for part in result for array in flat(part)]
    return [np.asarray(result)]


def as_bytes(result):
    return [array.tobytes() for array in flat(result)]


class Case:
    """A call, and what it must have left alone.

    Attributes
    ----------
    call : callable
        With no arguments; gives arrays.
    out : list of ndarray
        What it writes into: all 9 beforehand.
    late : bool
        Into that it writes at the very end, of what is computed elsewhere.
    """

    def __init__(self, call, *out, late=False):
        self.call, self.out, self.late = call, out, late

    def __call__(self):
        self.clear()
        return self.call()

    def clear(self):
        for array in self.out:
            array[...] = 9


def problem(m, n, k, seed=0):
    rng = np.random.default_rng(seed)
    x, w = rng.standard_normal((m, k), np.float32), rng.standard_normal((n, k), np.float32)
    return x, w, rng.integers(0, n, m)


def cases(folder):
    """Cases by name, and the arrays that they read."""
    from scipy import sparse

    x, w, t = problem(60, 1100, 20)
    few, v, s = problem(3, 9000, 20, 1)
    teacher_x, teacher_w, _ = problem(60, 1100, 12, 2)
    soft = np.abs(x[:, :1] * w[:, 0]) + 0.1
    spread = sparse.csr_array(np.where(np.abs(x) > 1, x, 0))
    mask = sparse.random_array((60, 1100), density=0.01, format="csr",
                               random_state=np.random.default_rng(0))
    np.savez(folder / "head.npz", weight=w)
    head, mapped = ll.LinearHead(w), ll.LinearHead(w, pack=False)
    halves = ll.LinearHead(w.astype(np.float16), pack=False)
    screened, many = ll.LinearHead(w, screen="int8"), ll.LinearHead(v, pack=False)
    small, teacher = ll.LinearHead(w[:9]), ll.LinearHead(teacher_w)
    likely = np.where(np.arange(60) % 4, head.predict(x), t)
    sure = 9 * x  # other classes have almost nothing, and are computed again
    named, prob = head.topk(sure, 8).index, np.full((60, 8), 0.1)
    loss, proba = np.empty(60, np.float32), np.empty((60, 1100), np.float32)
    grads = ll.Gradients(*(np.empty(a.shape, np.float32) for a in (x, w, w[:, 0])))
    state = ll.RowState.of(few, v[:4096], first=0, k=3)
    found = {
        "loss": Case(lambda: head.loss(x, t, reduction="mean", sample_weight=soft[:, 0])),
        "loss, out": Case(lambda: head.loss(x, t, out=loss), loss, late=True),
        "loss, soft": Case(lambda: mapped.loss(x, soft, label_smoothing=0.1)),
        "loss, halves": Case(lambda: halves.loss(x, t)),
        "predict": Case(lambda: head.predict(x)),
        "topk": Case(lambda: mapped.topk(x, 5)),
        "topk, excluded": Case(lambda: head.topk(x, 5, exclude=mask)),
        "candidates": Case(lambda: head.topk(x, 2, candidates=np.tile(t[:8], (60, 1)))),
        "screened": Case(lambda: screened.topk(x, 5, normalize=False)),
        "screened, few": Case(lambda: screened.predict(few)),
        "proba": Case(lambda: head.predict_proba(x)),
        "proba, out": Case(lambda: head.predict_proba(x, out=proba), proba),
        "score": Case(lambda: mapped.score(x, t, k=3, entropy=True)),
        "score, few": Case(lambda: many.score(few, s, k=3, entropy=True)),
        "few": Case(lambda: small.score(x[:3], t[:3] % 9, k=2, entropy=True)),
        "few, predict": Case(lambda: (small.predict(x[:3]), small.topk(x[:3], 2))),
        "few, loss": Case(lambda: (small.loss(x[:3], t[:3] % 9), small.predict_proba(x[:3]))),
        "gradients": Case(lambda: head.value_and_grad(x, t)),
        "gradients, out": Case(lambda: mapped.value_and_grad(x, t, out=grads),
                               grads.x, grads.weight, grads.bias),
        "gradients, added": Case(lambda: head.value_and_grad(
            x, t, out=grads, accumulate=True, workspace_bytes=1 << 16, filter_eps=1e-3),
            grads.x, grads.weight, grads.bias),
        "divergence": Case(lambda: head.kl_div(x, teacher, teacher_x, beta=0.5)),
        "divergences": Case(lambda: head.kl_div_value_and_grad(x, teacher, teacher_x)),
        "named": Case(lambda: head.topk_kl_div(sure, named, prob)),
        "named, gradients": Case(lambda: head.topk_kl_div_value_and_grad(sure, named, prob)),
        "sample": Case(lambda: head.sample(x[:9], np.random.default_rng(1))),
        "targets": Case(lambda: head.target_log_prob(x, np.tile(t[:8], (60, 1)))),
        "sparse": Case(lambda: head.score(spread, t, k=2)),
        "sparse gradients": Case(lambda: head.value_and_grad(spread, t)),
        "state": Case(lambda: ll.RowState.of(few, v, first=0, target=s, k=3).scores()),
        "states": Case(lambda: pickle.loads(pickle.dumps(state)).merge(
            ll.RowState.of(few, v[4096:], first=4096, k=3)).scores()),
        "head": Case(lambda: ll.LinearHead(w, w[:, 0]).logits(few)),
        "head, halves": Case(lambda: ll.LinearHead(w.astype(np.float16)).logits(few)),
        "head, screened": Case(lambda: ll.LinearHead(w, screen="int8").predict(few)),
        "head, of a file": Case(lambda: ll.LinearHead.from_file(folder / "head.npz").logits(few)),
        "head, taken": Case(lambda: head.take([5, 3, 900]).logits(few)),
        "temperature": Case(lambda: ll.fit_temperature(head, x, likely)),
        "softmax": Case(lambda: (ll.softmax(soft), ll.cross_entropy(soft, t))),
    }
    assert tuple(found) == NAMES
    return found, [x, w, t, few, v, s, soft, teacher_x, teacher_w]


@contextmanager
def at_the_same_time(work):
    """Another thread does this, and is spared whatever fails."""
    stop, failed = threading.Event(), []

    def busy():
        module().spare()
        try:
            while not stop.is_set():
                work()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=busy)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    assert not failed, failed


@contextmanager
def little_garbage():
    """What is there now is left alone when garbage is collected, which then takes no time."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def kept_bytes():
    """What is kept from call to call."""
    from logitless._engines.compiled import scratch

    return sum(len(memory) for memory in scratch._kept)
