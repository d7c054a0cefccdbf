"""What to do when a step goes wrong. In: an incident of the loop. Out: its documents on disk, and a decision. Next: training."""

from __future__ import annotations

import json
from typing import Any

from luthier.errors import NumericsError
from luthier.pack.loader import Loader
from luthier.runs.files import make_directory, write_json, write_text
from luthier.stages.recorder import Recorder, Training
from luthier.train.checkpoint import Identity, checkpoints, load_newest, remove, spread, step_of
from luthier.train.loop import Incident, Trainee
from luthier.train.parallel import World


class Incidents:
    """Carries out a recipe's policy for losses and gradients that are not finite, and for spikes."""

    def __init__(
        self, training: Training, trainee: Trainee, loader: Loader, recorder: Recorder | None, identity: Identity, world: World
    ) -> None:
        self._training, self._trainee, self._loader, self._recorder = training, trainee, loader, recorder
        self._identity, self._world = identity, world

    def __call__(self, incident: Incident) -> bool:
        """Say whether to make the update all the same; otherwise put the trainee to where it goes on.

        Raises: NumericsError where the policy is to stop, or after too many bad steps in a row
        """
        settings, health = self._training.settings, self._trainee.health
        policy = settings.on_nonfinite if incident.kind == "nonfinite" else settings.on_spike
        health.spikes += incident.kind == "spike"
        where = incident.where() if incident.kind == "nonfinite" else "the loss, far above the last ones"
        figures = f"loss {incident.loss:.4g}, gradient norm {incident.grad_norm:.4g}"
        said = f"{self._training.name}: step {incident.step + 1}: {figures}; first seen in {where}"
        if policy != "log":
            health.note_bad(incident.step)
        self._write(incident, where, policy)
        if policy == "log":
            self._say(incident, policy, f"{said}; logged, training goes on")
            return True
        if policy == "stop" or health.bad_in_a_row >= settings.max_bad_steps:
            many = f"; {health.bad_in_a_row} bad steps in a row" if health.bad_in_a_row > 1 else ""
            raise NumericsError(
                f"{said}{many}; the update was not made; its documents are in {self._training.job.directory / 'incidents'}",
                fix="lower optim.lr or lengthen optim.warmup_steps; the last checkpoint is intact",
            )
        if policy == "rollback" and self._roll_back(incident):
            self._say(incident, policy, f"{said}; back to step {self._trainee.step}, the batches since are left out")
        else:
            health.skipped += 1
            self._trainee.cursor = incident.cursor + 1
            self._say(incident, policy, f"{said}; its batch is left out")
        return False

    def _roll_back(self, incident: Incident) -> bool:
        """Take the last checkpoint of every `checkpoint_every` steps, and the batch after the bad one; `False` when there is none."""
        every, health = self._training.settings.checkpoint_every, self._trainee.health
        state: dict[str, Any] | None = None
        if self._recorder is not None and every is not None:
            self._recorder.saver.finish()
            root = self._training.job.directory / "checkpoints"
            state, _ = load_newest(root, self._trainee, self._identity, every)
            for directory in checkpoints(root) if state else []:
                if step_of(directory) > self._trainee.step:
                    remove(directory)  # of a course that is abandoned
            if state:
                self._recorder.rewind(state)
        state = spread(self._trainee, state, self._world)
        if state is None:
            return False
        health.rollbacks += 1
        health.window = state["health"]["window"]
        self._trainee.health, self._trainee.cursor = health, incident.cursor + 1
        return True

    def _write(self, incident: Incident, where: str, policy: str) -> None:
        """Save the incident and the documents of its batch, readable."""
        if self._recorder is None:
            return
        directory = make_directory(self._training.job.directory / "incidents")
        name = f"step_{incident.step + 1:06d}_batch_{incident.cursor:06d}"
        figures = {"loss": str(incident.loss), "grad_norm": str(incident.grad_norm), "where": where, "policy": policy}
        write_json(directory / f"{name}.json", {"kind": incident.kind, "step": incident.step + 1, "batch": incident.cursor, **figures})
        lines: list[str] = []
        source = self._loader.source(incident.cursor)
        for number in self._loader.rows(incident.cursor):
            tokens, _, _ = source.row(int(number))
            row = {"row": int(number), "documents": source.describe(int(number))}
            lines.append(json.dumps({**row, "text": self._training.tokenizer.decode(tokens.tolist())}, ensure_ascii=False))
        write_text(directory / f"{name}.jsonl", "".join(f"{line}\n" for line in lines))

    def _say(self, incident: Incident, policy: str, text: str) -> None:
        """Note in the metrics, and for the user, what was done."""
        if self._recorder is not None:
            self._recorder.event(step=incident.step + 1, event=incident.kind, policy=policy, batch=incident.cursor)
            self._training.job.progress.warn(text)
