"""A recipe made tiny: all that it does, on little text. In: a recipe. Out: one of minutes on two CPU cores. Next: stages run.

Only sizes shrink; what kind each part is stays. Text, conversations, pairs and problems are the quickstart's and built-in ones. Learning
rates grow as the model gets narrower, as the width's inverse (Yang et al. 2022, arXiv:2203.03466, table 3), up to `_HIGHEST_LR`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

from luthier.config.data import DataSection, SourceConfig
from luthier.config.model import ModelSection
from luthier.config.post import DistillSection, GrpoSection, PairsSection, PostSection, PreferenceSourceConfig, ProblemSourceConfig
from luthier.config.schema import Recipe
from luthier.config.sft import SftSection, SftSourceConfig
from luthier.config.texts import ARTICLES, COOKBOOK
from luthier.config.tokenization import TokenizerSection
from luthier.config.training import CourseSection, PretrainSection, TrainingSection
from luthier.errors import ConfigError

SUFFIX = "-smoke"
_TEXTS = (
    {**ARTICLES, "text": "{title}\n\n{extract}"},
    {**COOKBOOK, "text": "{title}\n\n{steps}"},
    {**COOKBOOK, "text": "{title}\n\n{ingredients}"},
    {**ARTICLES, "text": "{title}: {description}"},
)
"""Texts that have nothing in common, for as many sources."""
_CONVERSATIONS = (
    {**ARTICLES, "task": "encyclopedia"},
    {**COOKBOOK, "task": "cookbook"},
    {"task": "arithmetic"},
    {"task": "arithmetic", "operations": "-"},
    {"task": "arithmetic", "operations": "*"},
)

_WIDTH, _SEQ_LEN, _ROWS, _STEPS = 128, 256, 8, 96
_SHORTEST_SFT = 192
"""Tokens that the shorter half of the conversations fit into."""
_VOCABULARY = {"bpe": 1024, "uncased": 1024, "characters": 400}
_FEWEST_LAYERS, _MOST_KV_HEADS = 2, 2
_CONVERSATIONS_EACH, _PAIRS_EACH, _PROBLEMS_EACH = 240, 64, 64
_HIGHEST_LR = 2e-3
_TUNING_LR = 3e-4, 1e-3
"""Between these are the learning rates of what follows pretraining, for a few dozen steps at that of a long training would move nothing."""


def smoke(recipe: Recipe) -> Recipe:
    """Shrink a recipe. The model keeps whole periods of its patterns, the ratio of its heads and of its MLP to its width.

    Raises: ConfigError for a distillation, whose teacher cannot be shrunk
    """
    model = _model(recipe)
    gain = max(1.0, recipe.model.d_model / (model.d_model or 1))
    pretrain, optim = _pretraining(recipe, gain)
    return recipe.model_copy(
        update={
            "expected_params": None,
            "run": recipe.run.model_copy(update={"name": recipe.run.name[: 64 - len(SUFFIX)] + SUFFIX}),
            "data": _data(recipe.data, recipe.pretrain, pretrain),
            "tokenizer": _tokenizer(recipe.tokenizer),
            "pack": recipe.pack.model_copy(update={"seq_len": min(recipe.pack.seq_len, _SEQ_LEN)}),
            "model": model,
            "optim": optim,
            "pretrain": pretrain,
            "sft": _sft(recipe.sft, recipe, gain),
            "post": tuple(_post(section, recipe, gain) for section in recipe.post),
            "sampling": recipe.sampling.model_copy(update={"max_new_tokens": min(recipe.sampling.max_new_tokens, 32)}),
            "eval": recipe.eval.model_copy(update={"max_tokens": 16_384}),
            "export": recipe.export.model_copy(update={"parity_tokens": min(recipe.export.parity_tokens, 16)}),
        }
    )


def _model(recipe: Recipe) -> ModelSection:
    model = recipe.model
    group = model.n_heads // (model.n_kv_heads or model.n_heads)
    kv_heads = min(model.n_kv_heads or model.n_heads, _MOST_KV_HEADS)
    heads = group * kv_heads
    head_dim = min(model.head_dim or model.d_model // model.n_heads, max(8, _WIDTH // heads // 8 * 8))
    whole = (model.head_dim or model.d_model // model.n_heads) * model.n_heads / model.d_model
    width = max(8, round(heads * head_dim / whole))
    period = math.lcm(len(model.positions), len(model.windows), 2 if model.value_embeddings else 1)
    windows = tuple(max(1, round(size * _shorter(recipe))) if size else 0 for size in model.windows)
    return model.model_copy(
        update={
            "d_model": width,
            "n_layers": min(model.n_layers, period * max(1, math.ceil(_FEWEST_LAYERS / period))),
            "n_heads": heads,
            "n_kv_heads": kv_heads if model.n_kv_heads else None,
            "head_dim": head_dim if model.head_dim or heads * head_dim != width else None,
            "d_ff": max(8, round(model.d_ff / model.d_model * width / 8) * 8) if model.d_ff else None,
            "windows": windows,
            "vocab_size": _entries(recipe.tokenizer) if model.vocab_size else None,
            "max_seq_len": max(8, round(model.max_seq_len * _shorter(recipe))) if model.max_seq_len else None,
        }
    )


def _shorter(recipe: Recipe) -> float:
    """By how much rows get shorter."""
    return min(1.0, _SEQ_LEN / recipe.pack.seq_len)


def _entries(section: TokenizerSection) -> int:
    return min(section.vocab_size, _VOCABULARY[section.kind]) if section.path is None else section.vocab_size


def _tokenizer(section: TokenizerSection) -> TokenizerSection:
    """Fewer entries; ids that are counted from the end stay where they are, seen from there."""
    entries = _entries(section)
    ids = {name: id if id < entries // 2 else id - section.vocab_size + entries for name, id in section.layout.ids.items()}
    layout = section.layout.model_copy(update={"ids": ids})
    max_bytes = min(section.max_bytes, 2_000_000) if section.max_bytes else None
    return section.model_copy(update={"vocab_size": entries, "layout": layout, "max_bytes": max_bytes})


def _data(data: DataSection, before: PretrainSection, after: PretrainSection) -> DataSection:
    """The same sources by name, group and weight, each with a text of its own; the budget keeps its proportion to what is trained on."""
    sources = data.sources or (SourceConfig(path=".", name="articles"),)
    texts = [_of(SourceConfig, source, text) for source, text in zip(sources, itertools.cycle(_TEXTS), strict=False)]
    tests = tuple(_of(SourceConfig, source, _TEXTS[-1]) for source in data.decontaminate.sources)
    passes = before.epochs
    if passes is None and before.tokens is not None and data.budget.tokens is not None:
        passes = max(1.0, before.tokens / data.budget.tokens)
    elif passes is None and data.budget.tokens is not None and before.steps is not None:
        passes = max(1.0, before.steps * before.global_batch_tokens / data.budget.tokens)
    elif passes is None and data.mix.phases:
        passes = 1.0
    budget = data.budget
    if passes is not None:
        seen = _STEPS * after.global_batch_tokens
        budget = budget.model_copy(update={"tokens": max(16_384, math.ceil(seen / passes)), "documents": None, "bytes": None})
    return data.model_copy(
        update={
            "sources": tuple(texts),
            "decontaminate": data.decontaminate.model_copy(update={"sources": tests}),
            "budget": budget,
            "shard_bytes": min(data.shard_bytes, 2**22),
        }
    )


def _of(kind: type[Any], source: SourceConfig, stand_in: dict[str, Any], **more: Any) -> Any:
    """A source with another's name, group and weight."""
    kept = {key: value for key in ("group", "weight") if (value := getattr(source, key)) is not None}
    return kind.model_validate({**stand_in, **kept, "name": source.label.rpartition("/")[2], **more})


