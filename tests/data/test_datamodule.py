[*chain(*(IMAGE_FIELDS.get(view, []) for view in VIEWS if view in requires))][*chain(*(TEXT_FIELDS.get(view,
[]) for view in VIEWS if view in requires))][*chain(*found)]sum(len(batch.images) for batch in
data.train_dataloader()) == 22


def test_otherwise_an_unreadable_image_is_named_when_it_is_read(damaged: Path) -> None:
    data = CrossModalDataModule(Karpathy("flickr8k"), root=str(damaged), image_size=8)
    data.build(["pixels"])
    with pytest.raises(BadInput, match=r"0013\.jpg cannot be read as an image .* pass --on-bad-image skip"):
        list(data.val_dataloader()[0])


def test_loader_processes_name_it_too_and_in_one_sentence(damaged: Path) -> None:
    data = CrossModalDataModule(Karpathy("flickr8k"), root=str(damaged), image_size=8, num_workers=1)
    data.build(["pixels"])
    with pytest.raises(BadInput) as raised:
        list(data.train_dataloader())
    assert str(raised.value).startswith(str(damaged / "flickr8k" / "images" / "0002.jpg"))
    assert "\n" not in str(raised.value)


def test_features_of_a_network_and_where_they_come_from(tmp_path: Path) -> None:
    fakes.write_karpathy(tmp_path, entries=fakes.karpathy_entries({"train": 3, "test": 2}))
    told: list[tuple[int, int]] = []
    settings = {
        "network": "mobilenet_v2",
        "weights": "none",
        "image_size": 32,
        "cache": str(tmp_path / "cache"),
    }
    data = CrossModalDataModule(Karpathy("flickr8k"), root=str(tmp_path), batch_size=4, **settings)
    data.progress = lambda done, total: told.append((done, total))
    assert data.build(["features"]).feature_dim == 1280
    source = data.describe()["features"]
    assert told == [(5, 5)]
    assert source["network"] == "mobilenet_v2" and source["weights"] == "none" and source["image_size"] == 32
    features = next(iter(data.train_dataloader())).images.features
    assert features.shape == (4, 1280) and torch.isfinite(features).all()


def test_what_a_record_says_about_the_data(synthetic: Corpus) -> None:
    data = module(synthetic)
    data.build(["features", "labels"])
    assert data.describe() == {
        "fingerprint": synthetic.fingerprint,
        "counts": synthetic.counts(),
        "labels": {"kind": "real", "count": 8, "rule": "8 scene categories of the generator"},
        "features": None,
    }
    bare = module(fakes.corpus())
    bare.build(["bow"])
    assert bare.describe()["labels"] == {"kind": "none", "count": 0, "rule": ""}


def test_validation_of_the_settings_reaches_the_corpus(tmp_path: Path) -> None:
    fakes.write_feature_arrays(tmp_path, "nuswide10k")
    data = CrossModalDataModule(NUSWide10K(), root=str(tmp_path), validation=0.2)
    assert [data.corpus.counts()[split]["images"] for split in ("train", "val", "test")] == [16, 4, 8]


# ---- every data set ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", experiments.names("datasets"))
def test_every_data_set_of_the_experiments_goes_from_files_to_batches(tmp_path: Path, name: str) -> None:
    changes = fakes.write_dataset(tmp_path, name)
    spec = experiments.dataset_settings(name, tmp_path)["data"]["dataset"]
    package, _, class_name = spec["class_path"].rpartition(".")
    reader = getattr(importlib.import_module(package), class_name)(**{**spec.get("init_args", {}), **changes})
    data = CrossModalDataModule(reader, root=str(tmp_path), batch_size=4, image_size=8)
    corpus = data.corpus
    assert corpus.source and corpus.label_kind in ("real", "none") and len(corpus.image_rows("test"))
    requires = ["bow", "labels"] if corpus.labels is not None or corpus.captions is not None else ["bow"]
    requires += ["features"] if corpus.image_features is not None else ["pixels"]
    data.build(requires)
    batch = next(iter(data.train_dataloader()))
    assert len(batch) == 4 and batch.texts.bow is not None and batch.images.labels is not None
    assert reader.read(tmp_path).fingerprint == corpus.fingerprint
    if name != "synthetic":
        with pytest.raises(BadInput, match=r"nowhere is missing; set DATA_ROOT to the folder that holds"):
            reader.read(tmp_path / "nowhere")
        (tmp_path / "empty").mkdir()
        with pytest.raises(BadInput, match=r"empty/\w+ is missing; put .* there"):
            reader.read(tmp_path / "empty")
