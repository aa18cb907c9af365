"""VSRN: its text side against the authors' code (golden arrays), and the contract of a host."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from crossmodal_bench.core.batch import DataSpec, ImageBatch, TextBatch
from crossmodal_bench.core.encoding import Encoding
from crossmodal_bench.methods.hosts import VSRN, Encoded

GOLDEN = Path(__file__).parents[2] / "golden" / "vsrn.npz"
SPEC = DataSpec(10, 20, region_dim=7, vocabulary_size=30)
SMALL = {"dim": 6, "embedding": 5, "blocks": 2, "caption_hidden": 4, "caption_embedding": 3}
LENGTHS = torch.tensor([5, 2, 7, 3])


def built(**changes: Any) -> VSRN:
    """Small, in eval mode, its graph blocks no longer the identity."""
    torch.manual_seed(0)
    host = VSRN(**{**SMALL, **changes})
    host.build(SPEC)
    with torch.no_grad():
        for block in host.reasoning.graph:
            block.scale.weight.normal_()
    return host.eval()


def images(rows: slice = slice(None)) -> ImageBatch:
    regions = torch.randn(4, 6, 7, generator=torch.Generator().manual_seed(1))[rows]
    return ImageBatch(torch.arange(len(regions)), regions=regions)


def texts(rows: slice = slice(None), extra: int = 0) -> TextBatch:
    """Captions from start to end, padded to the longest of ``rows`` and ``extra`` more; row 1 has no word."""
    words = torch.randint(4, 30, (4, 7), generator=torch.Generator().manual_seed(2))
    words[:, 0] = 2
    words[torch.arange(4), LENGTHS - 1] = 3
    words = words * (torch.arange(7) < LENGTHS[:, None])
    lengths = LENGTHS[rows]
    words = F.pad(words[rows][:, : int(lengths.max())], (0, extra))
    index = torch.arange(len(words))
    return TextBatch(index, index, words=words, lengths=lengths)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_caption_vectors_are_the_authors_code(dtype: torch.dtype) -> None:
    with np.load(GOLDEN) as arrays:
        golden = {name: torch.from_numpy(np.asarray(arrays[name])) for name in arrays.files}
    host = VSRN(dim=24, embedding=20, caption_weight=0)
    host.build(DataSpec(10, 20, region_dim=40, vocabulary_size=60))
    host.words.load_state_dict(
        {
            name.removeprefix("txt/sd/").replace("embed.", "words.").replace("rnn.", "recurrent."): value
            for name, value in golden.items()
            if name.startswith("txt/sd/")
        }
    )
    host.to(dtype).eval()
    ids, lengths = golden["ids"].long(), golden["lengths"].long()
    index = torch.arange(len(ids))
    found = host.texts(TextBatch(index, index, words=ids, lengths=lengths)).scored.values
    atol = 1e-10 if dtype == torch.float64 else 1e-5
    torch.testing.assert_close(found.double(), golden["cap_emb"], rtol=0, atol=atol)


def test_what_is_scored_and_the_fragments_have_the_contracts_shapes() -> None:
    host = built()
    seen, read = host.images(images()), host.texts(texts())
    assert host.fragment_dim == 6
    assert seen.scored.values.shape == read.scored.values.shape == (4, 6)
    assert seen.fragments.values.shape == (4, 6, 6)
    assert read.fragments.values.shape == (17, 6)
    assert read.fragments.lengths is not None and torch.equal(read.fragments.lengths, LENGTHS)
    # The vector of a caption is its last word's state, in unit length.
    last = read.fragments.values[LENGTHS.cumsum(0) - 1]
    torch.testing.assert_close(read.scored.values, F.normalize(last, dim=1))


def test_the_score_is_the_cosine() -> None:
    host = built()
    seen, read = host.images(images()).scored, host.texts(texts()).scored
    with torch.autocast("cpu", torch.bfloat16):
        found = host.score(seen[:3], read)
    expected = F.cosine_similarity(seen.values[:3, None], read.values[None], dim=2)
    torch.testing.assert_close(found, expected)
    assert found.shape == (3, 4) and found.unique().numel() == 12


@pytest.mark.parametrize("changes", [{}, {"normalise_regions": True, "standardise": False}])
def test_padding_and_company_change_nothing(changes: dict[str, Any]) -> None:
    host = built(**changes)
    seen, read = host.images(images()), host.texts(texts())
    for part in ("scored", "fragments"):
        whole: Encoding = getattr(read, part)
        torch.testing.assert_close(getattr(host.texts(texts(extra=5)), part).values, whole.values)
        for row in range(4):
            one = slice(row, row + 1)
            torch.testing.assert_close(getattr(host.texts(texts(one)), part).values, whole[one].values)
            alone, company = getattr(host.images(images(one)), part), getattr(seen, part)
            torch.testing.assert_close(alone.values, company.values[one])


def test_the_settings_reach_the_networks() -> None:
    host = VSRN()
    assert (host.fragment_dim, host.embedding, host.blocks) == (2048, 300, 4)
    host = built(normalise_regions=True, standardise=False, blocks=3, dropout=0.4)
    assert host.reasoning.normalise_regions and isinstance(host.reasoning.scale, torch.nn.Identity)
    assert len(host.reasoning.graph) == 3 and host.words.words.weight.shape == (30, 5)
    assert host.captions is not None and host.captions.dropout.p == 0.4
    assert host.captions.reader.hidden_size == 4 and host.captions.words.weight.shape == (30, 3)
    assert isinstance(built().reasoning.scale, torch.nn.BatchNorm1d)


def test_the_auxiliary_loss_is_the_weighted_loss_of_each_caption_from_its_image() -> None:
    host, batch = built(caption_weight=0.5), texts()
    seen = host.images(images())
    loss = host.auxiliary_loss(seen, batch)
    assert loss is not None and host.captions is not None
    plain = host.captions.loss(seen.fragments.values, batch.words, batch.lengths)
    torch.testing.assert_close(loss, 0.5 * plain)
    others = Encoded(seen.scored, Encoding(seen.fragments.values.flip(0)))
    swapped = host.auxiliary_loss(others, batch)
    assert swapped is not None and not torch.equal(swapped, loss)
    alone = host.auxiliary_loss(host.images(images(slice(1, 2))), texts(slice(1, 2)))
    assert alone is not None and alone > 0


def test_without_a_weight_there_is_no_caption_branch() -> None:
    host = built(caption_weight=0)
    assert host.auxiliary_loss(host.images(images()), texts()) is None
    assert not any(name.startswith("captions") for name, _ in host.named_parameters())


def test_every_parameter_learns() -> None:
    host, batch = built(dropout=0.0).train(), texts()
    seen, read = host.images(images()), host.texts(batch)
    auxiliary = host.auxiliary_loss(seen, batch)
    assert auxiliary is not None
    (host.score(seen.scored, read.scored).diagonal().sum() + auxiliary).backward()
    assert all(one.grad is not None and one.grad.any() for one in host.parameters())


def test_the_caption_loss_shapes_the_graph() -> None:
    host, batch = built(), texts()
    loss = host.auxiliary_loss(host.images(images()), batch)
    assert loss is not None
    loss.backward()
    assert host.reasoning.embed.weight.grad is not None and host.reasoning.embed.weight.grad.any()
    assert host.words.words.weight.grad is None
