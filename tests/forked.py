"""Python programs that need not import anything: forks of one process that has imported it all.

A fresh interpreter takes more than two seconds to import torch and transformers, and dozens of tests want a process:
for signals, pipes, terminals, kills. `PYTHON` stands where `sys.executable` would and takes what that takes
(`-m MODULE`, `-c CODE` or a script, and arguments), with the streams, folder and environment that it is given:

    subprocess.Popen([*PYTHON, "-m", "templora", "write", ...], stdout=subprocess.PIPE)

    test ── Popen ──> a launcher (this file, in 20 ms) ── socket ──> server ── fork ──> keeper ── fork ──> the program

The launcher passes its streams on, then signals, and ends as the program ends; if it is killed, so is the program. The
process's id is therefore the launcher's, not the program's. What is decided as Python starts is the server's: hash
seed, the streams' encoding (UTF-8), threads of OpenMP (one). Tests of that and of imports take `sys.executable`.

`conftest` starts the server when tests begin; it imports when it is first asked. Where there is none, PYTHON is Python.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys

PYTHON = (sys.executable, "-S", "-E", os.path.abspath(__file__))
PLACE = "TEMPLORA_TESTS_FORKS"  # the environment variable with the server's socket
_PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


def executable() -> str:
    """The same as one file, for what is told of one in `sys.executable`."""
    if PLACE not in os.environ:
        return sys.executable
    return os.environ[PLACE] + "-python"


def launch(arguments: list[str]) -> None:
    """Has the server run a program, and ends as it does."""
    import json
    import struct

    if PLACE not in os.environ:
        os.execv(sys.executable, [sys.executable, *arguments])
    with socket.socket(socket.AF_UNIX) as server:
        for number in _PASSED_ON:
            signal.signal(number, lambda n, _: server.send(bytes([n])))
        server.connect(os.environ[PLACE])
        asked = {"arguments": arguments, "folder": os.getcwd(), "environment": dict(os.environ)}
        sent = json.dumps(asked).encode()
        socket.send_fds(server, [struct.pack("<I", len(sent))], [0, 1, 2])
        server.sendall(sent)
        for end in range(3):  # who reads from the other end waits for the program alone
            os.close(end)
        said = server.recv(4)
    code = struct.unpack("<i", said)[0] if len(said) == 4 else 70
    if code < 0:
        if -code not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


def serve(place: str) -> None:
    """Forks a program for whoever asks, until standard input ends. Returns in the forked programs, to run them."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(place)
        listener.listen(64)
        ready = False
        while True:
            asked, _, _ = select.select([listener, 0], [], [])
            if 0 in asked:
                os._exit(0)
            connection, _ = listener.accept()
            if not ready:
                _get_ready()
                ready = True
            if not os.fork():
                listener.close()
                if _is_program(connection):
                    return
            connection.close()
            while _reaped():
                pass


def _reaped() -> bool:
    try:
        return os.waitpid(-1, os.WNOHANG)[0] > 0
    except ChildProcessError:
        return False


def _get_ready() -> None:
    """Imports all of the package and what it needs, and uses it once; no thread is left of that."""
    import gc
    import importlib
    import pkgutil

    gc.disable()
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast  # noqa: F401

    import templora
    from templora.testing import tiny_engine

    for module in pkgutil.walk_packages(templora.__path__, "templora."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    torch.set_num_threads(1)
    engine = tiny_engine()
    with torch.random.fork_rng(), engine.session(engine.config(chunk_size=8, window=16, rank=2)) as session:
        session.write("It was", max_new_tokens=12)
    del engine, session
    gc.collect()
    gc.freeze()
    gc.enable()


def _is_program(connection: socket.socket) -> bool:
    """In the keeper: forks the program and waits for its end. True in the program, which has become what was asked."""
    import json
    import struct

    size, streams, _, _ = socket.recv_fds(connection, 4, 3)
    raw = b""
    while len(raw) < struct.unpack("<I", size)[0]:
        raw += connection.recv(1 << 20)
    program = os.fork()
    if not program:
        connection.close()
        _become(streams, **json.loads(raw))
        return True
    for stream in (*streams, 0, 1, 2):
        os.close(stream)
    ended = os.pidfd_open(program)
    while True:
        ready, _, _ = select.select([connection, ended], [], [])
        if ended in ready:
            code = os.waitstatus_to_exitcode(os.waitpid(program, 0)[1])
            try:
                connection.sendall(struct.pack("<i", code))
            finally:
                os._exit(0)
        for number in connection.recv(16) or (signal.SIGKILL,):
            os.kill(program, number)


def _become(streams: list[int], arguments: list[str], folder: str, environment: dict[str, str]) -> None:
    for end, stream in enumerate(streams):
        os.dup2(stream, end)
        os.close(stream)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for name, end, mode in (("stdin", 0, "r"), ("stdout", 1, "w"), ("stderr", 2, "w")):
        errors = "backslashreplace" if name == "stderr" else "strict"
        buffering = 1 if name == "stderr" or os.isatty(end) else -1
        stream = open(end, mode, buffering, encoding="utf-8", errors=errors, closefd=False)  # noqa: SIM115
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    how = arguments[:2] if arguments[0] in ("-m", "-c") else ["", arguments[0]]
    sys.argv = [how[1] if how[0] != "-c" else "-c", *arguments[len([part for part in how if part]) :]]
    sys.path[:] = [os.path.dirname(os.path.abspath(how[1])) if not how[0] else os.getcwd(), *sys.path[1:]]
    global _program
    _program = how


_program: list[str] = []


def _run_program() -> None:
    import runpy

    kind, what = _program
    if kind == "-m":
        runpy.run_module(what, run_name="__main__", alter_sys=True)
    elif kind == "-c":
        exec(compile(what, "<string>", "exec"), {"__name__": "__main__"})
    else:
        runpy.run_path(what, run_name="__main__")


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(sys.argv[2])
        _run_program()
    else:
        launch(sys.argv[1:])
