"""A grader that raises, hangs or dies counts as no reward, and is reported; the next one is graded all the same."""

from __future__ import annotations

import ctypes
import errno
import io
import json
import platform
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from luthier.errors import ConfigError, HardwareError
from luthier.tasks.grading import judge as judge_module
from luthier.tasks.grading import worker
from luthier.tasks.grading.confine import REFUSED, landlock_version
from luthier.tasks.grading.judge import Grade, Judge
from luthier.tasks.problems import problem

RIGHT = problem("What is 2 + 2?", "4", "number")
RAISES = problem("x", "(", "pattern")
HANGS = problem("x", "(a+)+$", "pattern")
SUM = problem("Write add.", "assert add(1, 2) == 3", "program")


@pytest.fixture(scope="module")
def judge() -> Iterator[Judge]:
    with Judge(seconds=1.0, allow_code=True) as judge:
        yield judge


@pytest.fixture(scope="module")
def patient() -> Iterator[Judge]:
    with Judge(seconds=60.0, allow_code=True) as judge:
        yield judge


def test_faults_do_not_end_the_grading(judge: Judge) -> None:
    grades = judge.grade_all([(RIGHT, "4"), (RAISES, "x"), (RIGHT, "5"), (HANGS, "a" * 40 + "b"), (RIGHT, "It is 4.")])
    assert [grade.reward for grade in grades] == [1.0, 0.0, 0.0, 0.0, 1.0]
    assert [grade.fault is None for grade in grades] == [True, False, True, False, True]
    assert "took longer than 1 s" in str(grades[3].fault)
    assert sorted(kind.split(": ")[1].split()[0] for kind in judge.faults) == ["raised", "took"] and judge.faults.total() == 2
    assert [example["problem"] for example in judge.examples] == [RAISES.id, HANGS.id]


def test_a_process_that_dies_is_started_again(judge: Judge) -> None:
    assert judge.grade(RIGHT, "4") == Grade(1.0)
    assert judge._process is not None
    judge._process.kill()
    judge._process.wait()
    died = judge.grade(RIGHT, "4")
    assert died.reward == 0.0 and "ended its process" in str(died.fault)
    assert judge.grade(RIGHT, "4") == Grade(1.0)


