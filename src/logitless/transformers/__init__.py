"""Models of transformers without their logits: `patch` for the loss, and scores of texts.

Needs transformers: ``pip install "logitless[transformers]"``.
"""

from __future__ import annotations

try:
    import torch as _torch  # noqa: F401  (transformers is there without it, too)
    import transformers as _transformers  # noqa: F401
except ModuleNotFoundError as error:
    if error.name not in ("torch", "transformers"):
        raise
    raise ImportError("logitless.transformers needs PyTorch and transformers: "
                      'pip install "logitless[transformers]"') from error

from ._patch import patch, unpatch
from ._scoring import Perplexity, loglikelihood, perplexity

__all__ = ["Perplexity", "loglikelihood", "patch", "perplexity", "unpatch"]
