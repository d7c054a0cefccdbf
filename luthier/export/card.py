"""The model card. In: the recipe and what its stages said of themselves. Out: the exported folder's README.md. Next: serve.

Nothing in it depends on time or on the machine's speed, so the same model has the same card.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from luthier.config.load import last_model
from luthier.config.model import ModelConfig
from luthier.config.schema import Recipe
from luthier.plan.architectures import architecture
from luthier.plan.parameters import count

_TAGS = ("luthier", "trained-from-scratch")
_WORDS = {
    "swiglu": "SwiGLU", "gelu": "GELU", "relu2": "squared ReLU", "rmsnorm": "RMSNorm", "layernorm": "LayerNorm", "rope": "RoPE",
    "rope_interleaved": "RoPE (interleaved)", "alibi": "ALiBi", "none": "none", "learned": "learned",
}  # fmt: skip
_SHOWN_ANSWERS = 3


def model_card(recipe: Recipe, summaries: Mapping[str, Mapping[str, Any]], languages: Sequence[str] = ()) -> str:
    """Write the card as Markdown behind a YAML head.

    `summaries` are those of the stages data, pretrain, sft and eval, as far as they ran; `languages` are ISO 639 codes for the head.
    """
    tuned = bool(recipe.sft.sources)
    sources = _sources(summaries)
    config = last_model(recipe, summaries.get("tokenizer", {}).get("vocab_size"))
    parts = [
        _head(sources, languages, tuned),
        f"# {_line(recipe.run.name)}",
        _line(recipe.description) or "A small language model, trained from scratch.",
        _warning(tuned),
        _use(recipe, tuned, own_class=architecture(config) is None),
        _shape(recipe, config, summaries),
        _data(sources),
        _procedure(recipe, summaries, tuned),
        _evaluation(recipe, summaries),
        _limits(tuned),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _sources(summaries: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """All sources with what they were used for; one that served twice is two rows."""
    documents = [{**source, "used": "pretraining"} for source in summaries.get("data", {}).get("sources", ())]
    tuning = [summary for stage, summary in summaries.items() if stage not in ("data", "tokenizer")]
    learned = [source for summary in tuning for source in summary.get("sources", ())]
    asked = [row for summary in tuning for row in summary.get("problems", ())]
    learned += [row for row in asked if row["problems"] and "licence" in row]  # not what only measures, nor sums that are made
    return [*documents, *({**row, "used": "fine-tuning"} for row in learned)]


def _head(sources: Sequence[Mapping[str, Any]], languages: Sequence[str], tuned: bool) -> str:
    """The YAML head; every string is JSON, which YAML reads as it is."""
    licences = sorted({str(source.get("licence") or "unknown") for source in sources})
    lines = ["---"]
    if len(licences) == 1 and licences[0] != "unknown":
        lines.append(f"license: {json.dumps(licences[0].lower())}")
    elif licences and licences != ["unknown"]:
        lines += ["license: other", f"license_name: {json.dumps('of the training texts: ' + ', '.join(licences), ensure_ascii=False)}"]
    else:
        lines.append("license: unknown")
    if languages:
        lines.append(f"language: {json.dumps(list(languages))}")
    tags = [*_TAGS, *(["conversational"] if tuned else [])]
    return "\n".join([*lines, "library_name: transformers", "pipeline_tag: text-generation", f"tags: {json.dumps(tags)}", "---"])


def _warning(tuned: bool) -> str:
    what = "It answers questions in English sentences" if tuned else "It continues text"
    return f"> {what}, but **its facts are often wrong**: a model this small learns how text reads, not what is true."


def _use(recipe: Recipe, tuned: bool, own_class: bool) -> str:
    question = json.dumps(_line(next(iter(recipe.eval.questions), "What is music?")), ensure_ascii=False)
    beginning = json.dumps(next(iter(recipe.pretrain.sample_prompts), "The "), ensure_ascii=False)
    if tuned:
        inputs = [
            f'messages = [{{"role": "user", "content": {question}}}]',
            'inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)',
        ]
    else:
        first = json.dumps(recipe.tokenizer.layout.strings.get("end_of_text", "<|end_of_text|>"), ensure_ascii=False)
        inputs = [f'inputs = tokenizer({first} + {beginning}, return_tensors="pt")']
    trust = ", trust_remote_code=True" if own_class else ""
    code = [
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        'folder = "."  # where this file is',
        f"model = AutoModelForCausalLM.from_pretrained(folder{trust})",
        f"tokenizer = AutoTokenizer.from_pretrained(folder{trust})",
        *inputs,
        'output = model.generate(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])',
        'print(tokenizer.decode(output[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True))',
    ]
    sampling = recipe.sampling
    drawn = "greedily" if sampling.temperature == 0 else f"at temperature {sampling.temperature:g}"
    note = f"`generation_config.json` has the sampling it was judged with: {drawn}, at most {sampling.max_new_tokens} new tokens."
    why = "No architecture of `transformers` has this model: `modeling_luthier.py`, which lies beside it, is its code." if own_class else ""
    return _section("Use", "```python\n" + "\n".join(code) + "\n```", note, *([why] if why else []))


def _shape(recipe: Recipe, config: ModelConfig, summaries: Mapping[str, Mapping[str, Any]]) -> str:
    stated = [summary["params"] for summary in summaries.values() if "params" in summary][-1:]
    positions = ", ".join(_WORDS[name] for name in config.positions) + (" by turns" if len(config.positions) > 1 else "")
    rows = [
        ("parameters", f"{(stated or [count(config)['total']])[0]:,}"),
        ("layers, width", f"{config.n_layers}, {config.d_model}"),
        ("heads", f"{config.n_heads} for queries, {config.n_kv_heads} for keys and values, of width {config.head_dim}"),
        ("MLP", f"{_WORDS[config.mlp]}, hidden width {config.d_ff}"),
        ("context", f"{config.max_seq_len:,} tokens"),
        ("positions", positions + (f", base {config.rope_theta:g}" if config.turns else "")),
        ("norm", f"{_WORDS[config.norm]} before attention and MLP"),
        ("embeddings", "tied" if config.tie_embeddings else "not tied"),
        *_switches(config),
        ("tokenizer", _tokenizer(recipe)),
    ]
    return _section("Model", _table(("", ""), rows))


def _switches(config: ModelConfig) -> list[tuple[str, str]]:
    """What most models have not, where this one has it."""
    rows = {
        "biases": ("on the blocks' projections", config.bias),
        "windows": (", ".join(str(size or "all") for size in config.windows) + " positions", any(config.windows)),
        "queries and keys": ("RMSNorm over each head", config.qk_norm),
        "logits": (f"soft cap {config.logit_softcap}", config.logit_softcap is not None),
        "residual stream": ("learned scalars before each block", config.residual_scalars),
        "value embeddings": ("in every second layer", config.value_embeddings),
        "keys": ("one position late in half of the heads", config.key_offset),
    }
    return [(name, text) for name, (text, there) in rows.items() if there]


def _tokenizer(recipe: Recipe) -> str:
    settings = recipe.tokenizer
    if settings.path is not None:
        return f"taken from {settings.path}{', extended by merges of the same text' if settings.extend else ''}"
    kinds = {"bpe": "byte-level BPE", "characters": "one token a character", "uncased": "lower-case words in pieces"}
    return f"{kinds[settings.kind]}, made from the same text"


def _data(sources: Sequence[Mapping[str, Any]]) -> str:
    if not sources:
        return ""
    rows = [
        (
            _cell(source.get("name", "")),
            source["used"],
            _cell(source.get("licence") or "unknown"),
            _cell(source.get("attribution") or "not stated"),
            _amount(source),
        )
        for source in sources
    ]
    text = "The weights are made from these texts, so their licences and attributions go with them:"
    return _section("Training data", text, _table(("source", "used for", "licence", "attribution", "amount"), rows))


def _amount(source: Mapping[str, Any]) -> str:
    for what in ("conversations", "preferences", "problems", "documents", "records"):
        number = source.get(what)
        if isinstance(number, int):
            size = source.get("bytes")
            return f"{number:,} {what}" + (f", {size / 1e6:.1f} MB" if isinstance(size, int) else "")
    return ""


def _procedure(recipe: Recipe, summaries: Mapping[str, Mapping[str, Any]], tuned: bool) -> str:
    pretrain, sft = summaries.get("pretrain", {}), summaries.get("sft", {})
    lines: list[str] = []
    optim = recipe.optim
    rate = f"{optim.lr:g}"
    if optim.name == "muon":
        rate = f"{optim.muon_lr:g} (Muon, the blocks' matrices) and {optim.lr:g} (AdamW, the rest)"
    if "steps" in pretrain:
        lines.append(
            f"Pretraining: {pretrain['tokens']:,} tokens in {pretrain['steps']:,} steps, rows of {recipe.pack.seq_len} tokens, "
            f"peak learning rate {rate}, {optim.schedule} schedule, weight decay {optim.weight_decay:g}."
        )
    if tuned and "steps" in sft:
        lines.append(
            f"Fine-tuning: {recipe.sft.epochs:g} passes over the conversations in {sft['steps']:,} steps, "
            f"loss on the assistant's tokens only, peak learning rate {recipe.sft.lr:g}."
        )
    compute = pretrain.get("compute", {})
    if compute.get("precision"):
        products = "fp32" if compute["precision"] == "fp32" else f"{compute['precision']} with fp32 weights"
        lines.append(f"Computed on {compute.get('device', 'cpu')}, matrix products in {products}, seed {recipe.run.seed}.")
    for section in recipe.post:
        made = summaries.get(section.name, {})
        if "steps" in made:
            lines.append(f"Then `{section.name}` ({section.kind}): {made['steps']:,} steps, peak learning rate {section.lr:g}.")
    weights = [summary["weights_sha256"] for summary in summaries.values() if summary.get("weights_sha256")]
    if weights:
        lines.append(f"SHA-256 of the weights as trained: `{weights[-1]}`.")
    return _section("Training", "\n".join(f"- {line}" for line in lines)) if lines else ""


def _evaluation(recipe: Recipe, summaries: Mapping[str, Mapping[str, Any]]) -> str:
    evaluated = summaries.get("eval", {})
    rows = [
        (name, f"{values['val_loss']:.4f}", f"{values['perplexity']:.2f}", f"{values['val_bpb']:.4f}", f"{values['bytes']:,}")
        for name, values in evaluated.get("bits_per_byte", {}).items()
    ]
    parts: list[str] = []
    if rows:
        parts.append("On documents that were held out:")
        parts.append(_table(("model", "nats per token", "perplexity", "bits per byte", "bytes of text"), rows))
    answers = evaluated.get("answers", ())[:_SHOWN_ANSWERS]
    for answer in answers:
        said = answer.get("tuned") or answer.get("base") or {}
        parts.append(f"**{_line(answer.get('question', ''))}**\n\n{_fenced(str(said.get('answer', '')))}")
    return _section("Evaluation", *parts) if parts else ""


def _limits(tuned: bool) -> str:
    lines = [
        "Facts, names, dates and numbers may be invented; nothing it says should be relied on.",
        "It repeats the bias and the gaps of its training texts, and nothing was done to make it safe for any use.",
        "It knows little beyond the language and the subjects of its training texts.",
    ]
    if tuned:
        lines.append("It was tuned on short questions; it forgets and confuses things in long conversations.")
    return _section("Limitations", "\n".join(f"- {line}" for line in lines))


def _section(title: str, *parts: str) -> str:
    return "\n\n".join([f"## {title}", *parts])


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))


def _line(text: object) -> str:
    """Text on one line."""
    return " ".join(str(text).split())


def _cell(text: object) -> str:
    """Text that stays in its cell of a table."""
    return _line(text).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")


def _fenced(text: str) -> str:
    """Text as it is, in a fence that it can't close."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text}\n{fence}"
