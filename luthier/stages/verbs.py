"""Verbs of groups that are large enough for a file of their own. In: a group of the command line. Out: its verbs. Called by cli."""

from __future__ import annotations

from typing import Annotated

import typer

from luthier.runs.collection import no_collection

Recipes = Annotated[
    list[str], typer.Argument(metavar="RECIPE... [KEY=VALUE...]", help="Recipes, later ones over earlier ones; then overrides.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object to stdout.")]
Root = Annotated[str | None, typer.Option("--root", help="Directory of all runs; default $LUTHIER_RUNS or runs.")]


def add_plan_verbs(app: typer.Typer) -> None:
    """Add what is said before anything runs."""

    @app.command()
    def plan(
        arguments: Annotated[
            list[str] | None,
            typer.Argument(metavar="[RECIPE... KEY=VALUE...]", help="Recipes, later ones over earlier ones; then overrides."),
        ] = None,
        budget: Annotated[
            str | None, typer.Option("--budget", metavar="TIME [on NAME]", help="Derive a recipe: 5m, '6h on rtx4090'.")
        ] = None,
        depth: Annotated[int | None, typer.Option("--depth", min=1, help="Derive a recipe of so many layers.")] = None,
        params: Annotated[int | None, typer.Option("--params", min=1, help="Derive a recipe of at most so many parameters.")] = None,
        ratio: Annotated[float, typer.Option("--tokens-per-param", min=0.01, help="How long a derived recipe trains.")] = 20.0,
        write: Annotated[str | None, typer.Option("--write", metavar="FILE", help="Write the derived recipe.")] = None,
        hardware: Annotated[str, typer.Option("--hardware", metavar="NAME", help="The machine: this, h100, 8xh100 ...")] = "this",
        calibrate: Annotated[bool, typer.Option("--calibrate", help="First measure this machine, about a minute, for all plans.")] = False,
        json: Json = False,
        root: Root = None,
    ) -> None:
        """Say what a recipe needs, before it runs; or derive one from a budget or a depth.

        Parameters, memory, time, disk and expected loss."""
        words, dialled = [*(arguments or []), *([f"runs.root={root}"] if root else [])], not budget is depth is params is None
        if calibrate:
            from luthier.stages.calibrate import calibrate_verb

            calibrate_verb(words, alone=not (arguments or dialled), as_json=json)
            if not (arguments or dialled):
                return
        with no_collection():  # it would look at every class again and again while they are loaded
            if not dialled:
                from luthier.stages.plan import plan_verb

                plan_verb(words, hardware, as_json=json)
            else:
                from luthier.stages.dial import dial_verb

                dial_verb(words, (budget, depth, params), hardware, ratio, write, as_json=json)

    @app.command()
    def scaling(
        arguments: Recipes,
        sizes: Annotated[int, typer.Option("--sizes", min=2, help="So many sizes below the recipe's own.")] = 4,
        ratio: Annotated[
            float | None, typer.Option("--tokens-per-param", min=0.01, help="How long each size trains; default: as the recipe.")
        ] = None,
        verify: Annotated[bool, typer.Option("--verify", help="Then train the recipe's own size, and show the error.")] = False,
        json: Json = False,
    ) -> None:
        """Train a ladder of smaller models; predict the loss of a recipe's.

        Each of them is a run, so what was finished is not done again."""
        from luthier.stages.scaling import scaling_verb

        scaling_verb(arguments, sizes, ratio, verify, as_json=json)


