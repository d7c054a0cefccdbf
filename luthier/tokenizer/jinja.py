"""The chat template for programs that render by Jinja (transformers, llama.cpp). In: special tokens, format. Out: a template. Next: files.

It gives what `chat.render` gives. Those programs parse special tokens in the rendered text, so there, other than here, a literal one in
a message's content becomes special.
"""

from __future__ import annotations

from luthier.tokenizer.special import ROLES, ChatFormat, SpecialTokens


def jinja_template(special: SpecialTokens, chat: ChatFormat) -> str:
    """Return the template, on one line, which knows `messages` and `add_generation_prompt`."""
    names = special.names
    openings = ", ".join(f"{_literal(role)}: {_literal(names[role])}" for role in ROLES)
    closed = ", ".join(_literal(role) for role in chat.closed)
    end = _literal(names["end_of_turn"] + chat.suffix)
    closing = (
        f"{{{{ {end} }}}}" if set(chat.closed) == set(ROLES) else f"{{% if message['role'] in [{closed}] %}}{{{{ {end} }}}}{{% endif %}}"
    )
    parts = [
        f"{{% set openings = {{{openings}}} %}}",
        f"{{{{ {_literal(names['begin_of_text'])} }}}}" if chat.begins else "",
        "{% for message in messages %}",
        "{% if message['role'] not in ['system', 'user', 'assistant'] %}",
        "{{ raise_exception('a role must be system, user or assistant, got ' + message['role']) }}",
        "{% endif %}",
        f"{{{{ openings[message['role']] + {_literal(chat.prefix)} + message['content'] }}}}{closing}",
        "{% endfor %}",
        f"{{% if add_generation_prompt %}}{{{{ {_literal(names['assistant'])} }}}}",
        f"{{% else %}}{{{{ {_literal(names['end_of_text'])} }}}}" if chat.ends else "",
        "{% endif %}",
    ]
    return "".join(parts)


def _literal(text: str) -> str:
    """Write a string as Jinja reads it."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n").replace("\r", "\\r").replace("\t", "\\t")
    return f"'{escaped}'"
