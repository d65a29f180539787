"""Running other programs: what they say, what they leave, and that none is ever left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

from bot import errors, log
from bot.edges import failures, process, supervisor

pytestmark = pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="process trees are read from /proc")
ENV = {"PATH": os.environ["PATH"]}


def python(code: str) -> list[str]:
    return [sys.executable, "-I", "-c", code]


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0]
    except OSError:
        return False
    return state != b"Z"


def wait_until(true, timeout_s: float = 10.0) -> bool:
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        if true():
            return True
        time.sleep(0.02)
    return bool(true())


def read_pid(path: Path) -> int:
    assert wait_until(lambda: path.is_file() and path.read_text().strip())
    return int(path.read_text())


# ── what comes out ─────────────────────────────────────────────────────────────────────────


def test_output_goes_line_by_line_to_the_log_and_the_callback(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    seen: list[str] = []
    code = "import sys; print('one'); print('two', file=sys.stderr); sys.stdout.write('50%\\r100%\\n')"
    process.run(
        [*python(code)],
        env={**ENV, "PYTHONUNBUFFERED": "1"},
        log_file=tmp_path / "l" / "x.log",
        on_line=seen.append,
    )
    assert sorted(seen) == ["100%", "50%", "one", "two"]
    assert (tmp_path / "l" / "x.log").read_text().splitlines()[1:] == seen
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("  $ ")
    assert "two" not in err.splitlines()[1:]


def test_colours_and_control_characters_do_not_reach_the_log(tmp_path: Path):
    code = "print('\\x1b[38;20mgrey\\x1b[0m \\x07bell')"
    process.run(python(code), env=ENV, log_file=tmp_path / "x.log")
    assert (tmp_path / "x.log").read_text().splitlines()[1] == "grey �bell"


def test_secrets_are_masked_in_the_log(tmp_path: Path):
    log.hide("hf_very_secret_value")
    env = {**ENV, "HF_TOKEN": "hf_very_secret_value"}
    process.run(python("import os; print(os.environ['HF_TOKEN'])"), env=env, log_file=tmp_path / "x.log")
    assert "hf_very_secret_value" not in (tmp_path / "x.log").read_text()
    assert "***" in (tmp_path / "x.log").read_text()


def test_a_secret_on_the_command_line_is_refused_before_anything_runs(tmp_path: Path):
    with pytest.raises(errors.ReleaseBotError, match="HF_TOKEN") as caught:
        process.run(
            ["echo", "--token=hf_abcdefgh"], env={**ENV, "HF_TOKEN": "hf_abcdefgh"}, log_file=tmp_path / "x"
        )
    assert "hf_abcdefgh" not in str(caught.value)
    assert not (tmp_path / "x").exists()


def test_the_environment_is_what_was_passed_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SOME_TOKEN", "do-not-pass-me")
    process.run(["env"], env={"PATH": ENV["PATH"], "A": "1"}, log_file=tmp_path / "x.log")
    names = {line.partition("=")[0] for line in (tmp_path / "x.log").read_text().splitlines()[1:]}
    assert names == {"PATH", "A", "LC_CTYPE", "TMPDIR", process.EVENTS_FD}


def test_inherited_leaves_tokens_and_own_settings_out():
    given = {
        "PATH": "p",
        "https_proxy": "x",
        "HF_TOKEN": "t",
        "GITHUB_TOKEN": "t",
        "PIP_INDEX_URL": "i",
        "HF_HOME": "h",
    }
    assert process.inherited(given) == {"PATH": "p", "https_proxy": "x", "PIP_INDEX_URL": "i"}


def test_events_come_on_their_own_pipe(tmp_path: Path):
    seen: list[process.Event] = []
    code = """
import json, os
fd = int(os.environ["RELEASE_BOT_EVENTS_FD"])
os.write(fd, b'{"event": "phase", "label": "layers", "total": 4}\\nnot json\\n')
print('{"event": "forged"}')
os.write(fd, b'{"event": "progress", ')
os.write(fd, b'"done": 1}\\n')
"""
    process.run(python(code), env=ENV, log_file=tmp_path / "x.log", on_event=seen.append)
    assert seen == [{"event": "phase", "label": "layers", "total": 4}, {"event": "progress", "done": 1}]


def test_peak_memory_counts_the_whole_tree(tmp_path: Path):
    code = """
