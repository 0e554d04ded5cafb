"""Every public call with every option, its arguments good ones for the most part."""

from __future__ import annotations

import itertools
import types

import numpy as np

from . import files
from .draw import FLOATS, JUNK
from .problem import Grads, Head, Problem


class Case:
    """One call: a function of the package (as a module) and its arguments by name."""

    def __init__(self, name, args, call=None):
        self.name, self.args, self.call = name, args, call or _by_name(name)
        self.exact = False  # plain NumPy finds the same, in every class

    def run(self, ll, args=None):
        args = self.args if args is None else args
        return self.call(ll, **{name: made(ll, value) for name, value in args.items()})


def made(ll, value):
    if isinstance(value, Head):
        return ll.LinearHead(**value)
    if isinstance(value, Grads):
        return ll.Gradients(**value)
    if isinstance(value, list) and value and isinstance(value[0], Head):
        return [made(ll, head) for head in value]
    return value


def _by_name(name):
    owner, _, method = name.rpartition(".")

    def call(ll, **args):
        return getattr(getattr(ll, owner) if owner else ll, method)(**args)

    return call


def columns(p):
    return {"x": p.x(), **p.out((*p.lead, p.n)), **p.exclude()}


def ranked(p):
    args = {"x": p.x(), "k": p.best(), **p.exclude()}
    if p.draw.chance(0.3):
        args["normalize"] = False
    if p.draw.chance(0.25):
        args["candidates"] = p.draw.form(
            p.index((*p.lead, p.draw.pick([0, 1, 2, 5, 40])), none=0.2))
    return args


def scored(p):
    args = {"x": p.x(), **p.of_loss(), **p.exclude()}
    if p.draw.chance(0.8):
        args["target"] = p.target()
    if p.draw.chance(0.5):
        args["k"] = p.best()
    if p.draw.chance(0.5):
        args["entropy"] = True
    return args


def lost(p):
    return {"x": p.x(), "target": p.target(), **p.of_loss(), **p.reduced(), **p.exclude(0.15)}


def backward(p):
    args = {"x": p.x(), "target": p.target(), **p.of_loss(), **p.backward()}
    if p.draw.chance(0.2):
        args["filter_eps"] = p.draw.pick([0.0, 1e-6, 0.1, 1])
    return args


def candidates(p):
    soft = p.draw.chance(0.5)
    args = {"x": p.x()}
    args["target"] = p.target() if soft else p.index((*p.lead, p.draw.pick([0, 1, 3])))
    return args | {k: v for k, v in p.of_loss().items() if k in ("ignore_index", "temperature")}


def teacher(p, more):
    k = p.draw.pick([1, 2, 5, p.k])
    return {"x": p.x(), "teacher": p.head(k), "teacher_x": p.x(k=k), **p.kl(), **more}


METHODS = {  # of a head: how often, and its arguments
    "loss": (12, lost),
    "value_and_grad": (12, backward),
    "score": (10, scored),
    "topk": (10, ranked),
    "predict": (6, lambda p: {"x": p.x(), **p.exclude()}),
    "predict_proba": (4, columns),
    "predict_log_proba": (3, columns),
    "logits": (3, lambda p: {"x": p.x(), **p.out((*p.lead, p.n))}),
    "logsumexp": (3, lambda p: {"x": p.x(), **p.exclude()}),
    "target_log_prob": (4, candidates),
    "sample": (3, lambda p: {"x": p.x(), "rng": p.draw.pick([0, 1, 2**40]),
                             "size": p.draw.pick([0, 1, 3]), **p.exclude()}),
    "kl_div": (4, lambda p: teacher(p, p.reduced())),
    "kl_div_value_and_grad": (4, lambda p: teacher(p, p.backward())),
    "topk_kl_div": (4, lambda p: {"x": p.x(), **p.few(), **p.kl(), **p.reduced()}),
    "topk_kl_div_value_and_grad": (4, lambda p: {"x": p.x(), **p.few(), **p.kl(), **p.backward()}),
}
FUNCTIONS = {  # the same without a head, where another name or argument is
    "linear_cross_entropy": (4, lost),
    "linear_cross_entropy_value_and_grad": (4, backward),
    "linear_score": (3, scored),
    "linear_topk": (3, ranked),
    "linear_softmax": (2, lambda p: {"x": p.x(), **p.exclude()}),
    "linear_log_softmax": (1, lambda p: {"x": p.x(), **p.exclude()}),
    "linear_logsumexp": (1, lambda p: {"x": p.x(), **p.exclude()}),
    "linear_argmax": (2, lambda p: {"x": p.x(), **p.exclude()}),
    "linear_topk_kl_div": (1, METHODS["topk_kl_div"][1]),
    "linear_topk_kl_div_value_and_grad": (1, METHODS["topk_kl_div_value_and_grad"][1]),
}


