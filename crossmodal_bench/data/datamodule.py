"""One Lightning data module for all methods and data sets, which builds the views that a method requires."""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import rank_zero_info

from crossmodal_bench.core.batch import DataSpec
from crossmodal_bench.core.errors import BadInput, MissingInput, nearest
from crossmodal_bench.data.corpus import Corpus
from crossmodal_bench.data.datasets import DatasetReader
from crossmodal_bench.data.features import Extracted, FeatureStore, Progress, extract_features
from crossmodal_bench.data.image_settings import ImageSettings
from crossmodal_bench.data.language.token_cache import cached_tokens
from crossmodal_bench.data.language.tokens import NamedTokens
from crossmodal_bench.data.language.wordpieces import build_tokenizer, encode_wordpieces, tokenizer_version
from crossmodal_bench.data.language.words import SPLITTERS, splitter_version
from crossmodal_bench.data.loader import Batches, BatchLoader, BatchOrder, Phase, PhaseOrder
from crossmodal_bench.data.preprocessing import (
    BagState,
    NetworkState,
    PreprocessingState,
    TextTowerState,
    WordsState,
    wordpieces_state,
)
from crossmodal_bench.data.reading import read_corpus
from crossmodal_bench.data.regions import RegionFiles
from crossmodal_bench.data.text import TextSettings, Vocabulary
from crossmodal_bench.data.text_features import extract_text_features
from crossmodal_bench.data.view_builders import (
    bags_of_words,
    check_options,
    described_labels,
    given_views,
    identity_numbers,
    image_features,
    image_regions,
    joined_sources,
    lacking,
    train_captions,
    training_labels,
    vocabulary_rows,
    warn_where_unsplit,
)
from crossmodal_bench.data.views import VIEWS, ImageDataset, PhasedDataset, TextDataset, Views
from crossmodal_bench.networks.dual_encoders import models_shared