def add_sft_verbs(group: typer.Typer) -> None:
    """Add what `luthier sft` can do besides training."""

    @group.command("show")
    def sft_show(
        arguments: Recipes,
        count: Annotated[int, typer.Option("-n", "--count", min=1, help="So many conversations.")] = 3,
        stage: Annotated[str | None, typer.Option("--stage", metavar="NAME", help="A stage of [[post]]; default: sft.")] = None,
        json: Json = False,
    ) -> None:
        """Show some conversations, the tokens that are learned in colour.

        Without a terminal they stand between brackets."""
        from luthier.stages.shown import show_verb

        show_verb(arguments, count, stage, as_json=json)

    @group.command("answer")
    def sft_answer(
        run: Annotated[str, typer.Argument(metavar="RUN", help="The run whose model answers.")],
        prompts: Annotated[str, typer.Argument(metavar="FILE", help="Records with `prompt`, `question` or `instruction`.")],
        to: Annotated[str, typer.Option("--to", metavar="FILE", help="Write the conversations into this file.")],
        temperature: Annotated[float | None, typer.Option("--temperature", help="Default: the recipe's.")] = None,
        longest: Annotated[int | None, typer.Option("--max-new-tokens", help="Default: the recipe's.")] = None,
        seed: Annotated[int, typer.Option("--seed", min=0, help="Of what is drawn.")] = 1,
        json: Json = False,
        root: Root = None,
    ) -> None:
        """Let a model answer prompts, for another one to learn from.

        Answers that did not end by themselves are left out. Stopped, the same command goes on."""
        from luthier.stages.answers import answer_verb

        answer_verb(run, prompts, to, {"temperature": temperature, "max_new_tokens": longest}, seed, as_json=json, root=root)


def add_dpo_verbs(group: typer.Typer) -> None:
    """Add what `luthier dpo` can do besides training."""

    @group.command("show")
    def dpo_show(
        arguments: Recipes,
        count: Annotated[int, typer.Option("-n", "--count", min=1, help="So many pairs.")] = 3,
        stage: Annotated[str | None, typer.Option("--stage", metavar="NAME", help="A stage of [[post]]; default: the last dpo.")] = None,
        json: Json = False,
    ) -> None:
        """Show some pairs of answers, the tokens that are compared in colour.

        Without a terminal they stand between brackets."""
        from luthier.stages.shown import show_pairs_verb

        show_pairs_verb(arguments, count, stage, as_json=json)


def add_tokenizer_verbs(group: typer.Typer) -> None:
    """Add what `luthier tokenizer` can do besides training."""

    @group.command("import")
    def tokenizer_import(
        file: Annotated[
            str,
            typer.Argument(metavar="FILE", help="tokenizer.json, tiktoken's ranks, encoder.json or vocab.bpe; or their folder."),
        ],
        to: Annotated[str, typer.Option("--to", metavar="DIR", help="Write tokenizer.json into this directory.")],
        pattern: Annotated[
            str | None, typer.Option("--pattern", help="How text is split, where the file does not say: gpt2, gpt4, digits.")
        ] = None,
        json: Json = False,
    ) -> None:
        """Take a byte-level BPE tokenizer made elsewhere, such as GPT-2's.

        It encodes exactly as there, or is refused. A recipe names it with tokenizer.path."""
        from luthier.stages.tokenizers import import_verb

        import_verb(file, to, pattern, as_json=json)

    @group.command("show")
    def tokenizer_show(
        text: Annotated[str, typer.Argument(metavar="TEXT", help="The text to cut into tokens.")],
        tokenizer: Annotated[
            str | None, typer.Option("--tokenizer", metavar="RUN|FILE", help="A run, a file or a folder; default: the only run there is.")
        ] = None,
        json: Json = False,
        root: Root = None,
    ) -> None:
        """Show a text as its tokens, in colour on a terminal."""
        from luthier.stages.tokenizers import show_verb

        show_verb(text, tokenizer, as_json=json, root=root)

    @group.command("compare")
    def tokenizer_compare(
        one: Annotated[str, typer.Argument(metavar="A", help="A run, or a tokenizer's file or folder.")],
        other: Annotated[str, typer.Argument(metavar="B", help="Another one.")],
        text: Annotated[
            str | None, typer.Option("--text", metavar="FILE", help="Compare on this text; default: a run's validation text.")
        ] = None,
        json: Json = False,
        root: Root = None,
    ) -> None:
        """Set two tokenizers side by side on the same text."""
        from luthier.stages.tokenizers import compare_verb

        compare_verb(one, other, text, as_json=json, root=root)