def of_head(p, name):
    return Case(f"LinearHead.{name}", {"self": p.head(), **METHODS[name][1](p)})


def of_function(p, name):
    head = {"weight": p.weight(), "bias": p.bias(), **p.options()}
    return Case(name, head | FUNCTIONS[name][1](p))


def two_weights(p, name):
    k = p.draw.pick([1, 2, 5, p.k])
    args = {"x": p.x(), "weight": p.weight(), "bias": p.bias(), "teacher_x": p.x(k=k),
            "teacher_weight": p.weight(k), "teacher_bias": p.bias(), **p.kl()}
    for option in ("temperature", "teacher_temperature", "softcap", "teacher_softcap"):
        if p.draw.chance(0.2):
            args[option] = p.draw.pick([1.0, 0.5, 3])
    return Case(name, args | (p.backward() if name.endswith("grad") else p.reduced()))


def at_hand(p, name):
    """Logits or probabilities."""
    draw = p.draw
    if name == "cross_entropy":
        return Case(name, {"logits": draw.form(draw.numbers((*p.lead, p.n), p.of_x, 3)),
                           "target": p.target(), **p.of_loss(), **p.reduced()})
    if name == "nll":
        of_loss = {k: v for k, v in p.of_loss().items() if k in ("ignore_index", "class_weight")}
        return Case(name, {"p": draw.form(np.abs(draw.numbers((*p.lead, p.n), p.of_x, 0.3))),
                           "target": p.target(), **of_loss, **p.reduced()})
    axis = {}
    if not draw.chance(0.5):
        axis["axis"] = draw.pick([-1, 0, 1, None, (0, 1), (), (1, 0), 5, (0, 0)])
    return Case(name, {"logits": draw.form(draw.numbers((*p.lead, p.n), p.of_x, 3)), **axis})


def states(p, _):
    """States of ranges of classes, one of them through a pickle, merged in some order."""
    draw = p.draw
    cuts = sorted({0, p.n, *(draw.below(p.n) for _ in range(draw.below(3)))})
    whole = np.asarray(p.draw.numbers((p.n, p.k), p.of_weight, 0.5))
    ranges = list(itertools.pairwise(cuts))
    if draw.chance(0.1):
        ranges[0] = (0, draw.pick([p.n, 1]))
    draw.random.shuffle(ranges)
    options = p.options()
    of_loss = {k: v for k, v in p.of_loss().items() if k not in ("class_weight", "shift")}
    args = {"heads": [Head(weight=draw.form(whole[lo:hi].copy()), **options) for lo, hi in ranges],
            "first": [lo for lo, _ in ranges], "x": p.x(), "k": draw.pick([0, 1, 2, p.n]),
            "target": p.target(soft=False), "entropy": draw.chance(0.5), **of_loss}
    return Case("RowState", args, files.merged)


def of_classes(p, name):
    draw = p.draw
    args = {"self": p.head()}
    if name == "take":
        args["classes"] = draw.form(p.index((draw.pick([0, 1, 2, 5]),)))
        return Case("LinearHead.take", args, lambda ll, classes, self: self.take(classes).logits(
            np.ones(self.n_features, np.float32)))
    if name == "with_temperature":
        args["temperature"] = draw.pick([1, 0.5, 1e-39, 1e300])
        return Case("LinearHead.with_temperature", args, lambda ll, self, temperature:
                    self.with_temperature(temperature).logits(np.ones(self.n_features, np.float32)))
    linear = types.SimpleNamespace(weight=p.weight(), bias=p.bias(), coef_=p.weight(),
                                   intercept_=p.bias(), classes_=np.arange(p.n))
    return Case(f"LinearHead.{name}", {draw.pick(["linear" if name == "from_module" else "fitted"]):
                                       linear, **p.options()})