def test_a_process_that_does_not_start_is_a_fault_like_any(monkeypatch: pytest.MonkeyPatch) -> None:
    starts, start = list[str](), judge_module._start

    def failing(seconds: float) -> subprocess.Popen[bytes]:
        starts.append("start")
        if len(starts) in (1, 4, 5):
            raise OSError(errno.EAGAIN, "no more processes")
        if len(starts) in (2, 6):
            return subprocess.Popen([sys.executable, "-c", ""], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        return start(seconds)

    monkeypatch.setattr(judge_module, "_start", failing)
    with Judge(seconds=1.0) as judge:
        grades = judge.grade_all([(RIGHT, "4")] * 3)
        assert [grade.reward for grade in grades] == [0.0, 0.0, 1.0] and grades[2].fault is None
        assert "no more processes" in str(grades[0].fault) and "does not answer" in str(grades[1].fault)
        assert judge.faults.total() == 2 and len(judge.examples) == 2
        judge.close()
        assert [judge.grade(RIGHT, "4").reward for _ in range(2)] == [0.0, 0.0]
        with pytest.raises(HardwareError, match=r"3 times in a row .* does not answer"):
            judge.grade(RIGHT, "4")


@pytest.mark.skipif(sys.platform == "win32", reason="limits are Unix's")
def test_programs_run_apart(judge: Judge) -> None:
    good = "Here it is:\n```python\ndef add(a, b):\n    return a + b\n```\nDone."
    assert judge.grade(SUM, good) == Grade(1.0)
    for bad in ("def add(a, b):\n    return 0", "import sys\nsys.exit(0)", "no program", "open('x', 'w').write('a' * 2**22)"):
        assert judge.grade(SUM, bad).reward == 0.0


CALL = "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\nlibc.syscall({call})\nif ctypes.get_errno() == 1:\n    raise OSError"
CONFINED = {
    "another process": "import os\nassert os.fork() < 0",
    "a thread": "import threading\nthreading.Thread(target=print).start()",
    "much memory": "bytearray(2**30)",
    "a large file": "import signal\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)\nopen('x', 'wb').write(b'a' * 2**22)",
    "a file elsewhere": "open({elsewhere!r}, 'a')",
    "a file elsewhere removed": "import os\nos.remove({elsewhere!r})",
    "another machine": "import socket\nsocket.create_connection(('127.0.0.1', {port}), 1)",
    "an end of others": "import os\nos.kill(os.getppid(), 0)",
    "an end of others by a handle": "import os, signal\nsignal.pidfd_send_signal(os.pidfd_open(os.getppid()), 0)",
    "limits for others": "import os, resource\nresource.prlimit(os.getppid(), resource.RLIMIT_NOFILE, (9, 9))",
    "limits anew": "import resource\nresource.setrlimit(resource.RLIMIT_CPU, resource.getrlimit(resource.RLIMIT_CPU))",
    "a file elsewhere locked": "import os\nos.chmod({elsewhere!r}, 0)",
    "a file elsewhere locked by a newer call": CALL.format(call="452, -100, {elsewhere!r}.encode(), 0, 0"),
    "a file elsewhere marked": CALL.format(call="463, -100, {elsewhere!r}.encode(), 0, b'user.a', None, 0"),
    "a file elsewhere unmarked": CALL.format(call="466, -100, {elsewhere!r}.encode(), 0, b'user.a'"),
    "a file elsewhere changed": CALL.format(call="469, -100, {elsewhere!r}.encode(), None, 0, 0"),
    "a file elsewhere given away": "import os\nos.chown({elsewhere!r}, os.getuid(), os.getgid())",
    "a file elsewhere aged": "import os\nos.utime({elsewhere!r}, (0, 0))",
    "a file elsewhere tagged": "import os\nos.setxattr({elsewhere!r}, 'user.a', b'b')",
    "a file elsewhere cut": "import os\nos.truncate({elsewhere!r}, 0)",
    "calls in the dark": CALL.format(call="425, 1, bytes(120)"),
    "calls of a second table": CALL.format(call="0x40000000 + 39"),
}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux's limits")
@pytest.mark.parametrize("what", CONFINED)
def test_a_program_cannot_have(what: str, patient: Judge) -> None:
    """The program passes only where what it tries is refused with an exception."""
    landlocked, limited = ("a file elsewhere", "a file elsewhere removed"), ("much memory", "a large file")
    if what in landlocked and landlock_version(ctypes.CDLL(None)) < 1:
        pytest.skip("this system has no Landlock")
    if platform.machine() not in REFUSED and what not in (*landlocked, *limited):
        pytest.skip("calls are refused by numbers, which this architecture has others of")
    with socket.create_server(("127.0.0.1", 0)) as server, tempfile.TemporaryDirectory() as folder:
        elsewhere = Path(folder) / "x"
        elsewhere.write_text("kept")
        tried = CONFINED[what].format(elsewhere=str(elsewhere), port=server.getsockname()[1]).replace("\n", "\n    ")
        good = f"open('own', 'w').write('fine')\ntry:\n    {tried}\nexcept (OSError, RuntimeError, MemoryError):\n    refused = True\n"
        assert patient.grade(problem("Try.", "assert refused", "program"), good) == Grade(1.0)
        assert elsewhere.read_text() == "kept" and elsewhere.stat().st_mode & 0o777 and elsewhere.stat().st_mtime > 0


@pytest.mark.skipif(sys.platform == "win32", reason="limits are Unix's")
def test_a_program_does_not_find_the_word_that_says_that_it_passed(judge: Judge) -> None:
    everything = "open(__file__).read(), sys.argv, dict(os.environ), globals(), sys.stdin.read(), open('/proc/self/cmdline').read()"
    cheats = ("print(open(__file__).read())", f"import os, sys\nprint({everything})", "print(*map(repr, __import__('sys').orig_argv))")
    for cheat in cheats:
        assert judge.grade(SUM, f"{cheat}\nraise SystemExit(0)") == Grade(0.0)
    own = "def add(a, b):\n    return a + b\nprint('x' * 5000)\nprint = None\nassert __name__ == '__main__' and 'word' not in globals()"
    assert judge.grade(SUM, own) == Grade(1.0)


@pytest.mark.skipif(sys.platform == "win32", reason="limits are Unix's")
def test_a_program_that_prints_without_end_does_not_fill_the_judge(judge: Judge) -> None:
    endless = "import os\nwhile True:\n    try:\n        os.write(1, b'a' * 65536)\n    except OSError:\n        break\nraise SystemExit(0)"
    assert judge.grade(SUM, "while True:\n    print('a' * 9999)") == judge.grade(SUM, endless) == Grade(0.0)
    assert judge.grade(RIGHT, "4") == Grade(1.0)


@pytest.mark.skipif(sys.platform == "win32", reason="limits are Unix's")
def test_a_program_without_end_is_ended(patient: Judge) -> None:
    assert patient.grade(SUM, "while True:\n    pass") == Grade(0.0)
    assert patient.grade(SUM, "def add(a, b):\n    return a + b") == Grade(1.0)


def test_code_and_unknown_graders_are_refused() -> None:
    with Judge() as judge:
        with pytest.raises(ConfigError, match="not allowed"):
            judge.grade(SUM, "x")
        with pytest.raises(ConfigError, match="must be one of exact"):
            judge.grade(problem("x", "y", "unheard"), "x")


def test_what_is_no_reward_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    grades = {"nan": float("nan"), "two": 2.0, "minus": -0.1, "half": 0.5}
    monkeypatch.setattr(worker, "GRADERS", {name: lambda response, answer, value=value: value for name, value in grades.items()})
    assert worker.reply("half", "", "") == [0.5, None]
    for name in ("nan", "two", "minus"):
        reward, fault = worker.reply(name, "", "")
        assert reward == 0.0 and "not in [0, 1]" in str(fault)
    replies = io.StringIO()
    worker.serve(io.StringIO('["half", "a", "b"]\n["unheard", "a", "b"]\n'), replies, 5)
    said = [json.loads(line) for line in replies.getvalue().splitlines()]
    assert said[0] == [0.5, None] and said[1][0] == 0.0 and "KeyError" in said[1][1]
