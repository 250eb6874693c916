"""Commands for shell scripts without the seconds that importing torch takes: a process that forks for each.

``python warm_commands.py SOCKET`` serves; the program in the folder stands for ``unlearnable``. Commands that
the environment variable NOTED lists are not run, but noted in the file NOTES.
"""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CLIENT = """#!{python} -IS
import json, os, socket, sys
if sys.argv[1] in os.environ.get("NOTED", "").split():
    with open(os.environ["NOTES"], "a") as notes:
        print(*sys.argv[1:], file=notes)
    sys.exit()
connection = socket.socket(socket.AF_UNIX)
connection.connect({socket!r})
asked = json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
socket.send_fds(connection, [len(asked).to_bytes(8, "big")], [1, 2])
connection.sendall(asked)
sys.exit(int.from_bytes(connection.recv(1) or b"\\1", "big"))
"""


@contextmanager
def warm_commands(folder: Path) -> Iterator[Path]:
    """A folder for the PATH, with the program ``unlearnable`` in it."""
    place = folder / "socket"
    process = subprocess.Popen([sys.executable, __file__, str(place)])
    program = folder / "bin" / "unlearnable"
    program.parent.mkdir()
    program.write_text(CLIENT.format(python=sys.executable, socket=str(place)))
    program.chmod(0o755)
    try:
        while not place.exists():
            assert process.poll() is None
            time.sleep(0.05)
        yield program.parent
    finally:
        process.kill()
        process.wait()


def serve(place: str) -> None:
    import cv2  # noqa: F401
    import matplotlib.pyplot  # noqa: F401
    import simplejpeg  # noqa: F401
    import torchvision  # noqa: F401

    from unlearnable_kernels import cli
    from unlearnable_kernels.cli.options import registries
    from unlearnable_kernels.protect import extend, stages  # noqa: F401
    from unlearnable_kernels.report import write_report  # noqa: F401
    from unlearnable_kernels.training import train  # noqa: F401

    for registry in registries().values():
        list(registry)
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(place + ".new")
    listening.listen()
    Path(place + ".new").rename(place)
    while True:
        connection, _ = listening.accept()
        length, descriptors, _, _ = socket.recv_fds(connection, 8, 2)
        size, data = int.from_bytes(length, "big"), b""
        while len(data) < size:
            data += connection.recv(size - len(data))
        if child := os.fork():
            for descriptor in descriptors:
                os.close(descriptor)
            _, status = os.waitpid(child, 0)
            connection.sendall(os.waitstatus_to_exitcode(status).to_bytes(1, "big"))
            connection.close()
            continue
        arguments, folder, environment = json.loads(data)
        for number, descriptor in enumerate(descriptors, 1):
            os.dup2(descriptor, number)
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", closefd=False, buffering=1)  # noqa: SIM115
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environment)
        sys.argv[1:] = arguments
        cli.main()


if __name__ == "__main__":
    serve(sys.argv[1])
