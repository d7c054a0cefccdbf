"""What a conversation is. In: roles and texts. Out: frozen values with an id of their content. Next: the tasks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Literal

Role = Literal["system", "user", "assistant"]


_FOLLOWS: Mapping[Role | None, tuple[Role, ...]] = {
    None: ("system", "user"),
    "system": ("user",),
    "user": ("assistant",),
    "assistant": ("user",),
}


@dataclass(frozen=True, slots=True)
class Message:
    """One turn."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class Conversation:
    """Turns that belong together; the last one is the assistant's. `id` hashes roles and contents."""

    messages: tuple[Message, ...]
    source: str
    id: str
    place: str = field(default="", compare=False)
    """File and line, or record, of what it was made of."""


class Unfit(Exception):
    """A record of which nothing can be made; its text is the reason to count."""


def conversation(turns: Iterable[tuple[Role, str]], source: str) -> Conversation:
    """Make a conversation and name it by its content."""
    messages = tuple(Message(role, content) for role, content in turns)
    return Conversation(messages, source, content_id(part for message in messages for part in (message.role, message.content)))


def content_id(parts: Iterable[str]) -> str:
    """Name something by its texts: a hash of them and of where one ends and the next begins; 32 hexadecimal digits."""
    digest = blake2b(digest_size=16)
    for part in parts:
        data = part.encode("utf-8", "replace")
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()


def dialogue(source: str, *turns: str) -> Conversation:
    """Make a conversation of turns that alternate, the user's first."""
    roles: tuple[Role, Role] = ("user", "assistant")
    return conversation(((roles[index % 2], turn) for index, turn in enumerate(turns)), source)


def about(source: str, passage: str, asked: Iterable[tuple[str, str]]) -> Conversation:
    """Make a conversation of all questions about a passage, which stands above the first, each with its answer."""
    (question, answer), *others = asked
    return dialogue(source, f"{passage}\n\n{question}", answer, *(text for turn in others for text in turn))


def in_turn(turns: Sequence[tuple[Role, str]], source: str) -> Conversation:
    """Make a conversation of perhaps a system message, then user and assistant in turn, cut behind the last answer.

    Raises: Unfit where a message is empty, their order is another, or nothing is answered
    """
    before: Role | None = None
    answered = 0
    for number, (role, content) in enumerate(turns, 1):
        if role not in _FOLLOWS[before]:
            raise Unfit("wrong_order")
        if not content:
            raise Unfit("empty_answer" if role == "assistant" else "empty_message")
        before = role
        answered = number if role == "assistant" else answered
    if not answered:
        raise Unfit("no_answer")
    return conversation(turns[:answered], source)


def draw(key: str, purpose: str) -> float:
    """A number in [0, 1) that depends on a key and on what it is for, and on nothing else."""
    digest = blake2b(key.encode("utf-8", "replace"), digest_size=8, person=purpose.encode()[:16]).digest()
    return int.from_bytes(digest, "little") / 2**64
