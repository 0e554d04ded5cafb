"""OpenVINO: a graph for each operation, in float32, in bfloat16, and with weights of int8."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from contender import Contender
from shapes import FORWARD

BYTE = 127  # the largest whole number that weights become


class OpenVino(Contender):
    """Weights are a constant of the graph, so they are packed when it is compiled."""

    name = "OpenVINO"
    packages = ("openvino",)
    ops = (*FORWARD, "best")
    lacks: ClassVar = {"value_and_grad": "OpenVINO has no training"}
    keeps_memory = True  # of its results, and the packed weights of each graph
    weight_copies = 1.0
    logit_copies = 2.0
    more_copies: ClassVar = {"topk": 2.0, "best": 2.0, "score": 3.0}
    precision = "f32"  # of the computation: else it is bfloat16 where the processor has that

    def __init__(self, problem, threads):
        super().__init__(problem, threads)
        import openvino as ov
        from openvino import opset13

        self.ov, self.nodes = ov, opset13
        self.feed = {"x": self.tensor(self.x), "t": self.tensor(self.target[:, None])}

    @classmethod
    def declines(cls, shape, itemsize):
        return super().declines(shape, itemsize) or (
            "the CPU plugin of OpenVINO has no float64" if itemsize == 8 else None)

    @classmethod
    def version(cls):
        return super().version().partition("-")[0]

    def operation(self, op):
        model, inputs = self._model(op)
        compiled = self.ov.Core().compile_model(model, "CPU", {
            "INFERENCE_PRECISION_HINT": self.precision, "INFERENCE_NUM_THREADS": self.threads,
            "NUM_STREAMS": 1})
        request = compiled.create_infer_request()
        feed = {name: self.feed[name] for name in inputs}
        return lambda: tuple(request.infer(feed, share_inputs=True, share_outputs=True).values())

    def to_numpy(self, result):
        return tuple(np.array(a[:, 0] if a.shape[1:] == (1,) else a) for a in result)

    def tensor(self, a: np.ndarray):
        """Give an array as it is in memory, which NumPy cannot do with bfloat16."""
        if a.dtype.name == "bfloat16":
            return self.ov.Tensor(a.view(np.uint16), list(a.shape), self.ov.Type.bf16)
        return self.ov.Tensor(a, shared_memory=True)

    def weights(self):
        """Give the node of the weights, float32."""
        return self.wide(self.ov.op.Constant(self.tensor(self.weight), shared_memory=True))

    def wide(self, node):
        """Give bfloat16 to operators of float32: a precision of bfloat16 leaves it as it is."""
        narrow = node.get_element_type() == self.ov.Type.bf16
        return self.nodes.convert(node, "f32") if narrow else node

    def _model(self, op):
        n, x, t = self.nodes, self.feed["x"], self.feed["t"]
        x = n.parameter(x.shape, x.element_type, name="x")
        t = n.parameter(t.shape, t.element_type, name="t")
        z = n.matmul(self.wide(x), self.weights(), False, True)
        outputs = getattr(self, f"_{op}")(n, z, t)
        inputs = [x, t] if op in ("loss", "score") else [x]
        model = self.ov.Model([n.result(node) for node in outputs], inputs, "head")
        for node, name in zip(model.inputs, "xt", strict=False):
            node.set_names({name})
        return model, "xt"[: len(inputs)]

    def _best_of(self, n, z, k):
        found = n.topk(z, np.int64(k), 1, "max", "value", index_element_type="i64")
        return found.output(1), found.output(0)

    def _loss(self, n, z, t):
        return [n.negative(n.gather_elements(n.log_softmax(z, 1), t, 1))]

    def _predict(self, n, z, t):
        return self._best_of(n, z, 1)[:1]

    def _best(self, n, z, t):
        return self._best_of(n, z, self.problem.shape.top)

    def _topk(self, n, z, t):
        index, _ = self._best(n, z, t)
        return index, n.gather_elements(n.log_softmax(z, 1), index, 1)

    def _predict_proba(self, n, z, t):
        return [n.softmax(z, 1)]

    def _score(self, n, z, t):
        index, _ = self._best(n, z, t)
        log_p, of_target = n.log_softmax(z, 1), n.gather_elements(z, t, 1)
        picked = n.gather_elements(log_p, t, 1)
        plogp = n.reduce_sum(n.multiply(n.exp(log_p), log_p), np.int64(1))
        rank = n.reduce_sum(n.convert(n.greater(z, of_target), "i64"), np.int64(1))
        return (n.negative(picked), n.subtract(of_target, picked), n.negative(plogp), rank, index,
                n.gather_elements(log_p, index, 1))


class OpenVinoBf16(OpenVino):
    """Products of bfloat16, and logits rounded to it."""

    name = "OpenVINO bf16"
    ops = ("loss", "predict", "topk", "best")
    lacks: ClassVar = {}
    takes_bfloat16 = only_bfloat16 = True
    agreement = "16 bits"
    precision = "bf16"


class OpenVinoInt8(OpenVinoBf16):
    """Weights rounded to 8 bits, a scale for each class; rows are rounded within a call."""

    name = "OpenVINO int8"
    products = ("int8", "int8")
    agreement = "approximate"
    counts = False
    weight_copies = 0.5

    def weights(self):
        """Give the node of bytes that are scaled back, which the plugin multiplies as bytes."""
        weight = self.weight.astype(np.float32)
        scale = np.abs(weight).max(axis=1, keepdims=True) / BYTE
        scale[scale == 0] = 1
        weight /= scale
        n = self.nodes
        return n.multiply(n.convert(n.constant(np.rint(weight).astype(np.int8)), "f32"),
                          n.constant(scale))
