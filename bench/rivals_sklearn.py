"""scikit-learn: the functions its classifiers are made of."""

from __future__ import annotations

import numpy as np
from contender import Contender


class ScikitLearn(Contender):
    """Its multinomial loss on ``x @ W.T``, and probabilities as its classifiers make them."""

    name = "scikit-learn"
    packages = ("sklearn._loss.loss", "sklearn.utils.extmath")
    ops = ("loss", "predict_proba")
    logit_copies = 2.0

    def __init__(self, problem, threads):
        super().__init__(problem, threads)
        from sklearn._loss.loss import HalfMultinomialLoss
        from sklearn.utils.extmath import softmax

        self.half = HalfMultinomialLoss(n_classes=len(self.weight))
        self.softmax = softmax
        self.y = self.target.astype(self.x.dtype)  # class indices as it wants them

    def loss(self):
        return self.half.loss(self.y, self.x @ self.weight.T, n_threads=self.threads)

    def predict_proba(self):
        return self.softmax(self.x @ self.weight.T, copy=False)


class ScikitLearnLinear(Contender):
    """What its LogisticRegression minimises: the gradients by its coefficients, none of x."""

    name = "scikit-learn, without gradient of x"
    packages = ("sklearn.linear_model._linear_loss", "sklearn._loss.loss")
    ops = ("value_and_grad",)
    weight_copies = 1.0  # the coefficients with the bias beside them

    def __init__(self, problem, threads):
        super().__init__(problem, threads)
        from sklearn._loss.loss import HalfMultinomialLoss
        from sklearn.linear_model._linear_loss import LinearModelLoss

        n, k = self.weight.shape
        self.linear = LinearModelLoss(HalfMultinomialLoss(n_classes=n), fit_intercept=True)
        self.y = self.target.astype(self.x.dtype)
        self.coef = np.empty((n, k + 1), self.x.dtype, order="F")
        self.coef[:, :k], self.coef[:, k] = self.weight, self.bias

    @classmethod
    def transient(cls, shape, op, itemsize):
        return super().transient(shape, op, itemsize) + 2 * shape.weight_bytes(itemsize)

    @classmethod
    def returned(cls, shape, op, itemsize):
        return shape.n * (shape.k + 1) * itemsize

    def value_and_grad(self):
        return self.linear.loss_gradient(self.coef, self.x, self.y, n_threads=self.threads)

    def to_numpy(self, result):
        loss, gradient = result
        return np.asarray(loss), None, gradient[:, :-1], gradient[:, -1]
