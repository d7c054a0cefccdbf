"""Conversations as tokens. In: messages. Out: ids and the loss mask, made together; and back. Next: room 6.

A message is `<|role|>`, a space, its content, `<|end_of_turn|>`; between messages stands nothing. The space makes a content's first
word the token that it is inside a sentence, so that a small model can copy a name from a question to the head of its answer. Content
is encoded by itself, so a literal `<|user|>` in it stays text, and the mask is known from who speaks, never from searching.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from luthier.errors import DataError
from luthier.tasks.conversation import Message
from luthier.tokenizer.special import Role
from luthier.tokenizer.tokenizer import Tokenizer

# What `render` does, for programs that render by Jinja (transformers, llama.cpp). Those parse special tokens in the rendered text,
# so there, other than here, a literal one in a message's content becomes special.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] not in ['system', 'user', 'assistant'] %}"
    "{{ raise_exception('a role must be system, user or assistant, got ' + message['role']) }}"
    "{% endif %}"
    "{{ '<|' + message['role'] + '|> ' + message['content'] + '<|end_of_turn|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


CONTENT_PREFIX = " "
"""Stands before every content, and is taken away from what a model says."""


def render(messages: Sequence[Message], tokenizer: Tokenizer) -> tuple[list[int], list[bool]]:
    """Return ids and the loss mask: true on each token that the assistant has to produce, its end of turn included.

    Raises: DataError for a role that is none.
    """
    ids: list[int] = []
    mask: list[bool] = []
    for message in messages:
        opening = tokenizer.special.roles.get(message.role)
        if opening is None:
            raise DataError(f"a message's role must be system, user or assistant, got {message.role!r}")
        content = tokenizer.encode(CONTENT_PREFIX + message.content)
        ids += [opening, *content, tokenizer.special.end_of_turn]
        mask += [False, *[message.role == "assistant"] * (len(content) + 1)]
    return ids, mask


def render_prompt(messages: Sequence[Message], tokenizer: Tokenizer) -> list[int]:
    """Return the ids of a conversation that the assistant has to continue: they end with `<|assistant|>`."""
    return [*render(messages, tokenizer)[0], tokenizer.special.assistant]


def parse(ids: Iterable[int], tokenizer: Tokenizer) -> list[Message]:
    """Return the messages that render to these ids.

    Raises: DataError when the ids are not whole messages.
    """
    roles: dict[int, Role] = {token: role for role, token in tokenizer.special.roles.items()}
    special = tokenizer.special
    messages: list[Message] = []
    role: Role | None = None
    content: list[int] = []
    for position, token in enumerate(map(int, ids)):
        if role is None:
            role = roles.get(token)
            if role is None:
                raise DataError(f"token {position} of a conversation must open a message with a role, got id {token}")
        elif token == special.end_of_turn:
            messages.append(Message(role, tokenizer.decode(content).removeprefix(CONTENT_PREFIX)))
            role, content = None, []
        elif token >= special.end_of_text:
            raise DataError(f"token {position} of a conversation must be content or the end of a turn, got the special id {token}")
        else:
            content.append(token)
    if role is not None:
        raise DataError(f"the last message of a conversation must end with <|end_of_turn|>, this one of {role!r} does not")
    return messages
