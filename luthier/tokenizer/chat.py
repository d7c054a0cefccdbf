"""Conversations as tokens. In: messages. Out: ids and the loss mask, made together; and back. Next: room 6.

A message is `<|role|>`, a space, its content, `<|end_of_turn|>`; between messages stands nothing. The space makes a content's first
word the token that it is inside a sentence, so that a small model can copy a name from a question to the head of its answer. Content
is encoded by itself, so a literal `<|user|>` in it stays text, and the mask is known from who speaks, never from searching. A layout
may call the tokens otherwise and put other text around content: see `special.ChatFormat`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from luthier.errors import DataError
from luthier.tasks.conversation import Message
from luthier.tokenizer.jinja import jinja_template
from luthier.tokenizer.special import ChatFormat, Role, SpecialTokens
from luthier.tokenizer.tokenizer import Tokenizer

CHAT_TEMPLATE = jinja_template(SpecialTokens.starting_at(0), ChatFormat())
"""The template of tokenizers with the default layout."""
CONTENT_PREFIX = ChatFormat().prefix
"""Stands before every content in the default layout, and is taken away from what a model says."""


def chat_template(tokenizer: Tokenizer) -> str:
    """What `render` does, as Jinja, for programs that render by it."""
    return jinja_template(tokenizer.special, tokenizer.chat)


def render(messages: Sequence[Message], tokenizer: Tokenizer) -> tuple[list[int], list[bool]]:
    """Return ids and the loss mask: true on each token that the assistant has to produce, what ends its turn included.

    Raises: DataError for a role that is none.
    """
    ids, mask = _turns(messages, tokenizer)
    if tokenizer.chat.ends:
        ids.append(tokenizer.special.end_of_text)
        mask.append(bool(messages) and messages[-1].role == "assistant")
    return ids, mask


def render_answered(messages: Sequence[Message], tokenizer: Tokenizer) -> list[int]:
    """Return the ids of a conversation up to the last token that the assistant has to produce: a layout may put text behind it."""
    ids, mask = render(messages, tokenizer)
    return ids[: len(mask) - mask[::-1].index(True)] if any(mask) else ids


def render_prompt(messages: Sequence[Message], tokenizer: Tokenizer) -> list[int]:
    """Return the ids of a conversation that the assistant has to continue: they end with `<|assistant|>`."""
    return [*_turns(messages, tokenizer)[0], tokenizer.special.assistant]


def render_message(message: Message, tokenizer: Tokenizer) -> tuple[list[int], list[bool]]:
    """Return one message's ids and loss mask, without what opens and ends a conversation.

    Raises: DataError for a role that is none.
    """
    special, chat = tokenizer.special, tokenizer.chat
    opening = special.roles.get(message.role)
    if opening is None:
        raise DataError(f"a message's role must be system, user or assistant, got {message.role!r}")
    closed = message.role in chat.closed
    spoken = tokenizer.encode(chat.prefix + message.content)
    if closed:
        spoken.append(special.end_of_turn)
    suffix = tokenizer.encode_normalised(tokenizer.normalise(chat.suffix)) if closed and chat.suffix else []
    return [opening, *spoken, *suffix], [False, *[message.role == "assistant"] * len(spoken), *[False] * len(suffix)]


def _turns(messages: Sequence[Message], tokenizer: Tokenizer) -> tuple[list[int], list[bool]]:
    ids: list[int] = [tokenizer.special.begin_of_text] if tokenizer.chat.begins else []
    mask: list[bool] = [False] * len(ids)
    for message in messages:
        more_ids, more_mask = render_message(message, tokenizer)
        ids += more_ids
        mask += more_mask
    return ids, mask


def parse(ids: Iterable[int], tokenizer: Tokenizer) -> list[Message]:
    """Return the messages that render to these ids, content normalised; where two roles are one token, the later one is meant.

    Raises: DataError when the ids are not whole messages.
    """
    special, chat = tokenizer.special, tokenizer.chat
    roles: dict[int, Role] = {token: role for role, token in special.roles.items()}
    specials = set(special.by_string.values()) - {special.unknown}
    listed = list(map(int, ids))
    if chat.begins and listed[:1] == [special.begin_of_text]:
        del listed[0]
    if chat.ends and listed[-1:] == [special.end_of_text]:
        listed.pop()
    suffix = tokenizer.encode_normalised(tokenizer.normalise(chat.suffix))
    messages: list[Message] = []
    position = 0
    while position < len(listed):
        role = roles.get(listed[position])
        if role is None:
            raise DataError(f"token {position} of a conversation must open a message with a role, got id {listed[position]}")
        end = next((i for i in range(position + 1, len(listed)) if listed[i] in specials), len(listed))
        content = tokenizer.decode(listed[position + 1 : end]).removeprefix(chat.prefix)
        messages.append(Message(role, content))
        if role not in chat.closed:
            position = end
            continue
        if end == len(listed):
            raise DataError(f"the last message of a conversation must end with <|end_of_turn|>, this one of {role!r} does not")
        if listed[end] != special.end_of_turn:
            raise DataError(f"token {end} of a conversation must be content or the end of a turn, got the special id {listed[end]}")
        position = end + 1
        if suffix and listed[position : position + len(suffix)] == suffix:
            position += len(suffix)
    return messages
