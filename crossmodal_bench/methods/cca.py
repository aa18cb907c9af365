"""Canonical correlation analysis (Hotelling 1936), the linear baseline of every table."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.cross_decomposition import PLSSVD
from sklearn.decomposition import PCA
from torch import Tensor

from crossmodal_bench.data.batch import DataSpec, ImageBatch, TextBatch, require
from crossmodal_bench.encoding import Encoding
from crossmodal_bench.methods.closed_form import ClosedFormMethod
from crossmodal_bench.similarity import cosine_similarity


class CCA(ClosedFormMethod):
    """Linear CCA by scikit-learn: both sides whitened by PCA, then the SVD of their cross-covariance.

    On whitened data the singular vectors of the cross-covariance are the canonical directions and its singular
    values the canonical correlations. Keeping fewer principal components than features regularises.

    Args:
        dim: canonical directions kept (at most).
        image_components: principal components of the image features kept (at most).
        text_components: principal components of the text features kept (at most).
        correlation_power: a direction counts by its canonical correlation to this power (Gong et al., IJCV 2014,
            use 4); 0 counts all directions alike.
    """

    requires = frozenset({"features", "bow"})

    def __init__(
        self,
        dim: int = 200,
        image_components: int = 500,
        text_components: int = 500,
        correlation_power: float = 1.0,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()

    def buffer_shapes(self, spec: DataSpec) -> dict[str, tuple[int, ...]]:
        """Means and maps of both sides; directions that the data do not have stay zero."""
        dim = self.hparams.dim
        return {
            "image_mean": (spec.feature_dim,),
            "image_map": (spec.feature_dim, dim),
            "text_mean": (spec.bow_dim,),
            "text_map": (spec.bow_dim, dim),
        }

    def fit(self, images: NDArray[Any], texts: NDArray[Any], labels: NDArray[Any] | None) -> None:
        """Solve on (n, D_v) and (n, D_t)."""
        p = self.hparams
        image_pca, text_pca = _whitening(images, p.image_components), _whitening(texts, p.text_components)
        white_images, white_texts = image_pca.transform(images), text_pca.transform(texts)
        dim = min(p.dim, white_images.shape[1], white_texts.shape[1])
        solved = PLSSVD(n_components=dim, scale=False).fit(white_images, white_texts)
        pairs = (white_images @ solved.x_weights_) * (white_texts @ solved.y_weights_)
        weight = pairs.mean(0).clip(0) ** p.correlation_power
        self.fill(
            image_mean=image_pca.mean_,
            image_map=_map(image_pca, solved.x_weights_ * weight, p.dim),
            text_mean=text_pca.mean_,
            text_map=_map(text_pca, solved.y_weights_ * weight, p.dim),
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


def _whitening(x: NDArray[Any], components: int) -> PCA:
    # Histograms sum to one: their last principal component is constant and must not be divided by.
    n = min(components, *x.shape)
    pca = PCA(
        n_components=n, whiten=True, svd_solver="covariance_eigh" if x.shape[0] > x.shape[1] else "full"
    ).fit(x)
    rank = int((pca.explained_variance_ > 1e-10 * pca.explained_variance_[0]).sum())
    if rank < n:
        pca = PCA(n_components=rank, whiten=True, svd_solver="full").fit(x)
    return pca


def _map(pca: PCA, weights: NDArray[Any], dim: int) -> NDArray[Any]:
    full = (pca.components_.T / np.sqrt(pca.explained_variance_)) @ weights
    return np.pad(full, ((0, 0), (0, dim - full.shape[1])))
