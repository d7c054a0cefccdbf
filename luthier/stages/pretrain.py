"""Stage pretrain: rows of tokens -> a base model. In: token shards, tokenizer. Out: checkpoints, metrics, samples. Next: sft."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from luthier.config.load import resolve_model
from luthier.config.model import ModelConfig
from luthier.config.schema import Recipe
from luthier.config.training import TrainingSection
from luthier.errors import ConfigError
from luthier.stages.stage import Job, Outcome, Stage

if TYPE_CHECKING:
    from luthier.model.decoder import Decoder
    from luthier.train.device import Compute

DOES_NOT_CHANGE_THE_MODEL = {"checkpoint_every", "checkpoint_minutes", "keep_checkpoints", "keep_best", "replay_every"}
SAMPLE_TOKENS = 40


def training_settings(section: TrainingSection) -> dict[str, Any]:
    """What of a training section decides the model; where a rollback goes back to does."""
    rollback = "rollback" in (section.on_nonfinite, section.on_spike)
    unused = set[str]() if getattr(section, "lora_rank", 0) else {"lora_rank", "lora_alpha", "lora_targets"}
    return section.model_dump(mode="json", exclude=unused | DOES_NOT_CHANGE_THE_MODEL - ({"checkpoint_every"} if rollback else set()))


def _settings(recipe: Recipe) -> dict[str, Any]:
    continues = {"continues": recipe.run.continues} if recipe.run.continues else {}
    return {
        **continues,
        "model": recipe.model.model_dump(mode="json"),
        "optim": recipe.optim.model_dump(mode="json"),
        "pretrain": training_settings(recipe.pretrain),
        "seq_len": recipe.pack.seq_len,
        "rows": recipe.pack.rows,
        "seed": recipe.run.seed,
    }


def start(job: Job, config: ModelConfig, steps: int) -> tuple[Decoder, Compute, Callable[[int], float]]:
    """A new model on its device, how it computes, and the learning rate's course."""
    from luthier.model.decoder import Decoder, initialise
    from luthier.optim.schedule import course
    from luthier.plan.horizon import step_rows
    from luthier.stages.attention import choose_attention
    from luthier.stages.training import settle_compute

    settings, seq_len = job.recipe.pretrain, job.recipe.pack.seq_len
    attention = partial(choose_attention, job=job, settings=settings, config=config, documents=settings.document_mask)
    compute = settle_compute(job, settings, step_rows(settings, seq_len).before(steps) * seq_len, config.n_layers, attention)
    model = Decoder(config, compute.dtype, compute.attention)
    initialise(model, job.recipe.run.seed)
    model.to(compute.device)
    return model, compute, course(job.recipe.optim, steps)


def _run(job: Job) -> Outcome:
    from luthier.evals.bits_per_byte import evaluate
    from luthier.generate.engine import Engine
    from luthier.pack.rows import report, training_rows
    from luthier.pack.shards import TokenShards
    from luthier.pack.superposition import Superposition
    from luthier.plan.horizon import steps_for, superposed_steps
    from luthier.plan.parameters import count
    from luthier.stages.lineage import seed_from_parent
    from luthier.stages.predicted import note_run, remember_plan
    from luthier.stages.recorder import Training
    from luthier.stages.training import run_training
    from luthier.tokenizer.tokenizer import Tokenizer

    recipe, settings = job.recipe, job.recipe.pretrain
    predicted = remember_plan(job)
    tokenizer = Tokenizer.load(job.inputs["tokenizer"] / "tokenizer.json")
    train = TokenShards.open(job.inputs["pack"], "train")
    validation = TokenShards.open(job.inputs["pack"], "validation")

    config = resolve_model(recipe, tokenizer.vocab_size)
    parameters = count(config)["total"]
    if recipe.expected_params not in (None, parameters):
        raise ConfigError(
            f"expected_params: the recipe says {recipe.expected_params:,}, with {tokenizer.vocab_size:,} tokens it is {parameters:,}",
            fix="add text, so that the tokenizer gets all of its entries, or correct expected_params",
        )
    how, seq_len, masked = recipe.pack.rows, recipe.pack.seq_len, settings.document_mask
    rows = training_rows(train, how, seq_len, masked)
    made = report(train, rows)
    job.progress.say(f"pretrain: {how} rows, {made['padding_share']:.1%} padding, {made['whole_documents_share']:.0%} of documents whole")
    positions = train.n_tokens if how == "stream" else rows.n_rows * seq_len
    steps = steps_for(settings, parameters, seq_len, positions)
    assert steps is not None, "the number of training tokens is known here"
    model, compute, course = start(job, config, steps)
    engine = Engine(model, compute.device, None, config.max_seq_len)

    def validate() -> dict[str, float]:
        lengths = tokenizer.byte_lengths
        result = evaluate(model, validation, lengths, compute.device, settings.eval_tokens, document_mask=masked)
        return {"val/loss": result["val_loss"], "val/bpb": result["val_bpb"]}

    def sample() -> list[tuple[str, str]]:
        sampling = recipe.sampling.model_copy(update={"max_new_tokens": SAMPLE_TOKENS})
        stop = frozenset({tokenizer.special.end_of_text})
        drawn: list[tuple[str, str]] = []
        for prompt in settings.sample_prompts:
            ids = [tokenizer.special.end_of_text, *tokenizer.encode(prompt)]
            completion = engine.generate(ids, sampling, stop_ids=stop, seed=recipe.run.seed)
            drawn.append((prompt, tokenizer.decode(completion.ids)))
        return drawn

    optim, parent_key = recipe.optim, seed_from_parent(job)
    bag, n_first = settings.superposition, superposed_steps(settings, steps)
    first = Superposition(training_rows(train, how, seq_len * bag, masked), bag, n_first) if n_first else None
    outcome = run_training(
        Training(job, "pretrain", settings, optim, model, tokenizer, rows, steps, compute, course, validate, sample, parent_key, first)
    )
    found = {"params": parameters, "tokens_per_byte": train.n_tokens / max(1, train.n_bytes), "rows": made, **outcome.summary}
    if "compute" in found:
        note_run(job, config, found)
    return Outcome(outcome.fingerprint, {**found, "predicted": predicted})


STAGE = Stage("pretrain", ("tokenizer", "pack"), _run, _settings, trains=True)