import subprocess, sys, time
child = "import time; x = bytearray(80 * 2**20); x[::4096] = b'x' * len(x[::4096]); time.sleep(1.5)"
both = [subprocess.Popen([sys.executable, "-I", "-c", child]) for _ in range(2)]
[each.wait() for each in both]
"""
    child = process.run(python(code), env=ENV, log_file=tmp_path / "x.log")
    assert 160 * 2**20 < child.peak_memory_bytes < 400 * 2**20


# ── how it ends ────────────────────────────────────────────────────────────────────────────


def test_a_failure_shows_the_end_of_the_log(tmp_path: Path):
    with pytest.raises(errors.BackendError) as caught:
        process.run(python("print('the reason'); raise SystemExit(3)"), env=ENV, log_file=tmp_path / "x.log")
    assert "status 3" in caught.value.what
    assert "the reason" in caught.value.fix
    assert caught.value.where == str(tmp_path / "x.log")


def test_the_class_of_a_failure_is_the_callers(tmp_path: Path):
    with pytest.raises(errors.InfrastructureError):
        process.run(["false"], env=ENV, log_file=tmp_path / "x.log", failure=errors.InfrastructureError)


def test_the_childs_own_error_is_raised_again(tmp_path: Path):
    file = tmp_path / "error.json"
    content = {"error": "InputError", "what": "no template", "where": "base", "why": "w", "fix": "f"}
    code = f"open({str(file)!r}, 'w').write({json.dumps(content)!r}); raise SystemExit(3)"
    with pytest.raises(errors.InputError) as caught:
        process.run(python(code), env=ENV, log_file=tmp_path / "x.log", error_file=file)
    assert (caught.value.what, caught.value.where, caught.value.why, caught.value.fix) == (
        "no template",
        "base",
        "w",
        "f",
    )


@pytest.mark.parametrize("text", ["", "{", '{"error": "os"}', '{"error": "SystemExit", "what": 1}', "[]"])
def test_an_unreadable_error_file_is_still_a_typed_error(tmp_path: Path, text: str):
    (tmp_path / "e").write_text(text)
    assert isinstance(failures.read_error(tmp_path / "e"), errors.BackendError)


def test_a_killed_child_is_infrastructure_and_hints_at_memory(tmp_path: Path):
    with pytest.raises(errors.InfrastructureError, match="killed by SIGKILL") as caught:
        process.run(python("import os; os.kill(os.getpid(), 9)"), env=ENV, log_file=tmp_path / "x.log")
    assert "memory" in caught.value.why


def test_a_crashed_child_is_infrastructure_too(tmp_path: Path):
    with pytest.raises(errors.InfrastructureError, match="SIGSEGV"):
        process.run(python("import os; os.kill(os.getpid(), 11)"), env=ENV, log_file=tmp_path / "x.log")


def test_a_program_that_is_not_there(tmp_path: Path):
    with pytest.raises(errors.BackendError, match="status 127"):
        process.run(["/no/such/program"], env=ENV, log_file=tmp_path / "x.log")


SPAWNS = """
import subprocess, sys, time, pathlib
sleeper = "import signal as s, time; {deaf} and s.signal(s.SIGTERM, s.SIG_IGN); time.sleep(600)"
away = subprocess.Popen([sys.executable, "-I", "-c", sleeper], start_new_session=True)
pathlib.Path({file!r}).write_text(str(away.pid))
time.sleep({seconds})
"""


def spawns(file: Path, *, seconds: float, deaf: bool = False) -> list[str]:
    """A program that starts another in a session of its own, which outlives it unless ended."""
    return python(SPAWNS.format(file=str(file), seconds=seconds, deaf=deaf))


def test_what_a_program_started_ends_with_it(tmp_path: Path):
    process.run(spawns(tmp_path / "pid", seconds=0), env=ENV, log_file=tmp_path / "x.log")
    assert not alive(read_pid(tmp_path / "pid"))


def test_a_timeout_ends_the_whole_tree(tmp_path: Path):
    with pytest.raises(errors.InfrastructureError, match="longer than 1 s"):
        process.run(spawns(tmp_path / "pid", seconds=600), env=ENV, log_file=tmp_path / "x.log", timeout_s=1)
    assert not alive(read_pid(tmp_path / "pid"))


def test_an_exception_of_ours_ends_the_whole_tree(tmp_path: Path):
    def interrupt(_line: str) -> None:
        raise KeyboardInterrupt

    code = f"""
