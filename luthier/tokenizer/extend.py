"""Further merges for a tokenizer that is there. In: a byte-level tokenizer, texts. Out: a larger one. Next: stages.

Every id stays what it is; the new entries stand behind all others, special tokens included. So a model that was trained with the small
one needs only more rows in its embedding.
"""

from __future__ import annotations

from collections.abc import Iterable

from luthier.config.tokenization import TokenizerSection
from luthier.errors import ConfigError
from luthier.runs.progress import Progress
from luthier.tokenizer.backend import count_pretokens, learn_merges
from luthier.tokenizer.parts import no_text, warn_if_few
from luthier.tokenizer.tokenizer import Tokenizer


def extend_tokenizer(
    tokenizer: Tokenizer, texts: Iterable[str], config: TokenizerSection, progress: Progress, total_bytes: int | None
) -> Tokenizer:
    """Learn further merges, on text that the tokenizer splits by its own pattern, until there are `config.vocab_size` entries.

    Raises: ConfigError when it cannot be extended, or is as large already; DataError when there is no text
    """
    if tokenizer.kind != "bpe":
        raise ConfigError(f"tokenizer.extend: only byte-level BPE can be extended by merges, this is of kind {tokenizer.kind!r}")
    room = config.vocab_size - tokenizer.vocab_size
    if room <= 0:
        raise ConfigError(
            f"tokenizer.extend: tokenizer.vocab_size={config.vocab_size} must be more than the {tokenizer.vocab_size} entries there are",
            fix="set it higher, or leave tokenizer.extend out",
        )
    counts = count_pretokens(texts, tokenizer.pattern, progress, total_bytes)
    if not counts:
        raise no_text()
    merges = learn_merges(counts, room, progress, first=tokenizer.merges)
    warn_if_few(config, room - len(merges), progress)
    return Tokenizer(parts=tokenizer.parts.with_merges(merges))
