"""Stage report: everything a run made, on one page. In: all stages. Out: `report.html`, also beside `run.json`."""

from __future__ import annotations

from typing import Any

from luthier.config.schema import Recipe
from luthier.stages.order import stage_names, training_stages
from luthier.stages.stage import Job, Outcome, Stage


def _settings(recipe: Recipe) -> dict[str, Any]:
    return {"name": recipe.run.name, "description": recipe.description, "sampling": recipe.sampling.model_dump(mode="json")}


def _run(job: Job) -> Outcome:
    from luthier.config.load import resolve_model
    from luthier.evals.report import ReportData, write_report
    from luthier.plan.hardware import this_machine
    from luthier.plan.parameters import count
    from luthier.runs.directory import environment
    from luthier.runs.files import fingerprint, read_json, sha256_file
    from luthier.runs.metrics import read_metrics
    from luthier.runs.store import RECORD
    from luthier.stages.predicted import correction_note

    recipe, said = job.recipe, job.summaries
    pretrain, tokenizer = said["pretrain"], said["tokenizer"]
    here = this_machine(job.cache.parent.parent, recipe.pretrain.device)
    records = {name: read_json(directory / RECORD) for name, directory in job.inputs.items()}
    machine = environment()
    data = ReportData(
        title=recipe.run.name,
        description=recipe.description,
        facts=[
            ("machine", here.name),
            ("computed", ", ".join(f"{key} {value}" for key, value in pretrain["compute"].items())),
            ("luthier", f"{machine['luthier']} {(machine['commit'] or '')[:12]}".strip()),
            ("packages", ", ".join(f"{name} {version}" for name, version in machine["packages"].items())),
            *((f"{name}: {label}", value) for name in training_stages(recipe) for label, value in _health(said[name])),
            *([("plan", note)] if (note := correction_note(pretrain)) else []),
        ],
        summary=_summary(said),
        stages=[{"name": name, "seconds": records[name]["seconds"], "cached": False} for name in stage_names(recipe) if name in records],
        sources=[dict(source) for source in said["data"]["sources"]],
        tokenizer=dict(tokenizer),
        plan=_plan_rows(pretrain, job),
        parameters={k: v for k, v in count(resolve_model(recipe, tokenizer["vocab_size"])).items() if k != "total"},
        pretrain=read_metrics(job.inputs["pretrain"] / "metrics.jsonl"),
        sft=read_metrics(job.inputs["sft"] / "metrics.jsonl"),
        samples=read_metrics(job.inputs["pretrain"] / "samples.jsonl"),
        sft_samples=[*_before(said["sft"]), *read_metrics(job.inputs["sft"] / "samples.jsonl")],
        answers=[dict(answer) for answer in said["eval"]["answers"]],
        tokens_per_byte=pretrain["tokens_per_byte"],
        sft_sources=[
            _row(source) for name in training_stages(recipe) for key in ("sources", "problems") for source in said[name].get(key, [])
        ],
        post=[_post(section.kind, section.name, job) for section in recipe.post],
    )
    path = job.directory / "report.html"
    write_report(path, data)
    return Outcome(fingerprint(sha256_file(path)), {})


def _row(source: Any) -> dict[str, Any]:
    """A source's counts; of problems those that are trained on and the others together."""
    return {**source, "problems": source["problems"] + source["unseen"]} if "unseen" in source else dict(source)


def _before(sft: Any) -> list[dict[str, Any]]:
    """What the base said to the sample prompts, as samples of step 0."""
    return [{"step": 0, "prompt": prompt, "text": text} for prompt, when, text in sft.get("found", []) if when == "before"]


def _post(kind: str, name: str, job: Job) -> dict[str, Any]:
    """What a stage of `[[post]]` has to show."""
    from luthier.runs.metrics import read_metrics

    metrics, samples = (read_metrics(job.inputs[name] / f"{log}.jsonl") for log in ("metrics", "samples"))
    return {"kind": kind, "name": name, "metrics": metrics, "samples": samples, "found": job.summaries[name].get("found", [])}


def _health(stage: Any) -> list[tuple[str, str]]:
    """What went wrong while training, and what saving, evaluating and compiling cost."""
    if "health" not in stage:
        return []
    faults = ", ".join(f"{count:,} {kind}" for kind, count in stage.get("faults", {}).items())
    health, saving = stage["health"], stage["checkpoints"]
    share = saving["stopped_seconds"] / max(saving["attempt_seconds"], 1e-9)
    return [
        ("steps", f"{health['skipped']} left out, {health['spikes']} loss spikes, {health['rollbacks']} rollbacks"),
        ("checkpoints", f"{saving['saved']} saved, {saving['failed']} failed; training stood still for {share:.2%} of the last attempt"),
        ("evaluation", f"{stage['evaluation']['seconds']:.1f} s, {stage['evaluation']['share']:.2%} of the last attempt"),
        ("samples", f"{stage['samples']['seconds']:.1f} s, {stage['samples']['share']:.2%} of the last attempt"),
        *([("faults of graders in the last attempt", faults)] if faults else []),
        ("compiling", f"{stage['compile_seconds']:.1f} s of the last attempt's first step"),
    ]


def _summary(said: Any) -> list[tuple[str, str]]:
    pretrain, evaluated, sft = said["pretrain"], said["eval"]["bits_per_byte"], said["sft"]
    rows = [
        ("parameters", f"{pretrain['params']:,}"),
        *((f"parameters, {name}", f"{stage['params']:,}") for name, stage in said.items() if name != "pretrain" and "params" in stage),
        ("training tokens", f"{pretrain['tokens']:,}"),
        ("validation loss", f"{evaluated['base']['val_loss']:.4f} nats per token"),
        ("bits per byte", f"{evaluated['base']['val_bpb']:.4f}"),
    ]
    for name in list(evaluated)[1:]:
        rows.append((f"bits per byte, {name}", f"{evaluated[name]['val_bpb']:.4f}"))
    for name, given in said["eval"].get("endings", {}).items():
        median = f", the median at token {given['median']}" if given["ended"] else ""
        rows.append((f"answers that end by themselves, {name}", f"{given['ended']} of {given['asked']}{median}"))
    if "conversations" in sft:
        rows.append(("tokens of conversations that are learned", f"{sft['conversations']['train']['supervised_fraction']:.1%}"))
    if "validation" in sft:
        rows.append(("loss on held-out answers", f"{sft['validation']['loss']:.4f} nats per token"))
    return rows


def _plan_rows(pretrain: Any, job: Job) -> list[dict[str, Any]]:
    """What the plan said beside what was measured."""
    from luthier.stages.predicted import compared

    return [{**row, "ratio": "" if row["ratio"] is None else f"{row['ratio']:.2f}"} for row in compared(pretrain, job.inputs)]


STAGE = Stage("report", ("data", "tokenizer", "pack", "pretrain", "sft", "eval", "export"), _run, _settings, version=2)
