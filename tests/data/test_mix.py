"""Selection and mixing: supersets, weights, repetitions, phases."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from luthier.config.data import DataSection
from luthier.data.layout import lay_out, once
from luthier.data.mix import Occurrences, plan_mix, take
from luthier.data.pool import Pool
from luthier.data.split import sides
from luthier.errors import DataError

SIZES = {"stories": 300, "facts": 2000, "tales": 100}


def pool(seed: int = 0) -> Pool:
    rng = np.random.default_rng(seed)
    counts = list(SIZES.values())
    total = sum(counts)
    hashes = rng.integers(0, 2**64, (3, total), np.uint64)
    source = np.repeat(np.arange(3, dtype=np.int32), counts)
    return Pool(np.zeros(total, np.int32), np.arange(total), source, rng.integers(50, 2000, total), *hashes)


def section(
    weights: tuple[float | None, ...] = (None, None, None), groups: tuple[str | None, ...] = (None, None, None), **rest: Any
) -> DataSection:
    made = [
        {"path": name, "name": name, "weight": weight, "group": group} for name, weight, group in zip(SIZES, weights, groups, strict=True)
    ]
    return DataSection.model_validate({"sources": made, **rest})


def mixed(config: DataSection, documents: Pool | None = None) -> tuple[Occurrences, Pool, str | None]:
    documents = pool() if documents is None else documents
    mix = plan_mix(config, np.bincount(documents.source, documents.size, 3))
    found, mix = take(documents, mix, config)
    return found, documents, mix.limited_by


def shares(found: Occurrences, documents: Pool) -> list[float]:
    sizes = np.bincount(documents.source[found.document], documents.size[found.document], 3)
    return (sizes / sizes.sum()).tolist()


def test_without_weights_everything_is_taken_once() -> None:
    found, documents, limited_by = mixed(section())
    assert np.array_equal(np.sort(found.document), np.arange(len(documents)))
    assert not found.repeat.any() and limited_by is None
    found, documents, limited_by = mixed(section(mix={"max_repeats": 5}))
    assert len(found.document) == len(documents) and limited_by is None


@pytest.mark.parametrize("what", ["documents", "bytes"])
@pytest.mark.parametrize("weights", [(None, None, None), (0.6, 0.3, 0.1)])
def test_a_budget_is_met_and_part_of_a_larger_one(what: str, weights: tuple[float | None, ...]) -> None:
    before: set[tuple[int, int]] = set()
    for budget in (10, 100, 200, 400, 800) if what == "documents" else (10_000, 100_000, 200_000, 400_000):
        found, documents, limited_by = mixed(section(weights, budget={what: budget}, mix={"max_repeats": 3}))
        taken = len(found.document) if what == "documents" else int(documents.size[found.document].sum())
        assert limited_by == f"budget.{what}"
        assert taken == budget if what == "documents" else budget - 3 * 2000 <= taken <= budget
        now = set(zip(found.document.tolist(), found.repeat.tolist(), strict=True))
        assert before < now
        before = now
    assert mixed(section(budget={what: 10**9}))[2] is None


def test_the_same_documents_in_another_order_are_chosen_alike() -> None:
    documents = pool()
    shuffled = documents.take(np.random.default_rng(5).permutation(len(documents)))
    config = section((0.7, 0.2, 0.1), budget={"bytes": 200_000}, mix={"max_repeats": 4})
    chosen = [
        set(zip(some.rank[found.document].tolist(), found.order.tolist(), strict=True))
        for found, some, _ in (mixed(config), mixed(config, shuffled))
    ]
    assert chosen[0] == chosen[1]


def test_weights_and_repetitions() -> None:
    found, documents, limited_by = mixed(section((0.7, 0.3, 0.001)))
    assert limited_by == "stories"
    assert shares(found, documents) == pytest.approx([0.7, 0.3, 0.001], abs=0.01)
    assert np.array_equal(np.unique(documents.source[found.document], return_counts=True)[1][:1], [SIZES["stories"]])
    many, documents, limited_by = mixed(section((0.7, 0.3, 0.001), mix={"max_repeats": 3}))
    assert len(many.document) == pytest.approx(3 * len(found.document), rel=0.01)
    assert shares(many, documents) == pytest.approx([0.7, 0.3, 0.001], abs=0.01)
    times = np.bincount(many.document, minlength=len(documents))[documents.source == 0]
    assert times.tolist() == [3] * SIZES["stories"]
    assert sorted(many.repeat[documents.source[many.document] == 0]) == sorted([0, 1, 2] * SIZES["stories"])
    assert len(set(many.order.tolist())) == len(many.order), "a repetition has a place of its own"
    half, *_ = mixed(section((0.7, 0.3, 0.001), mix={"max_repeats": 1.5}))
    assert len(half.document) == pytest.approx(1.5 * len(found.document), rel=0.01)


def test_what_is_plentiful_ends_the_mix_without_needless_repetition() -> None:
    """Repetitions make up for what is scarce; the source that is richest for its weight is not repeated."""
    found, documents, limited_by = mixed(section((1.0, 1.0, 1.0), mix={"max_repeats": 1000}))
    assert limited_by is None
    times = np.bincount(found.document, minlength=len(documents))
    assert times[documents.source == 1].max() == 1 and times[documents.source == 2].max() > 10


def test_temperature_favours_the_small() -> None:
    sizes = np.bincount(pool().source, pool().size, 3)
    for temperature in (1.0, 2.0, 100.0):
        config = section(mix={"temperature": temperature, "max_repeats": 100})
        wanted = sizes ** (1 / temperature) / (sizes ** (1 / temperature)).sum()
        assert shares(*mixed(config)[:2]) == pytest.approx(wanted.tolist(), abs=0.01)


def test_groups_share_a_weight() -> None:
    found, documents, _ = mixed(section((0.5, 0.5, None), groups=("all stories", None, "all stories")))
    got = shares(found, documents)
    assert got[0] + got[2] == pytest.approx(0.5, abs=0.01)
    natural = documents.size[documents.source == 2].sum() / documents.size[documents.source != 1].sum()
    assert got[2] / (got[0] + got[2]) == pytest.approx(float(natural), abs=0.02)


def test_phases_follow_each_other_and_repeat_only_what_is_used_up() -> None:
    phases = [{"share": 0.75, "weights": {"facts": 1.0}}, {"share": 0.25, "weights": {"stories": 3.0, "facts": 1.0}}]
    found, documents, _ = mixed(section(mix={"phases": phases}))
    sizes = documents.size[found.document]
    assert sizes[found.phase == 1].sum() / sizes.sum() == pytest.approx(0.25, abs=0.01)
    for phase, wanted in ((0, [0, 1, 0]), (1, [0.75, 0.25, 0])):
        inside = Occurrences(*(column[found.phase == phase] for column in found))
        assert shares(inside, documents) == pytest.approx(wanted, abs=0.01)
    assert np.bincount(found.document).max() == 1
    shards = lay_out(documents, {"train": found}, 50_000)
    assert [shard.phase for shard in shards] == sorted(shard.phase for shard in shards)
    assert {shard.phase for shard in shards} == {0, 1}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weights": (1.0, None, None)}, "facts, tales must have a weight"),
        ({"weights": (1.0, 2.0, 1.0), "groups": ("g", "g", None)}, "g must have one weight"),
        ({"mix": {"phases": [{"share": 1.0, "weights": {"story": 1.0}}]}}, "there is no story\n.*stories, facts, tales"),
        ({"mix": {"phases": [{"share": 1.0, "weights": {"stories": 0.0}}]}}, "one weight at least must be above 0"),
    ],
)
def test_wrong_weights_are_explained(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        mixed(section(**settings))


def test_a_weight_for_nothing_is_explained() -> None:
    documents = pool()
    with pytest.raises(DataError, match="tales must have text"):
        mixed(section((1.0, 1.0, 1.0)), documents.take(np.flatnonzero(documents.source != 2)))


def test_shards_are_cut_where_they_are_full() -> None:
    documents = pool()
    shards = lay_out(
        documents, {"train": once(documents, documents.source == 1), "validation": once(documents, documents.source == 2)}, 30_000
    )
    of_train = [shard for shard in shards if shard.split == "train"]
    assert [shard.file for shard in of_train[:2]] == ["train-00000.parquet", "train-00001.parquet"]
    order = np.concatenate([shard.orders for shard in of_train])
    assert np.array_equal(order, np.sort(order)) and len(order) == SIZES["facts"]
    for shard in of_train[:-1]:
        assert shard.size > 30_000 >= shard.size - int(documents.size[shard.documents[-1]])
    assert sum(len(shard.documents) for shard in shards if shard.split == "validation") == SIZES["tales"]


def test_a_larger_share_holds_out_more_and_the_same() -> None:
    documents = pool()
    before = np.zeros(len(documents), bool)
    for share in (0.01, 0.05, 0.2):
        side = sides(documents.split, documents.size, share, 0.1)
        assert np.mean(side == 1) == pytest.approx(share, abs=0.02) and np.mean(side == 2) == pytest.approx(0.1, abs=0.02)
        assert np.all((side == 1)[before])
        before = side == 1
    assert np.array_equal(sides(documents.split, documents.size, 0.05, 0.0) == 1, sides(documents.split, documents.size, 0.05, 0.1) == 1)


@pytest.mark.parametrize("count", [2, 3, 4, 19, 300])
@pytest.mark.parametrize("shares", [(1e-9, 0.0), (0.02, 0.0), (0.49, 0.0), (0.02, 0.02), (1e-9, 1e-9)])
def test_no_side_is_ever_empty(count: int, shares: tuple[float, float]) -> None:
    split = np.random.default_rng(count).integers(0, 2**64, count, np.uint64)
    side = sides(np.concatenate([split, split]), np.full(2 * count, 10), *shares)
    assert np.array_equal(side[:count], side[count:]), "equal hashes stay together"
    wanted = {0, 1, 2} if shares[1] and count > 2 else {0, 1}
    assert set(side.tolist()) == wanted
