"""Canonical correlation analysis (Hotelling 1936), the linear baseline of every table."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.cross_decomposition import PLSSVD
from sklearn.decomposition import PCA
from torch import Tensor

from crossmodal_bench.core.batch import DataSpec, ImageBatch, TextBatch, require
from crossmodal_bench.core.encoding import Encoding, VectorSimilarity
from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.methods.closed_form import ClosedFormMethod
from crossmodal_bench.similarity import cosine_similarity


class CCA(ClosedFormMethod):
    """Linear CCA with scikit-learn: both modalities whitened along their principal axes, then an SVD.

    On whitened data, the singular vectors of the cross-covariance are the canonical directions and its
    singular values the canonical correlations. A ridge in the whitening regularises (Hardoon et al., Neural
    Computation 2004): without it, whitening a bag of thousands of words mostly amplifies noise.

    Args:
        dim: maximum number of canonical directions.
        image_ridge: added to every variance of the image features, as a multiple of their mean variance.
        text_ridge: the same for the text features.
        correlation_power: directions are weighted by their canonical correlation to this power (Gong et al.,
            IJCV 2014, use 4); 0 weights all directions equally.
    """

    requires = frozenset({"features", "bow"})
    image_mean: Tensor
    image_map: Tensor
    text_mean: Tensor
    text_map: Tensor

    def __init__(
        self,
        dim: int = 200,
        image_ridge: float = 0.0,
        text_ridge: float = 0.0,
        correlation_power: float = 0.0,
    ) -> None:
        super().__init__()
        if min(image_ridge, text_ridge) < 0:
            raise ValueError(f"image_ridge {image_ridge} and text_ridge {text_ridge} must not be negative")
        self.save_hyperparameters()
        self.dim, self.correlation_power = dim, correlation_power
        self.image_ridge, self.text_ridge = image_ridge, text_ridge

    def buffer_shapes(self, spec: DataSpec) -> dict[str, tuple[int, ...]]:
        """Means and maps of both modalities; directions that the data lack stay zero."""
        return {
            "image_mean": (spec.feature_dim,),
            "image_map": (spec.feature_dim, self.dim),
            "text_mean": (spec.bow_dim,),
            "text_map": (spec.bow_dim, self.dim),
        }

    def fit(self, images: NDArray[Any], texts: NDArray[Any], labels: NDArray[Any] | None) -> None:
        """Solve on (n, D_v) and (n, D_t)."""
        image_mean, image_axes = _whitening(images, self.image_ridge, "image features")
        text_mean, text_axes = _whitening(texts, self.text_ridge, "text features")
        white_images, white_texts = (images - image_mean) @ image_axes, (texts - text_mean) @ text_axes
        dim = min(self.dim, white_images.shape[1], white_texts.shape[1])
        solved = PLSSVD(n_components=dim, scale=False).fit(white_images, white_texts)
        pairs = (white_images @ solved.x_weights_) * (white_texts @ solved.y_weights_)
        weight = pairs.mean(0).clip(0) ** self.correlation_power
        missing = ((0, 0), (0, self.dim - dim))
        self.fill(
            image_mean=image_mean,
            image_map=np.pad(image_axes @ (solved.x_weights_ * weight), missing),
            text_mean=text_mean,
            text_map=np.pad(text_axes @ (solved.y_weights_ * weight), missing),
        )

    def encode_images(self, batch: ImageBatch) -> Encoding:
        """(B, dim) canonical variates."""
        return Encoding((require(batch.features, "features") - self.image_mean) @ self.image_map)

    def encode_texts(self, batch: TextBatch) -> Encoding:
        """(B, dim) canonical variates."""
        return Encoding((require(batch.bow, "bow") - self.text_mean) @ self.text_map)

    def score(self, images: Encoding, texts: Encoding) -> Tensor:
        """Cosine."""
        return cosine_similarity(images.values, texts.values)

    @property
    def vector_similarity(self) -> VectorSimilarity:
        """The cosine of the canonical variates."""
        return "cosine"


def _whitening(x: NDArray[Any], ridge: float, what: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """The mean (D,) and the map (D, r) to unit variance plus ridge, over the r axes along which x varies.

    Raises BadInput, naming ``what``, if x does not vary at all.
    """
    # A network may round the same picture differently from batch to batch.
    if np.ptp(x, axis=0).max() <= 1e-6 * np.abs(x).max():
        raise BadInput(
            f"CCA cannot be solved: the {what} of all {len(x)} training pairs are equal; check the data "
            "set's pictures and captions, or choose other methods"
        )
    pca = PCA(svd_solver="covariance_eigh" if x.shape[0] > x.shape[1] else "full").fit(x)
    variance = pca.explained_variance_
    # Histograms sum to one: along that axis there is only rounding error, which must not be amplified.
    kept = variance > 1e-10 * variance[0]
    scale = np.sqrt(variance[kept] + ridge * variance.mean())
    return pca.mean_, pca.components_[kept].T / scale