def fitted(p, _):
    args = {"head": p.head(), "x": p.x(), "target": p.target()}
    return Case("fit_temperature", args | {k: v for k, v in p.of_loss().items() if k in (
        "ignore_index", "sample_weight", "shift")})


def numbers(p, name):
    draw = p.draw
    if name == "shard_bounds":
        return Case(name, {"n": draw.pick([1, 4096, 4097, draw.below(10**6)]),
                           "parts": draw.pick([1, 2, 3, 9])})
    m = draw.below(40)
    args = {"confidence": draw.form(np.abs(draw.numbers((m,), draw.pick(FLOATS[:10]), 0.3))),
            "hit": draw.form(draw.classes((m,), 2, draw.pick([np.int64, np.bool_, np.float32])))}
    return Case(name, args | ({} if draw.chance(0.5) else {"bins": draw.pick([1, 2, 15, 100])}))


def damaged(p, _):
    draw = p.draw
    args = {"data": draw.bytes(draw.pick(files.FILES)), "part": files.PART,
            "read": draw.pick(["head", "array"])}
    if draw.chance(0.3):
        args["part"] = draw.bytes(files.PART)
    if draw.chance(0.2):
        args["key"] = draw.pick(["weight", "lm_head.weight", "a", "missing", ""])
    if args["read"] == "head" and draw.chance(0.7):
        args["pack"] = draw.chance(0.5)
    return Case("from_file", args, files.read_file)


TABLE = [(weight, of_head, name) for name, (weight, _) in METHODS.items()]
TABLE += [(weight, of_function, name) for name, (weight, _) in FUNCTIONS.items()]
TABLE += [(1, two_weights, "linear_kl_div"), (1, two_weights, "linear_kl_div_value_and_grad"),
          (3, at_hand, "softmax"), (2, at_hand, "log_softmax"), (2, at_hand, "logsumexp"),
          (5, at_hand, "cross_entropy"), (3, at_hand, "nll"), (6, states, ""),
          (1, of_classes, "take"), (1, of_classes, "with_temperature"),
          (1, of_classes, "from_module"), (1, of_classes, "from_estimator"), (2, fitted, ""),
          (1, numbers, "calibration_error"), (1, numbers, "shard_bounds"), (8, damaged, "")]
ENTRIES = [entry[1:] for entry in TABLE for _ in range(entry[0])]


def case(draw):
    """The call that a seed stands for: the same draw goes on to say how it is checked."""
    make, name = draw.pick(ENTRIES)
    problem = Problem(draw)
    found = make(problem, name)
    if draw.chance(0.15):
        spoil(draw, found)
    found.exact = draw.whole and found.name != "fit_temperature" and not _divides(found.args)
    return found


def _divides(args):
    """Whether logits are rounded, so that which of two is larger may depend on how."""
    heads = [head for value in args.values()
             for head in (value if isinstance(value, list) else [value]) if isinstance(head, Head)]
    return any(name in options for options in (args, *heads)
               for name in ("softcap", "temperature", "teacher_softcap", "teacher_temperature"))


def spoil(draw, found):
    """Put something else in the place of an argument, or give one that there is not."""
    args = found.args
    while args:
        name = draw.pick(list(args))
        if isinstance(args[name], list) and args[name] and isinstance(args[name][0], Head):
            args = draw.pick(args[name])
        elif isinstance(args[name], (Head, Grads)) and draw.chance(0.9):
            args = args[name]
        else:
            break
    if not args or name in ("self", "data", "part", "read", "heads", "first"):
        return
    if draw.chance(0.05):
        name = draw.pick(
            ["temprature", "shift", "k", "out", "exclude", "n_threads", "screen", "softcap"])
    junk = draw.pick(JUNK)
    if name in ("bins", "size", "k") and type(junk) is int and junk == 2**31:
        junk = 2**63  # there might be memory for the other
    args[name] = junk
