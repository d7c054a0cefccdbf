"""How tokens are drawn. In: `[sampling]`. Out: frozen values. Next: schema."""

from __future__ import annotations

from pydantic import Field

from luthier.config.section import Positive, Section


class SamplingSection(Section):
    """How tokens are drawn in evaluation, chat and serving."""

    temperature: float = Field(default=0.7, ge=0, le=10)
    """0 is greedy."""
    top_k: int = Field(default=40, ge=0)
    """Keep the k likeliest tokens; 0 keeps all."""
    top_p: float = Field(default=0.95, gt=0, le=1)
    """Keep the smallest set of tokens with so much probability."""
    repetition_penalty: float = Field(default=1.1, ge=1, le=10)
    """Divides (or multiplies, where negative) the logits of tokens already there; 1 is off."""
    no_repeat_ngram: int = Field(default=0, ge=0)
    """So many tokens in a row come only once in an answer; what it quotes of the prompt is not counted; 0 is off."""
    end_bias: float = Field(default=0.0, ge=-100, le=100)
    """Added to the logits of what ends an answer: above 0 answers end sooner, below 0 later."""
    max_new_tokens: Positive = 128
    """Longest answer, in tokens."""
