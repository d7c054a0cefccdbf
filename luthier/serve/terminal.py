"""Chat in a terminal. In: a `ChatSession` and two text streams. Out: a conversation. Next room: stages."""

from __future__ import annotations

import contextlib
import importlib
import io
import sys
from typing import TextIO

from rich.console import Console

from luthier.errors import LuthierError
from luthier.generate.chat import ChatSession

HELP = """/reset   start a new conversation
/quit    leave (so does Ctrl-D)
/help    this list
Ctrl-C   stop the current answer"""


def chat(session: ChatSession, model_name: str, stdin: TextIO | None = None, stdout: TextIO | None = None) -> None:
    """Talk until `/quit`, the end of input, or Ctrl-C twice at the prompt. Ctrl-C during an answer stops the answer."""
    source, sink = stdin or sys.stdin, stdout or sys.stdout
    if isinstance(sink, io.TextIOWrapper):
        sink.reconfigure(errors="replace")  # a terminal that lacks a character shows a question mark instead
    console = Console(file=sink, highlight=False, markup=False, emoji=False, soft_wrap=True)
    _header(console, session, model_name)
    interrupted = False
    while True:
        try:
            line = _read(console, source)
        except KeyboardInterrupt:
            console.print()
            if interrupted:
                return
            interrupted = True
            console.print("Ctrl-C again or /quit leaves.", style="dim")
            continue
        interrupted = False
        if line is None:
            console.print()
            return
        text = line.strip()
        if text == "/quit":
            return
        if text == "/reset":
            session.reset()
            console.print("A new conversation.", style="dim")
        elif text == "/help":
            console.print(HELP, style="dim")
        elif text.startswith("/") and " " not in text:
            console.print(f"There is no command {printable(text)}; /help lists them.", style="dim")
        elif text:
            _answer(console, session, text)


def printable(text: str) -> str:
    """Drop control characters, so that no answer can move the cursor or change the terminal; newlines and tabs stay."""
    return "".join(c for c in text if c in "\n\t" or not (ord(c) < 32 or 127 <= ord(c) < 160))


def size(parameters: int) -> str:
    """Write a number of parameters for people, like `3.2M`."""
    for limit, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if parameters >= limit:
            return f"{parameters / limit:.3g}{unit}"
    return str(parameters)


def _header(console: Console, session: ChatSession, model_name: str) -> None:
    engine = session.engine
    console.print(f"{model_name}", style="bold", end="")
    console.print(f"  {size(engine.parameters)} parameters, context of {engine.max_context} tokens", style="dim")
    console.print("A model this small writes English, but gets facts wrong.", style="dim")
    console.print("/reset starts anew, /quit leaves, /help tells more.\n", style="dim")


def _read(console: Console, source: TextIO) -> str | None:
    """Read a line; `None` at the end of input. Line editing where both ends are the terminal itself."""
    if source is sys.stdin and source.isatty() and console.is_terminal:
        with contextlib.suppress(ImportError):
            importlib.import_module("readline")  # gives input() history and editing
        try:
            return input("> ")
        except EOFError:
            return None
    console.print("> ", end="", style="bold")
    line = source.readline()
    return line if line else None


def _answer(console: Console, session: ChatSession, text: str) -> None:
    forgotten = session.forgotten_turns
    try:
        pieces = session.reply(text)
    except LuthierError as error:
        console.print(str(error), style="yellow")
        return
    try:
        for piece in pieces:
            console.print(printable(piece), end="")
            console.file.flush()
    except KeyboardInterrupt:
        console.print(" [stopped]", style="dim", end="")
    finally:
        pieces.close()
    if session.finish_reason == "length":
        console.print(" [cut: the answer reached its longest length]", style="dim", end="")
    console.print("\n")
    if session.forgotten_turns > forgotten:
        console.print("The context is full: the oldest messages are forgotten.", style="dim")
