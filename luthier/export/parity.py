"""Proof that an exported folder is the same model. In: folder, model, prompts. Out: a report, or an error. Next: card."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from luthier.config.sampling import SamplingSection
from luthier.errors import LuthierError
from luthier.export.hf import SOURCE
from luthier.generate.engine import Engine
from luthier.model.decoder import Decoder
from luthier.tokenizer.tokenizer import Tokenizer


def check_parity(directory: Path, model: Decoder, tokenizer: Tokenizer, prompts: Sequence[str], n_tokens: int) -> dict[str, Any]:
    """Load the folder with `transformers` and compare prompt ids and greedy tokens; without `transformers`, say so.

    Raises: LuthierError naming the prompt and the first token that differs.
    """
    if importlib.util.find_spec("transformers") is None:
        return {"checked": False, "reason": "transformers is not installed; pip install 'luthier[hf]' to have the export proven"}
    import transformers
    from transformers import AutoModelForCausalLM, AutoTokenizer

    transformers.utils.logging.disable_progress_bar()
    kinds: tuple[Any, Any] = AutoModelForCausalLM, AutoTokenizer
    if (directory / SOURCE.name).exists():  # a copy of a file of ours: we take ours, and run nothing that lies in a folder
        from luthier.export.modeling_luthier import LuthierForCausalLM

        kinds = LuthierForCausalLM, transformers.PreTrainedTokenizerFast
    theirs, their_tokenizer = kinds[0].from_pretrained(directory, dtype=torch.float32).eval(), kinds[1].from_pretrained(directory)
    engine = Engine(model)
    greedy = SamplingSection(temperature=0, repetition_penalty=1.0, top_k=0, top_p=1.0, max_new_tokens=n_tokens)
    compared = 0
    for prompt in prompts:
        ids = [tokenizer.special.end_of_text, *tokenizer.encode(prompt)]
        other = [tokenizer.special.end_of_text, *their_tokenizer.encode(prompt, add_special_tokens=False)]
        if ids != other:
            raise LuthierError(f"{directory}: transformers' tokenizer splits {prompt!r} otherwise: {other} instead of {ids}")
        ours = engine.generate(ids, greedy).ids
        answer = theirs.generate(
            torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids), dtype=torch.int64),
            do_sample=False,
            max_new_tokens=len(ours),
            repetition_penalty=1.0,
            eos_token_id=[],
            temperature=None,
            top_k=None,
            top_p=None,
        )
        got = answer[0, len(ids) :].tolist()
        if got != ours:
            first = next(i for i, (a, b) in enumerate(zip(ours, got, strict=False)) if a != b)
            raise LuthierError(f"{directory}: after {prompt!r}, token {first} is {got[first]} in transformers and {ours[first]} here")
        compared += len(ours)
    return {"checked": True, "prompts": len(prompts), "tokens": compared}
