import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from luthier.cli import call
from tests.stages.conftest import write_corpus


def run_json(arguments: list[str], capsys: pytest.CaptureFixture[str], expect: int = 0) -> dict:
    capsys.readouterr()
    assert call(["run", "--json", *arguments]) == expect
    return json.loads(capsys.readouterr().out)


def test_whole_life_cached_and_partly_redone(tiny: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    first = run_json(tiny, capsys)
    names = [stage["name"] for stage in first["stages"]]
    assert names == ["data", "tokenizer", "pack", "pretrain", "sft", "eval", "export", "report"]
    assert not any(stage["cached"] for stage in first["stages"])
    for key in ("run", "params", "val_loss", "val_bpb", "sft_val_loss", "weights_sha256"):
        assert first[key], key
    run = Path(first["run"])
    for name in ("run.json", "config.toml", "overrides.txt", "env.json", "report.html"):
        assert (run / name).stat().st_size > 0 or name == "overrides.txt"
    metrics = [json.loads(line) for line in (run / "pretrain" / "metrics.jsonl").read_text().splitlines()]
    losses = [row["train/loss"] for row in metrics if "train/loss" in row]
    assert len(losses) == 24 and losses[-1] < losses[0] - 0.5
    assert {row["step"] for row in metrics if "val/bpb" in row} == {8, 16, 24}
    assert (run / "export" / "huggingface" / "model.safetensors").exists()

    second = run_json(tiny, capsys)
    assert all(stage["cached"] for stage in second["stages"])
    assert second["weights_sha256"] == first["weights_sha256"]

    third = run_json([*tiny, "sft.lr=1e-3"], capsys)
    assert [stage["cached"] for stage in third["stages"]] == [True, True, True, True, False, False, False, False]
    assert third["run"] != first["run"] and third["weights_sha256"] != first["weights_sha256"]
    assert third["val_loss"] == first["val_loss"]

    root = ["--root", str(run.parent)]
    assert call(["runs", "show", run.name, "--json", *root]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert {key: shown[key] for key in ("params", "val_loss", "weights_sha256")} == {
        key: first[key] for key in ("params", "val_loss", "weights_sha256")
    }
    assert call(["runs", "list", "--json", *root]) == 0
    assert {row["name"] for row in json.loads(capsys.readouterr().out)} == {run.name, Path(third["run"]).name}
    assert call(["runs", "compare", run.name, Path(third["run"]).name, "--json", *root]) == 0
    assert json.loads(capsys.readouterr().out)["settings"] == {"sft.lr": [5e-4, 1e-3]}
    assert call(["runs", "show", "tiny", *root]) == 2
    assert "the beginning of 2 runs" in capsys.readouterr().err
    assert call(["verify", run.name, *root]) == 0
    assert "files are as they were written" in capsys.readouterr().out

    assert call(["chat", run.name, "--ask", "What does the river do?", "--ask", "Why?", "--json", "--seed", "1", *root]) == 0
    spoken = json.loads(capsys.readouterr().out)
    assert [turn["question"] for turn in spoken["turns"]] == ["What does the river do?", "Why?"]
    assert call(["export", run.name, "--to", str(run.parent / "given"), "--json", *root]) == 0
    assert (run.parent / "given" / "config.json").exists()

    weights = run / "sft" / "checkpoints"
    victim = max(weights.glob("step_*")) / "model.safetensors"
    content = bytearray(victim.read_bytes())
    content[-1] ^= 1
    victim.write_bytes(content)
    assert call(["verify", run.name, *root]) == 1
    assert "model.safetensors: block at byte" in capsys.readouterr().err


def test_killed_at_several_moments_gives_the_same_bits(tiny: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = run_json([*tiny, f"runs.root={tmp_path / 'undisturbed'}"], capsys)
    killed = 0
    for moment in ("stage pack", "pretrain: step 8/", "sft: step 8/"):
        child = subprocess.Popen(
            [sys.executable, "-m", "luthier", "run", *tiny], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
        )
        assert child.stderr is not None
        for line in child.stderr:
            if moment in line or (moment == "stage pack" and line.startswith("tokenizer ")):
                child.send_signal(signal.SIGKILL)
                killed += 1
                break
        child.stderr.close()
        child.wait()
    assert killed == 3
    final = run_json(tiny, capsys)
    assert final["weights_sha256"] == expected["weights_sha256"]
    steps = [json.loads(line) for line in (Path(final["run"]) / "pretrain" / "metrics.jsonl").read_text().splitlines()]
    trained = [row["step"] for row in steps if "train/loss" in row]
    assert trained == list(range(1, 25))
    undisturbed = (Path(expected["run"]) / "pretrain" / "metrics.jsonl").read_text().splitlines()
    keys = ("step", "train/loss", "val/loss", "val/bpb", "lr", "grad_norm")
    assert [{k: row.get(k) for k in keys} for row in steps] == [{k: json.loads(line).get(k) for k in keys} for line in undisturbed]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_polite_stop_saves_and_says_how_to_go_on(tiny: list[str], tmp_path: Path, number: int, code: int) -> None:
    """A3 A5."""
    arguments = ["run", *tiny, "pretrain.steps=2000", "pretrain.eval_every=1", "pretrain.compile=off"]
    command = [sys.executable, "-m", "luthier", *arguments]
    child = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    assert child.stderr is not None
    for line in child.stderr:
        if "pretrain: step 3/" in line:
            child.send_signal(number)
            break
    rest = child.stderr.read()
    child.stderr.close()
    assert child.wait() == code
    reason = "SIGTERM" if number == signal.SIGTERM else "Ctrl-C"
    assert rest.endswith(f"\nstopped ({reason}); everything is saved\n  go on with: luthier {' '.join(arguments)}\n"), rest
    saved = list((tmp_path / "runs" / "store" / "pretrain").glob("*/checkpoints/step_*/MANIFEST.json"))
    assert len(saved) >= 1
    record = json.loads(next((tmp_path / "runs").glob("tiny-*/run.json")).read_text())
    assert record["status"] == "interrupted"


def test_own_folder_of_every_kind(tiny: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_corpus(tmp_path / "mine", documents=80, seed=5)
    (folder / "a.txt").write_text("A plain text about rivers.\n\n" * 30)
    (folder / "b.md").write_text("# A heading\n\nSome words about mountains.\n" * 20)
    (folder / "c.csv").write_text("text,n\n" + "".join(f"Row number {i} speaks of gardens.,{i}\n" for i in range(30)))
    (folder / "photo.jpg").write_bytes(b"\xff\xd8\xff\xe0\x00\x10JFIF\x00" + bytes(range(256)) * 20)
    summary = run_json([*tiny, f'data.sources=["{folder}"]', "pretrain.steps=4"], capsys)
    assert summary["val_bpb"] > 0


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["run", "nowhere.toml"], 2, "no such recipe"),
        (["run", "TINY", "optm.lr=1"], 2, "did you mean `optim`?"),
        (["run", "TINY", 'data.sources=["nowhere"]'], 2, "nowhere"),
        (["run", "TINY", 'data.sources=["EMPTY"]'], 2, ""),
        (["run", "TINY", 'data.sources=["BINARY"]'], 2, ""),
        (["run", "TINY", 'data.sources=["SHORT"]'], 2, ""),
        (["run", "TINY", "runs.root=FILE/x"], 1, "not a directory"),
        (["run", "TINY", "expected_params=5"], 2, "5"),
        (["chat", "nobody"], 2, "no such run"),
        (["frob"], 2, "frob"),
    ],
)
def test_mistakes_get_one_sentence(
    tiny: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, words: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "binary.bin").write_bytes(bytes(range(256)) * 50)
    (tmp_path / "short.txt").write_text("Too short.")
    (tmp_path / "file").write_text("")
    names = {"TINY": tiny[0], "EMPTY": str(tmp_path / "empty"), "BINARY": str(tmp_path / "binary.bin")}
    names |= {"SHORT": str(tmp_path / "short.txt"), "FILE": str(tmp_path / "file")}
    for name, value in names.items():
        arguments = [argument.replace(name, value) for argument in arguments]
    assert call(arguments) == code
    error = capsys.readouterr().err
    assert words in error and "Traceback" not in error and len(error.strip()) > 10


def test_a_vocabulary_larger_than_the_text_supports_is_advice(tiny: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    summary = run_json([*tiny, "tokenizer.vocab_size=9000", "pretrain.steps=2", "sft.epochs=0.1"], capsys)
    assert summary["params"] < 400_000


def test_two_processes_cannot_share_a_run(tiny: list[str], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "luthier", "run", *tiny, "pretrain.steps=5000"]
    first = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    assert first.stderr is not None
    for line in first.stderr:
        if line.startswith("tokenizer "):
            break
    try:
        second = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert second.returncode == 3 and str(first.pid) in second.stderr
        assert first.poll() is None
    finally:
        first.kill()
        first.stderr.close()
        first.wait()


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="permissions do not bind root")
def test_no_permission_is_one_sentence(tiny: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    assert call(["run", *tiny, f"runs.root={tmp_path / 'locked' / 'runs'}"]) == 1
    assert "no permission to write" in capsys.readouterr().err


@pytest.mark.slow
def test_killed_at_random_moments(tiny: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import random

    expected = run_json([*tiny, f"runs.root={tmp_path / 'undisturbed'}"], capsys)
    chance = random.Random(0)
    for attempt in range(12):
        command = [sys.executable, "-m", "luthier", "run", *tiny]
        child = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        time.sleep(2.0 + chance.random() * 6.0 + attempt * 0.2)
        child.kill()
        child.wait()
    assert run_json(tiny, capsys)["weights_sha256"] == expected["weights_sha256"]


@pytest.mark.slow
def test_compiled_training_gives_the_same_bits_beside_other_work(tiny: list[str], tmp_path: Path) -> None:
    """Two threads, compiled, two runs at once: gradients must not depend on which thread comes first."""
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    options = ["pretrain.compile=on", "pretrain.precision=bf16", "model.d_model=64", "pretrain.global_batch_tokens=2048"]
    commands = [[sys.executable, "-m", "luthier", "pretrain", *tiny, *options, f"runs.root={tmp_path / name}", "--json"] for name in "ab"]
    children = [subprocess.Popen(c, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment) for c in commands]
    hashes = {json.loads(child.communicate()[0])["weights_sha256"] for child in children}
    assert len(hashes) == 1
