"""Evaluation sets as one table. In: `[data.decontaminate]`. Out: a file that all workers share. Next: chain."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from luthier.config.data import ContaminationSection
from luthier.data.reading.sources import read_source, source_fingerprint
from luthier.data.report import SourceReport
from luthier.data.rules.contamination import Contamination, strings_of
from luthier.data.template import template
from luthier.runs.files import atomic_file, fingerprint
from luthier.runs.progress import Progress


def contamination_table(config: ContaminationSection, cache: Path, workspace: Path, progress: Progress) -> Path | None:
    """Write the table, unless it is there; it is named by the hash of what it is made from. `None` without evaluation sets.

    Raises: DataError when a set is missing
    """
    if not config.sources:
        return None
    contents = [[source_fingerprint(source, cache), source.text] for source in config.sources]
    path = workspace / f"contamination-{fingerprint([2, contents, config.ngram])[:32]}.npy"
    if not path.is_file():
        progress.say("data: reading the evaluation sets")
        table = Contamination.build(_records(config, cache), config.ngram).table
        with atomic_file(path) as file:
            np.save(file, table, allow_pickle=False)
    return path


def _records(config: ContaminationSection, cache: Path) -> Iterator[list[str]]:
    for source in config.sources:
        render = None if source.text is None else template(source.text)
        for record in read_source(source, cache, SourceReport(source.label)):
            if render is None:
                yield strings_of(record)
            else:
                text = render(record)
                yield [] if text is None else [text]
