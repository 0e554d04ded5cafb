"""ONNX Runtime: a graph of standard operators for each operation."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from contender import Contender
from shapes import FORWARD

PLANNED_BYTES = 1 << 30
_INT64 = ("predicted", "index", "rank")
_GRAPHS = {  # (operator, inputs, outputs, attributes); z = Gemm(x, weight) goes before
    "loss": [
        ("LogSoftmax", "z", "log_p", {"axis": 1}),
        ("GatherElements", "log_p t", "picked", {"axis": 1}),
        ("Neg", "picked", "loss", {}),
    ],
    "predict": [("ArgMax", "z", "predicted", {"axis": 1, "keepdims": 0})],
    "topk": [
        ("TopK", "z top", "logit index", {"axis": 1}),
        ("LogSoftmax", "z", "log_p", {"axis": 1}),
        ("GatherElements", "log_p index", "log_prob", {"axis": 1}),
    ],
    "best": [("TopK", "z top", "logit index", {"axis": 1})],
    "predict_proba": [("Softmax", "z", "proba", {"axis": 1})],
    "score": [
        ("TopK", "z top", "logit index", {"axis": 1}),
        ("LogSoftmax", "z", "log_p", {"axis": 1}),
        ("GatherElements", "log_p index", "log_prob", {"axis": 1}),
        ("GatherElements", "log_p t", "picked", {"axis": 1}),
        ("Neg", "picked", "loss", {}),
        ("GatherElements", "z t", "z_target", {"axis": 1}),
        ("Sub", "z_target picked", "lse", {}),
        ("Exp", "log_p", "p", {}),
        ("Mul", "p log_p", "p_log_p", {}),
        ("ReduceSum", "p_log_p axis", "minus_entropy", {"keepdims": 0}),
        ("Neg", "minus_entropy", "entropy", {}),
        ("Greater", "z z_target", "before", {}),
        ("Cast", "before", "before_f32", {"to": 1}),
        ("ReduceSum", "before_f32 axis", "rank_f32", {"keepdims": 0}),
        ("Cast", "rank_f32", "rank", {"to": 7}),
    ],
}
_OUTPUTS = {
    "loss": ["loss"],
    "predict": ["predicted"],
    "topk": ["index", "log_prob"],
    "best": ["index", "logit"],
    "predict_proba": ["proba"],
    "score": ["loss", "lse", "entropy", "rank", "index", "log_prob"],
}


class OnnxRuntime(Contender):
    """Weights are a constant of the graph, so they are packed when the session is made."""

    name = "ONNX Runtime"
    packages = ("onnxruntime", "onnx")
    ops = (*FORWARD, "best")
    lacks: ClassVar = {"value_and_grad": "the onnxruntime package has no training"}
    keeps_memory = True  # an arena, and the packed weights of each session
    weight_copies = 1.0
    logit_copies = 2.25
    more_copies: ClassVar = {"score": 2.5}

    def __init__(self, problem, threads):
        super().__init__(problem, threads)
        import onnxruntime as ort

        self.ort = ort
        self.initial = ort.OrtValue.ortvalue_from_numpy(self.weight)
        self.feed = {"x": self.x, "t": self.target[:, None]}

    def operation(self, op):
        model, inputs = self._model(op)
        options = self.ort.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # A plan makes the second call take its memory in one piece, beside that of the first:
        # no faster where there is much of it, and twice as much.
        needed = self.transient(self.problem.shape, op, self.problem.dtype.itemsize)
        options.enable_mem_pattern = needed < PLANNED_BYTES
        options.add_external_initializers(["weight"], [self.initial])
        session = self.ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        feed = {name: self.feed[name] for name in inputs}
        return lambda: tuple(session.run(None, feed))

    def to_numpy(self, result):
        return tuple(a[:, 0] if a.shape[1:] == (1,) else a for a in result)

    def _model(self, op):
        from onnx import TensorProto, helper, numpy_helper

        real = helper.np_dtype_to_tensor_dtype(self.problem.dtype)
        m, n, k = self.problem.shape.m, self.problem.shape.n, self.problem.shape.k
        nodes = [helper.make_node("Gemm", ["x", "weight"], ["z"], transB=1)]
        nodes += [helper.make_node(kind, ins.split(), outs.split(), **attributes)
                  for kind, ins, outs, attributes in _GRAPHS[op]]
        used = {name for node in nodes for name in node.input}
        inputs = [helper.make_tensor_value_info("x", real, [m, k])]
        if "t" in used:
            inputs.append(helper.make_tensor_value_info("t", TensorProto.INT64, [m, 1]))
        constants = {"top": self.problem.shape.top, "axis": 1}
        initializers = [self._weight_outside(real, n, k)]
        initializers += [numpy_helper.from_array(np.array([value]), name)
                         for name, value in constants.items() if name in used]
        outputs = [
            helper.make_tensor_value_info(
                name, TensorProto.INT64 if name in _INT64 else real, None)
            for name in _OUTPUTS[op]
        ]
        graph = helper.make_graph(nodes, "head", inputs, outputs, initializers)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
        model.ir_version = 10
        return model.SerializeToString(), [value.name for value in inputs]

    def _weight_outside(self, real, n, k):
        """Name the weights without their bytes: a model holds at most 2 GiB."""
        from onnx import TensorProto

        weight = TensorProto(name="weight", data_type=real, dims=[n, k],
                             data_location=TensorProto.EXTERNAL)
        facts = {"location": "weight", "offset": "0", "length": str(self.weight.nbytes)}
        for key, value in facts.items():
            weight.external_data.add(key=key, value=value)
        return weight