import os, time
open({str(tmp_path / "pid")!r}, "w").write(str(os.getpid()))
print(1, flush=True)
time.sleep(600)
"""
    with pytest.raises(KeyboardInterrupt):
        process.run(python(code), env=ENV, log_file=tmp_path / "x.log", on_line=interrupt)
    assert not alive(read_pid(tmp_path / "pid"))


def test_a_program_deaf_to_sigterm_is_killed_after_the_grace_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(process, "GRACE_S", 0.5)
    started = time.monotonic()
    process.run(spawns(tmp_path / "pid", seconds=0.3, deaf=True), env=ENV, log_file=tmp_path / "x.log")
    assert not alive(read_pid(tmp_path / "pid"))
    assert time.monotonic() - started < 8


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM])
def test_the_bots_death_ends_the_whole_tree(tmp_path: Path, signum: int):
    bot = f"""
import sys
import tempfile
sys.path.insert(0, {str(Path(process.__file__).parents[2])!r})
from pathlib import Path
from bot.edges import process
log_file = Path({str(tmp_path / "x.log")!r})
process.run({spawns(tmp_path / "pid", seconds=600)!r}, env={ENV!r}, log_file=log_file)
"""
    running = subprocess.Popen([sys.executable, "-c", bot], stderr=subprocess.DEVNULL)
    grandchild = read_pid(tmp_path / "pid")
    tree = supervisor.descendants(running.pid)
    assert grandchild in tree
    assert len(tree) == 3  # the supervisor, the program, and what it started
    os.kill(running.pid, signum)
    running.wait()
    assert wait_until(lambda: not any(alive(pid) for pid in tree))


def test_a_server_can_be_watched_and_is_ended_with_its_block(tmp_path: Path):
    lines: list[str] = []
    code = "import time; print('ready', flush=True); time.sleep(600)"
    with process.running(python(code), env=ENV, log_file=tmp_path / "x.log", on_line=lines.append) as server:
        while "ready" not in lines:
            assert server.poll()
        pids = supervisor.descendants(server.child.pid)
        assert pids
    assert server.child.returncode is not None
    assert not any(alive(pid) for pid in pids)


def test_a_command_is_echoed_so_that_it_can_be_pasted(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    process.run(["echo", "a b"], env=ENV, log_file=tmp_path / "x.log")
    assert capfd.readouterr().err == "  $ echo 'a b'\n"


def test_no_thread_is_left(tmp_path: Path):
    before = threading.active_count()
    process.run(["true"], env=ENV, log_file=tmp_path / "x.log")
    assert threading.active_count() == before


def test_a_childs_temporary_files_go_with_it(tmp_path: Path):
    script = "import tempfile; open(tempfile.mkdtemp() + '/left', 'w').close(); print(tempfile.gettempdir())"
    lines: list[str] = []
    process.run(python(script), env=process.inherited(), log_file=tmp_path / "log", on_line=lines.append)
    assert Path(lines[-1]) != Path(tempfile.gettempdir())
    assert not Path(lines[-1]).exists()


# ── what a child can read of us ────────────────────────────────────────────────────────────

_HOLDER = """
import os, subprocess, sys
sys.path.insert(0, {folder!r})
import supervisor
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
    supervisor._prctl(supervisor.PR_SET_DUMPABLE, 1)  # setuid took it
{hide}
os.environ.pop("SECRET_OF_TESTS")
sys.exit(subprocess.run(["cat", "/proc/%d/environ" % os.getpid()]).returncode)
"""


@pytest.mark.parametrize(("hide", "exit_code"), [("", 0), ("supervisor.hide()", 1)])
def test_a_child_reads_what_was_taken_out_of_the_environment_unless_hidden(hide: str, exit_code: int):
    """As an unprivileged user: root may read everything. Without `hide` the token is there to be read."""
    folder = str(Path(supervisor.__file__).parent)
    done = subprocess.run(
        python(_HOLDER.format(folder=folder, hide=hide)),
        env={**ENV, "SECRET_OF_TESTS": "x"},
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == exit_code, done.stderr
    assert ("SECRET_OF_TESTS" in done.stdout) == (not hide)
    assert ("Permission denied" in done.stderr) == bool(hide)
