"""A softmax head fitted to digits by scipy.optimize."""

# %% [markdown]
# # A softmax head fitted by scipy.optimize
#
# `linear_cross_entropy_value_and_grad` gives the loss of a linear layer and its gradients from one
# pass over rows and weights, without the logits of all rows in memory. That is all that a solver
# such as L-BFGS asks for. The digits ship with logitless; besides it this needs SciPy.

# %%
import time

import numpy as np
from scipy.optimize import minimize

import logitless as ll
from logitless.io import open_packaged

digits = open_packaged("digits.npz")
x, target = digits["x"] / 16, digits["target"]  # float64, pixels in 0..1
train, test = slice(0, 1200), slice(1200, None)
n, k = 10, x.shape[1]
print(f"{len(x)} digits of {k} pixels; {len(x[train])} are fitted, {len(x[test])} held back")

# %% [markdown]
# ## The objective
#
# The mean loss plus `penalty / 2 * sum(W ** 2)`: weights and bias are one vector for SciPy, and
# views into it for logitless. This `penalty` is that of scikit-learn's `LogisticRegression` with
# `C=1`.

# %%
penalty = 1 / len(x[train])


def parts(flat):
    """Weights and bias, views of the vector that SciPy moves."""
    return flat[: n * k].reshape(n, k), flat[n * k :]


def objective(flat):
    """Loss and slope at a point."""
    weight, bias = parts(flat)
    loss, grad = ll.linear_cross_entropy_value_and_grad(
        x[train], weight, target[train], bias, reduction="mean", wrt=("weight", "bias"))
    value = loss + 0.5 * penalty * np.sum(weight**2)
    return value, np.concatenate([(grad.weight + penalty * weight).ravel(), grad.bias])


# %% [markdown]
# Is the slope the slope? Differences of the objective in a random direction say so.

# %%
rng = np.random.default_rng(0)
point, direction = rng.standard_normal((2, n * k + n)) * 0.1
step = 1e-5
difference = (objective(point + step * direction)[0] - objective(point - step * direction)[0])
print(f"slope in a random direction {objective(point)[1] @ direction:.8f}, "
      f"by differences {difference / (2 * step):.8f}")

# %% [markdown]
# ## The fit

# %%
start = time.perf_counter()
fit = minimize(objective, np.zeros(n * k + n), method="L-BFGS-B", jac=True,
               options={"gtol": 1e-5, "maxiter": 1000})
seconds = time.perf_counter() - start
print(f"{fit.nit} iterations, {fit.nfev} evaluations, {seconds:.2f} s, "
      f"objective {fit.fun:.5f}, largest slope {abs(fit.jac).max():.1e}")

# %% [markdown]
# ## What it is worth
#
# A head packs the weights for many calls. One pass gives losses, predictions and ranks.

# %%
head = ll.LinearHead(*parts(fit.x))
for name, rows in (("fitted", train), ("held back", test)):
    scores = head.score(x[rows], target[rows])
    print(f"{name:<10} accuracy {scores.accuracy:.1%}, mean loss {scores.loss.mean():.4f} nats, "
          f"perplexity {scores.perplexity:.3f}")

# %% [markdown]
# `logitless.sklearn.SoftmaxRegression` is this fit as a scikit-learn classifier.