def _pretraining(recipe: Recipe, gain: float) -> tuple[PretrainSection, Any]:
    before, seq_len = recipe.pretrain, min(recipe.pack.seq_len, _SEQ_LEN)
    short = _training(before, recipe.pack.seq_len, seq_len, _STEPS)
    tokens = short.global_batch_tokens
    horizon: dict[str, Any] = {"steps": None, "tokens": None, "epochs": None, "tokens_per_param": None}
    if before.epochs is not None:
        horizon["epochs"] = before.epochs
    elif before.steps is not None:
        horizon["steps"] = min(before.steps, _STEPS)
    else:
        horizon["tokens"] = _STEPS * tokens
    grows: dict[str, Any] = {}
    if before.batch_warmup_start and before.batch_warmup_tokens:
        start = max(seq_len, tokens * before.batch_warmup_start // before.global_batch_tokens)
        grows = {"batch_warmup_start": min(start, tokens // 2), "batch_warmup_tokens": _STEPS * tokens // 4}
    steps = before.steps or (before.tokens or 0) / before.global_batch_tokens or None
    optim = _course(recipe.optim, steps, _STEPS)
    rates = {"lr": min(max(_HIGHEST_LR, optim.lr), optim.lr * gain)}
    return short.model_copy(update={**horizon, **grows}), optim.model_copy(update=rates)


def _course(section: Any, before: float | None, after: int) -> Any:
    """A course of fewer steps in the same proportions; where its length is not known, warm-up is a tenth."""
    if not isinstance(section, CourseSection):
        return section

    def fewer(steps: int | None) -> int | None:
        return steps if not steps else max(1, min(after // 10 if before is None else max(4, round(steps * after / before)), steps))

    names = ("warmup_steps", "decay_steps", "restart_warmup_steps")
    return section.model_copy(update={name: fewer(getattr(section, name)) for name in names})


def _training(section: Any, seq_len: int, shorter: int, steps: int, rows: int = _ROWS) -> Any:
    """What all trainings have in common: a batch of few rows, in as many parts as before up to four, looked at often."""
    assert isinstance(section, TrainingSection)
    rows = min(rows, max(1, section.global_batch_tokens // seq_len))
    micro = section.micro_batch_size
    if micro is not None:
        parts = max(1, round(section.global_batch_tokens / seq_len / micro))
        micro = max(1, rows // min(4, parts))
    return section.model_copy(
        update={
            "global_batch_tokens": rows * shorter,
            "micro_batch_size": micro,
            "log_every": 1,
            "eval_every": max(1, steps // 6),
            "eval_tokens": min(section.eval_tokens, 32 * shorter),
            "sample_every": max(1, steps // 2),
            "checkpoint_every": max(1, steps // 4) if section.checkpoint_every else None,
            "keep_checkpoints": min(section.keep_checkpoints, 2),
        }
    )


def _sft(section: Any, recipe: Recipe, gain: float) -> Any:
    """Fewer conversations; several sources stay several, each with records of its own. Short rows are long enough for some answers."""
    assert isinstance(section, SftSection)
    if not section.sources:
        return section
    long = section.seq_len or recipe.pack.seq_len
    short = min(long, max(_SHORTEST_SFT, round(long * _shorter(recipe))))
    share = max(section.validation_share, 0.1)
    made = _training(_course(section, None, 40), long, short, 36)
    return made.model_copy(
        update={
            "sources": tuple(_conversations(section.sources)),
            "seq_len": short if section.seq_len else None,
            "epochs": min(section.epochs, 2.0),
            "lr": _rate(section.lr, gain),
            "validation_share": share,
        }
    )


def _conversations(sources: Sequence[SftSourceConfig]) -> list[SftSourceConfig]:
    """What is built in stays; for each of the others there is the next that nobody has."""
    free = iter(one for one in _CONVERSATIONS if one["task"] != "arithmetic" or not any(source.task == "arithmetic" for source in sources))
    found: list[SftSourceConfig] = []
    for source in sources:
        stand_in = None if source.builtin else next(free, None)
        if source.builtin:
            found.append(source.model_copy(update={"limit": min(source.limit or _CONVERSATIONS_EACH, _CONVERSATIONS_EACH)}))
        elif stand_in is not None:
            found.append(_of(SftSourceConfig, source, stand_in, limit=_CONVERSATIONS_EACH))
    return found


def _rate(lr: float, gain: float) -> float:
    least, most = _TUNING_LR
    return max(lr, min(most, max(least, lr * gain)))


def _post(section: PostSection, recipe: Recipe, gain: float) -> PostSection:
    if isinstance(section, SftSection):
        return _sft(section, recipe, gain)
    if isinstance(section, DistillSection):
        raise ConfigError(
            f"post.{section.name}: a distillation has no small form: its teacher is a model that is there", fix="leave it out"
        )
    seq_len = min(recipe.pack.seq_len, _SEQ_LEN)
    common = {"lr": _rate(section.lr, gain)}
    if isinstance(section, PairsSection):
        long = section.seq_len or 2 * recipe.pack.seq_len
        made = _training(_course(section, None, 40), long, 2 * seq_len, 48, 4)
        sources = tuple(
            _of(PreferenceSourceConfig, source, one, limit=_PAIRS_EACH)
            for source, one in zip(section.sources, itertools.cycle(_CONVERSATIONS[:2]), strict=False)
        )[:2]
        fewer = {"sources": sources, "epochs": 3.0, "seq_len": 2 * seq_len if section.seq_len else None}
        return made.model_copy(update={**common, **fewer, "validation_share": max(section.validation_share, 0.1)})
    assert isinstance(section, GrpoSection)
    steps = min(section.steps, 6)
    made = _training(_course(section, section.steps, steps), recipe.pack.seq_len, seq_len, steps)
    return made.model_copy(
        update={
            **common,
            "sources": tuple(_problems(source) for source in section.sources),
            "eval_sources": tuple(_problems(source) for source in section.eval_sources),
            "steps": steps,
            "prompts_per_step": min(section.prompts_per_step, 4),
            "group_size": min(section.group_size, 8),
            "max_new_tokens": min(section.max_new_tokens, 12),
            "length_margin": min(section.length_margin, 4),
            "eval_problems": min(section.eval_problems, 16),
            "validation_share": max(section.validation_share, 0.1),
        }
    )


def _problems(source: ProblemSourceConfig) -> ProblemSourceConfig:
    """Sums for what has an answer, questions about articles for a bank of prompts."""
    if source.problems == "prompts":
        return _of(ProblemSourceConfig, source, {**ARTICLES, "problems": "prompts"}, limit=_PROBLEMS_EACH)
    return ProblemSourceConfig(problems="arithmetic", name=source.label.rpartition("/")[2], digits=1, limit=_PROBLEMS_EACH)
