"""Semantic matching (Rasiwasia et al., ACM MM 2010): both modalities are mapped to class probabilities."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from crossmodal_bench.core.batch import DataSpec, ImageBatch, TextBatch, require
from crossmodal_bench.core.encoding import Encoding, VectorSimilarity
from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.methods.closed_form import ClosedFormMethod
from crossmodal_bench.similarity import cosine_similarity
from crossmodal_bench.similarity.vectors import centred


class SemanticMatching(ClosedFormMethod):
    """One logistic regression per modality (scikit-learn), and the centred cosine of class probabilities.

    With multi-hot labels there is one logistic regression per label.

    Args:
        image_c: inverse regularisation of the image regression, on standardised features.
        text_c: the same for the text regression.
    """

    requires = frozenset({"features", "bow", "labels"})

    image_weight: Tensor
    image_bias: Tensor
    text_weight: Tensor
    text_bias: Tensor

    def __init__(self, image_c: float = 1.0, text_c: float = 1.0) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.image_c, self.text_c = image_c, text_c

    def buffer_shapes(self, spec: DataSpec) -> dict[str, tuple[int, ...]]:
        """Weights and biases of both regressions."""
        self.multi_label = spec.multi_label
        return {
            "image_weight": (spec.feature_dim, spec.n_labels),
            "image_bias": (spec.n_labels,),
            "text_weight": (spec.bow_dim, spec.n_labels),
            "text_bias": (spec.n_labels,),
        }

    def fit(self, images: NDArray[Any], texts: NDArray[Any], labels: NDArray[Any] | None) -> None:
        """Fit both regressions on (n, D_v) and (n, D_t)."""
        assert labels is not None
        n_labels = len(self.get_buffer("image_bias"))
        image_weight, image_bias = _regressions(images, labels, n_labels, self.image_c)
        text_weight, text_bias = _regressions(texts, labels, n_labels, self.text_c)
        self.fill(
            image_weight=image_weight, image_bias=image_bias, text_weight=text_weight, text_bias=text_bias
        )

    def encode_images(self, batch: ImageBatch) -> Encoding:
        """(B, C) probabilities."""
        return self._probabilities(require(batch.features, "features") @ self.image_weight + self.image_bias)

    def encode_texts(self, batch: TextBatch) -> Encoding:
        """(B, C) probabilities."""
        return self._probabilities(require(batch.bow, "bow") @ self.text_weight + self.text_bias)

    def score(self, images: Encoding, texts: Encoding) -> Tensor:
        """Centred cosine."""
        return cosine_similarity(centred(images.values), centred(texts.values))

    @property
    def vector_similarity(self) -> VectorSimilarity:
        """The cosine of centred probabilities."""
        return "cosine"

    def comparable_vectors(self, encoding: Encoding) -> Tensor:
        """The probabilities minus their mean."""
        return centred(encoding.values)

    def _probabilities(self, logits: Tensor) -> Encoding:
        return Encoding(torch.sigmoid(logits) if self.multi_label else torch.softmax(logits, dim=1))


ABSENT = -1e4
"""Logit of a class without a training example."""


def _regressions(
    x: NDArray[Any], labels: NDArray[Any], n_labels: int, c: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    mean, scale = x.mean(0), x.std(0)
    # A constant column's deviation is rounding error, seldom zero; float32 batches cannot resolve less.
    scale[scale <= 1e-6 * np.abs(mean)] = 1
    x = (x - mean) / scale
    weight, bias = np.zeros((x.shape[1], n_labels)), np.full(n_labels, ABSENT)
    if labels.ndim == 1:
        classes = np.unique(labels)
        if len(classes) < 2:
            raise BadInput(
                f"all training pairs have class {classes[0]}; semantic matching needs at least two classes"
            )
        coefficients, intercepts = _logistic(x, labels, c)
        if len(classes) == 2:
            # For two classes, scikit-learn fits one regression of the second against the first.
            coefficients = np.vstack([np.zeros_like(coefficients), coefficients])
            intercepts = np.concatenate([np.zeros(1), intercepts])
        weight[:, classes], bias[classes] = coefficients.T, intercepts
    else:
        for label in range(n_labels):
            share = labels[:, label].mean()
            if share in (0, 1):
                bias[label] = ABSENT if share == 0 else -ABSENT
            else:
                coefficients, intercepts = _logistic(x, labels[:, label], c)
                weight[:, label], bias[label] = coefficients[0], intercepts[0]
    weight /= scale[:, None]
    return weight, bias - mean @ weight


def _logistic(x: NDArray[Any], y: NDArray[Any], c: float) -> tuple[NDArray[Any], NDArray[Any]]:
    model = LogisticRegression(C=c, max_iter=200)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(x, y)
    return model.coef_, model.intercept_