def _cores() -> int:
    """The cores that this process may use: a cluster gives a job only some of a machine's."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


class CrossModalDataModule(pl.LightningDataModule):
    """Batches of exactly the views that the method declares in ``requires``, from one index and one split.

    Args:
        dataset: the data set's reader.
        root: the data root.
        cache: where feature stores are kept.
        batch_size: pairs per step and rank.
        eval_batch_size: images, or captions, per evaluation step.
        sampling: ``caption``: each caption with its image; ``image``: each image once, with one of its
            captions.
        seed: for the order of the batches.
        num_workers: loader processes; None: with a GPU, one per core, but at most 8 when decoding pictures
            and 4 when reading regions from files; otherwise none.
        validation: share of train held out for validation (stratified) if the data set has no such split.
        text: how sentences become numbers.
        images: how pictures become numbers, and by which network.

    Raises:
        BadInput: a size that no loader can use.
    """

    def __init__(
        self,
        dataset: DatasetReader,
        root: str = "data",
        cache: str = "runs/cache",
        batch_size: int = 64,
        eval_batch_size: int = 256,
        sampling: Literal["caption", "image"] = "caption",
        seed: int = 0,
        num_workers: int | None = None,
        validation: float = 0.0,
        text: TextSettings = TextSettings(),
        images: ImageSettings = ImageSettings(),
    ) -> None:
        super().__init__()
        for name, size, least in (
            ("batch_size", batch_size, 2),
            ("eval_batch_size", eval_batch_size, 1),
            ("num_workers", num_workers or 0, 0),
        ):
            if size < least:
                raise BadInput(f"data.{name} is {size}; it must be at least {least}")
        self.dataset = dataset
        self.root = Path(root)
        self.cache = Path(cache)
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.sampling = sampling
        self.seed = seed
        self.num_workers = num_workers
        self.validation = validation
        self.text = text
        self.images = images
        self.progress: Progress | None = None
        self.test_split = "test"
        self.cut_captions = 0
        self.steps_per_phase: int | None = None
        self.with_grid = False
        self.feature_source: dict[str, Any] | None = None
        self.text_feature_source: TextTowerState | None = None
        self._corpus: Corpus | None = None
        self._views: Views | None = None
        self._required: frozenset[str] | None = None
        self._spec: DataSpec | None = None
        self._preprocessing: PreprocessingState | None = None

    @property
    def corpus(self) -> Corpus:
        """The corpus, read once; without its unreadable images if they are to be skipped."""
        if self._corpus is None:
            self._corpus = read_corpus(
                self.dataset,
                self.root,
                skip_unreadable=self.images.on_bad_image == "skip",
                validation=self.validation,
            )
        return self._corpus

    def hand_over(self, corpus: Corpus | None, *, with_grid: bool = False) -> None:
        """Reuse what other data modules know.

        Args:
            corpus: the corpus, if another data module with the same settings has read it.
            with_grid: whether a grid of regions of the same images, by the same network, will be needed too.
        """
        if corpus is not None:
            self._corpus = corpus
        self.with_grid = with_grid

    @property
    def views(self) -> Views:
        """The views built by ``build``."""
        if self._views is None:
            raise RuntimeError("call build(requires) first")
        return self._views

    @property
    def spec(self) -> DataSpec:
        """The sizes from which methods are built."""
        if self._spec is None:
            raise RuntimeError("call build(requires) first")
        return self._spec

    @property
    def preprocessing(self) -> PreprocessingState:
        """How new sentences and pictures become the views built by ``build``."""
        if self._preprocessing is None:
            raise RuntimeError("call build(requires) first")
        return self._preprocessing

    def setup(self, stage: str = "fit") -> None:
        """Build what the trainer's method requires or, without a trainer, the data set's own views.

        Without a trainer, views built before are kept, and no network extracts anything.
        """
        if self.trainer is not None:
            self.build(self.trainer.lightning_module.requires)  # type: ignore[arg-type]
        elif self._spec is None:
            extracted = {"features"} if self.images.network is not None else set()
            extracted |= {"regions"} if self.images.regions != "auto" else set()
            self.build(given_views(self.corpus) - extracted)

    def state_dict(self) -> dict[str, Any]:
        """The data's part of checkpoints: ``preprocessing``, without which their weights are meaningless."""
        if self._preprocessing is None:
            return {}
        return {"preprocessing": self._preprocessing.model_dump(mode="json")}

    # Both towers of a dual encoder share one load.
    @models_shared()
    def build(self, requires: Collection[str]) -> DataSpec:
        """Build the views in ``requires``, and no others; a second call with the same views does nothing.

        Raises:
            BadInput: a view that this data set cannot provide; the message says what is missing.
        """
        for name in requires:
            if name not in VIEWS:
                raise BadInput(f"view '{name}' is unknown{nearest(name, VIEWS)}")
        if self._spec is not None and self._required == frozenset(requires):
            return self._spec
        corpus = self.corpus
        if reason := lacking(corpus, requires, self.images.regions):
            raise MissingInput(reason)
        views = Views(corpus, image_size=self.images.size, image_fit=self.images.fit)
        spec = DataSpec(
            len(corpus.image_rows("train")),
            len(corpus.caption_rows("train")),
            network=self.images.network,
            weights=self.images.weights,
            text_network=self.text_network,
            weights_root=str(self.root),
            dataset_fingerprint=corpus.fingerprint,
        )
        made_by: list[dict[str, Any]] = []
        preprocessing: dict[str, Any] = {}
        self.cut_captions = 0
        views.pixels = "pixels" in requires
        views.pictures = "pictures" in requires
        if "regions" in requires:
            views.regions, source = image_regions(corpus, self.images.regions, self.extract)
            made_by += source
            if self.images.regions != "auto":
                preprocessing["regions"] = NetworkState(**source[0])
            spec = replace(spec, region_dim=views.regions.dim, region_count=views.regions.count)
        if "features" in requires:
            views.features, source = image_features(corpus, self.images.network, self.extract)
            made_by += source
            if source:
                preprocessing["features"] = NetworkState(**source[0])
            spec = replace(spec, feature_dim=views.features.shape[1])
        if "words" in requires:
            warn_where_unsplit(corpus)
            assert corpus.captions is not None
            kind = self.text.words
            views.tokens = cached_tokens(
                self.cache,
                corpus.captions,
                splitter_version(kind),
                partial(NamedTokens.split, corpus.captions, SPLITTERS[kind]),
            )
            counts = views.tokens.counts(vocabulary_rows(corpus, self.text.vocabulary))
            views.vocabulary = Vocabulary.of(counts, self.text.min_count, kind)
            # Encode now, so that loader processes share the ids.
            assert views.words is not None
            views.tokens = None
            if self.text.unknown_captions == "fail":
                check_options(corpus, views.words)
            spec = replace(spec, vocabulary_size=len(views.vocabulary))
            preprocessing["words"] = WordsState(kind=views.vocabulary.kind, words=views.vocabulary.words)
        if "wordpieces" in requires:
            assert corpus.captions is not None
            tokenizer = build_tokenizer(self.text.tokenizer, train_captions(corpus))
            spec = self._encode_wordpieces(tokenizer, views, spec)
            preprocessing["wordpieces"] = wordpieces_state(self.text.tokenizer, tokenizer)
        if "bow" in requires:
            if self.text_network is not None:
                views.bow, tower = self._by_text_tower(self.text_network, corpus)
                self.text_feature_source = tower
                preprocessing["text_tower"] = tower
            else:
                views.bow, bag = bags_of_words(corpus, self.text.bow_size)
                if bag is not None:
                    preprocessing["bag"] = BagState(words=tuple(bag.words), weights=tuple(bag.weights))
            spec = replace(spec, bow_dim=views.bow.shape[1])
        if "labels" in requires:
            views.labels = training_labels(corpus, self.text.content_labels)
            n = views.labels.shape[1] if views.labels.ndim == 2 else int(views.labels.max()) + 1
            spec = replace(spec, n_labels=n, multi_label=views.labels.ndim == 2)
        if "identities" in requires:
            views.identities, n = identity_numbers(corpus)
            spec = replace(spec, n_identities=n)
        self.feature_source = joined_sources(made_by)
        self._preprocessing = PreprocessingState(
            dataset=corpus.name,
            requires=tuple(sorted(requires)),
            image_size=self.images.size,
            image_fit=self.images.fit,
            **preprocessing,
        )
        self._views = views
        self._spec = spec
        self._required = frozenset(requires)
        return spec

    @property
    def text_network(self) -> str | None:
        """The dual encoder whose text tower encodes the captions, if any."""
        return self.images.network if self.text.network == "same" else self.text.network

    @property
    def text_weights(self) -> str:
        """The weights of that dual encoder: the image network's, if it is the same one."""
        return self.images.weights if self.text_network == self.images.network else "auto"

    def _by_text_tower(self, network: str, corpus: Corpus) -> tuple[Any, TextTowerState]:
        """(M, D) vectors of the captions, and the tower that made them."""
        made = extract_text_features(
            corpus,
            self.cache,
            network,
            self.text_weights,
            device="cuda" if torch.cuda.is_available() else "cpu",
            progress=self.progress,
        )
        tower = TextTowerState(
            network=network,
            family=made.loaded.family,
            weights=made.loaded.weights,
            weights_sha256=made.loaded.checksum,
            dim=made.loaded.dim,
        )
        self._note_cut(made.cut, made.longest, "tokens")
        return made.store.array(), tower

    def _note_cut(self, cut: int, longest: int, unit: str) -> None:
        """Keep the number of truncated captions for the record, and report it."""
        self.cut_captions = max(self.cut_captions, cut)
        if cut:
            total = len(self.corpus.caption_ids)
            rank_zero_info(f"{cut} of {total} captions are longer than {longest} {unit} and were truncated")

    def _encode_wordpieces(self, tokenizer: Any, views: Views, spec: DataSpec) -> DataSpec:
        """Add word pieces to the views; the new ``spec`` holds the sizes that follow from them."""
        corpus = self.corpus
        assert corpus.captions is not None
        captions = corpus.captions

        def encoded() -> NamedTokens:
            rows, cut = encode_wordpieces(tokenizer, captions)
            return NamedTokens(rows, cut=cut)

        version = tokenizer_version(tokenizer)
        tokens = cached_tokens(self.cache, captions, version, encoded, len(tokenizer))
        views.wordpieces = tokens.rows
        self._note_cut(tokens.cut, tokenizer.model_max_length, "word pieces")
        return replace(
            spec,
            wordpiece_vocabulary_size=len(tokenizer),
            longest_wordpieces=int(np.diff(views.wordpieces.starts).max()),
            tokenizer=self.text.tokenizer,
        )

    def train_dataloader(self) -> BatchLoader:
        """Shuffled batches of what the method trains on, phase by phase; pairs, for most methods."""
        phases: tuple[Phase, ...] = ("pairs",)
        if self.trainer is not None:
            phases = self.trainer.lightning_module.phases  # type: ignore[assignment]
        dataset = PhasedDataset(self.views, phases, self.sampling, self.seed, self.images.augmentation)
        orders = {
            phase: self._order(part, self.batch_size, shuffle=True, once=phase == "groups")
            for phase, part in dataset.parts.items()
        }
        return self._loaded(dataset, PhaseOrder(orders), training=True)

    def val_dataloader(self) -> list[BatchLoader]:
        """Each image once, then each caption once; no loaders if there is no validation split."""
        return self.eval_dataloaders("val")

    def test_dataloader(self) -> list[BatchLoader]:
        """Each image of ``test_split`` once, then each caption once."""
        return self.eval_dataloaders(self.test_split)

    def predict_dataloader(self) -> list[Batches]:
        """As ``test_dataloader``: ``predict`` returns the encodings of its images, and of its captions."""
        return [Batches(loader) for loader in self.test_dataloader()]

    def eval_dataloaders(self, split: str) -> list[BatchLoader]:
        """The two evaluation loaders of a split."""
        if not len(self.corpus.image_rows(split)):
            return []
        return [
            self._loaded(dataset, self._order(dataset, self.eval_batch_size, shuffle=False), training=False)
            for dataset in (ImageDataset(self.views, split), TextDataset(self.views, split))
        ]

    def describe(self) -> dict[str, Any]:
        """What a record says about the data."""
        corpus = self.corpus
        return {
            "fingerprint": corpus.fingerprint,
            "counts": corpus.counts(),
            "labels": described_labels(corpus, None if self._views is None else self._views.labels),
            "skipped_images": list(corpus.skipped),
            "cut_captions": self.cut_captions,
            "features": self.feature_source,
        }

    def _order(self, dataset: Any, batch_size: int, *, shuffle: bool, once: bool = False) -> BatchOrder:
        return BatchOrder(
            len(dataset),
            batch_size,
            shuffle=shuffle,
            seed=self.seed,
            rank=0 if self.trainer is None else self.trainer.global_rank,
            world_size=1 if self.trainer is None else self.trainer.world_size,
            once=once,
            limit=self.steps_per_phase if shuffle else None,
        )

    def _loaded(self, dataset: Any, order: BatchOrder | PhaseOrder, *, training: bool) -> BatchLoader:
        workers = self.num_workers
        on_gpu = torch.cuda.is_available()
        decoded = self.views.pixels or (training and self.views.pictures)
        # 128 images have 37 MB of regions, for which a GPU would wait at every step.
        read = isinstance(self.views.regions, RegionFiles)
        if workers is None:
            most = 8 if decoded else 4 if read else 0
            workers = min(_cores(), most) if on_gpu else 0
        evaluates_images = isinstance(dataset, ImageDataset) and (self.views.pixels or (read and on_gpu))
        if not (training or evaluates_images):
            workers = 0
        return BatchLoader(dataset, order, num_workers=workers, pin_memory=on_gpu)

    def extract(
        self,
        kind: Extracted | None = None,
        *,
        batch_size: int = 32,
        device: str | None = None,
        progress: Progress | None = None,
    ) -> FeatureStore:
        """The store of the images' features or regions, extracted if it does not exist yet.

        Args:
            kind: which regions; None for one vector per image.
            batch_size: images at a time.
            device: where the network runs; None: on a GPU if there is one.
            progress: receives progress updates, instead of the module's own ``progress``.

        Raises:
            BadInput: see crossmodal_bench.data.features.extract_features.
        """
        if device is None:
            device = "cuda" if torch.cuda.is_available() else "cpu"
        return extract_features(
            self.corpus,
            self.cache,
            self.images.network,
            self.images.weights,
            data_root=self.root,
            regions=kind,
            with_grid=self.with_grid,
            image_size=self.images.size,
            image_fit=self.images.fit,
            batch_size=batch_size,
            device=device,
            progress=progress or self.progress,
        )
