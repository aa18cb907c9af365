[*chain(*found)][*chain(*found)][*chain(*batches(order,
        epoch))][*chain(*[*chain(*found)])][*chain(*batches(BatchOrder(12, 12, shuffle=True, seed=4),
        epoch=2))][*chain(*batches(BatchOrder(12, 6, shuffle=True, seed=4, rank=rank, world_size=2),
        epoch=2))] for rank in (0, 1)
    ]
    assert [parts[i % 2][i // 2] for i in range(12)] == whole


# ---- going on ---------------------------------------------------------------------------------------------


def epoch_of(one: BatchLoader, epoch: int) -> list[list[int]]:
    one.order.set_epoch(epoch)
    return [batch.tolist() for batch in one]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_goes_on_behind_the_batches_that_it_has_handed_out(workers: int) -> None:
    unbroken = loader(22, 3, workers)
    expected = [epoch_of(unbroken, epoch) for epoch in (0, 1)]
    assert [len(batches) for batches in expected] == [7, 7]

    broken = loader(22, 3, workers)
    assert epoch_of(broken, 0) == expected[0]
    broken.order.set_epoch(1)
    iterator = iter(broken)
    first = [next(iterator).tolist() for _ in range(3)]
    state = broken.state_dict()
    assert state == {"done": 3}

    resumed = loader(22, 3, workers)
    resumed.load_state_dict(state)
    rest = epoch_of(resumed, 1)
    assert first + rest == expected[1]
    assert resumed.state_dict() == {"done": 7}
    # What was left out is left out once only.
    assert epoch_of(resumed, 0) == expected[0]


def test_a_resumed_loader_that_is_broken_again_counts_from_the_epochs_start() -> None:
    resumed = loader(22, 3)
    resumed.load_state_dict({"done": 3})
    iterator = iter(resumed)
    next(iterator), next(iterator)
    assert resumed.state_dict() == {"done": 5}


def test_a_state_at_the_end_of_an_epoch_goes_on_with_the_next_one() -> None:
    finished = loader()
    expected = epoch_of(finished, 0)
    state = finished.state_dict()
    assert state == {"done": len(expected)} == {"done": len(finished)}
    resumed = loader()
    resumed.load_state_dict(state)
    assert epoch_of(resumed, 1) == epoch_of(loader(), 1) != expected


def test_a_loader_knows_its_length() -> None:
    assert len(loader(10, 3)) == 3  # the tenth would be alone
    assert len(loader(11, 3)) == 4


class Recorder(pl.LightningModule):
    """Remembers the batches of its training and saves a checkpoint behind one of them."""

    def __init__(self, save_at: tuple[int, int] | None = None, path: Path | None = None) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)
        self.save_at, self.path = save_at, path
        self.seen: list[list[int]] = []

    def training_step(self, batch: Tensor, index: int) -> Tensor:
        self.seen.append([index, *batch.tolist()])
        return self.layer(batch[1:2, None].float()).sum()

    def on_train_batch_end(self, outputs: Any, batch: Tensor, index: int) -> None:
        if (self.current_epoch, index) == self.save_at:
            self.trainer.save_checkpoint(str(self.path))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1e-3)


def fit(module: Recorder, checkpoint: Path | None = None) -> list[list[int]]:
    trainer = pl.Trainer(
        max_epochs=3,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    trainer.fit(module, loader(14, 3, seed=1), ckpt_path=checkpoint)
    return module.seen


@pytest.mark.parametrize("save_at", [(1, 0), (1, 2), (1, 4), (0, 3)])
def test_lightning_sets_the_epochs_and_goes_on_in_the_middle_of_one(
    tmp_path: Path, save_at: tuple[int, int]
) -> None:
    path = tmp_path / "last.ckpt"
    unbroken = fit(Recorder(save_at, path))
    assert [batch[1] for batch in unbroken] == [0] * 5 + [1] * 5 + [2] * 5
    epoch, index = save_at
    assert fit(Recorder(), path) == unbroken[epoch * 5 + index + 1 :]
