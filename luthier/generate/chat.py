"""A conversation with a model. In: what a person says. Out: the answer, piece by piece. Next room: serve."""

from __future__ import annotations

from collections.abc import Generator, Sequence

from luthier.config.sampling import SamplingSection
from luthier.errors import DataError
from luthier.generate.engine import Engine, FinishReason
from luthier.generate.text import TextGeneration
from luthier.tasks.conversation import Message
from luthier.tokenizer.chat import render_prompt
from luthier.tokenizer.tokenizer import Tokenizer


def chat_stop_ids(tokenizer: Tokenizer) -> frozenset[int]:
    """Give the ids that end an answer."""
    return frozenset((tokenizer.special.end_of_turn, tokenizer.special.end_of_text))


def chat_banned_ids(tokenizer: Tokenizer, vocab_size: int) -> frozenset[int]:
    """Give the ids an answer may never hold: roles, padding, spare entries, the unknown token, rows of the embedding without a token."""
    special = tokenizer.special
    unknown = () if special.unknown is None else (special.unknown,)
    never = (special.begin_of_text, special.pad, special.system, special.user, special.assistant, *unknown, *special.spare)
    return frozenset((*never, *range(tokenizer.vocab_size, vocab_size))) - chat_stop_ids(tokenizer)


def start_answer(
    engine: Engine,
    tokenizer: Tokenizer,
    prompt_ids: Sequence[int],
    settings: SamplingSection,
    *,
    stops: Sequence[str] = (),
    seed: int | None = None,
) -> TextGeneration:
    """Begin to answer a rendered conversation.

    Raises: DataError when the prompt does not fit the context.
    """
    banned = chat_banned_ids(tokenizer, engine.model.config.vocab_size)
    generation = engine.stream(prompt_ids, settings, stop_ids=chat_stop_ids(tokenizer), banned_ids=banned, seed=seed)
    return TextGeneration(generation, tokenizer, stops)


class ChatSession:
    """Several turns with one model.

    When the conversation outgrows the context, its oldest turns are forgotten (the system message stays) and counted in
    `forgotten_turns`. Half of the context, or `max_new_tokens` if that is less, is kept free for the answer. With a seed, turn i
    draws with `seed + i`.
    """

    def __init__(
        self,
        engine: Engine,
        tokenizer: Tokenizer,
        settings: SamplingSection,
        system_prompt: str | None = None,
        seed: int | None = None,
    ) -> None:
        self.engine, self.tokenizer, self.settings = engine, tokenizer, settings
        self.system_prompt, self.seed = system_prompt, seed
        self.reset()

    def reset(self) -> None:
        """Forget the whole conversation."""
        self.messages: list[Message] = [Message("system", self.system_prompt)] if self.system_prompt else []
        self.forgotten_turns = 0
        self.finish_reason: FinishReason | None = None
        self._turns = 0

    def reply(self, text: str) -> Generator[str, None, None]:
        """Answer a message; closing the iterator early keeps what was said until then.

        Raises: DataError when the message alone is too long; the conversation stays as it was.
        """
        said, forgotten, prompt_ids = self._fit(Message("user", text))
        seed = None if self.seed is None else self.seed + self._turns
        answer = start_answer(self.engine, self.tokenizer, prompt_ids, self.settings, seed=seed)
        self.messages, self.finish_reason = said, None
        self.forgotten_turns += forgotten
        self._turns += 1
        return self._stream(answer)

    def _stream(self, answer: TextGeneration) -> Generator[str, None, None]:
        pieces: list[str] = []
        try:
            for piece in answer:
                if piece:
                    pieces.append(piece)
                    yield piece
        finally:
            answer.close()
            self.finish_reason = answer.finish_reason
            self.messages.append(Message("assistant", "".join(pieces)))

    def _fit(self, message: Message) -> tuple[list[Message], int, list[int]]:
        """Find the most recent messages that fit; also count forgotten turns and give the prompt's ids."""
        system = [m for m in self.messages[:1] if m.role == "system"]
        turns = self.messages[len(system) :]
        context = self.engine.max_context
        room = context - min(self.settings.max_new_tokens, context // 2)
        forgotten = 0
        while True:
            kept = [*system, *turns, message]
            prompt_ids = render_prompt(kept, self.tokenizer)
            if len(prompt_ids) <= room or not turns:
                break
            next_user = next((i for i, m in enumerate(turns) if i and m.role == "user"), len(turns))
            turns, forgotten = turns[next_user:], forgotten + 1
        if len(prompt_ids) >= context:
            raise DataError(
                f"the message makes a prompt of {len(prompt_ids):,} tokens, the model's context holds {context:,} with the answer",
                fix="say it in fewer words",
            )
        return kept, forgotten, prompt_ids
