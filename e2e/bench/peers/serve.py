#!/usr/bin/env python3
"""Starts a peer that the benches compare the agent with: `serve.py NAME MODEL.onnx PORT`; README.md tells of each.

Listens on 127.0.0.1 only. Prints one line, `ready URL-PATH ENCODING[,ENCODING]`, after the peer has answered an
inference in each of these encodings (`json`, `binary`) with the numbers that ONNX Runtime gives. Ends, with all
processes it started, on SIGTERM, on SIGINT, when its standard input closes, or with an error when the peer ends.
"""

import argparse
import json
import os
import select
import signal
import socket
import string
import subprocess
import sys
import sysconfig
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
READY_SECONDS = 180
ANSWER_SECONDS = 30
STOP_SECONDS = 15
POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Job:
    """What is to be served."""

    model: Path
    port: int
    workers: int
    max_batch: int
    # An empty folder, in which the peer starts too.
    work: Path

    @property
    def url_path(self) -> str:
        """Where inferences go."""
        return f"/v2/models/{self.model.stem}/infer"


@dataclass(frozen=True)
class Start:
    """How a peer's server is started, and what its environment has besides ours."""

    command: list[str]
    environment: dict[str, str]


def mlserver(job: Job) -> Start:
    """MLServer reads its two settings files from a folder."""
    files = json.loads((HERE / "mlserver.json").read_text())
    files["settings.json"] |= {
        "http_port": job.port,
        # gRPC cannot be switched off.
        "grpc_port": free_port(),
        "parallel_workers": job.workers,
    }
    files["model-settings.json"] |= {"name": job.model.stem, "parameters": {"uri": str(job.model)}}
    if job.max_batch > 1:
        files["model-settings.json"] |= {"max_batch_size": job.max_batch, "max_batch_time": 0.001}
    for name, settings in files.items():
        (job.work / name).write_text(json.dumps(settings))
    return Start([tool("mlserver"), "start", str(job.work)], {"PYTHONPATH": str(HERE)})


def kserve(job: Job) -> Start:
    """KServe's Python server takes arguments."""
    arguments = {
        "model_name": job.model.stem,
        "model_path": job.model,
        "http_port": job.port,
        "workers": job.workers,
        "enable_grpc": False,
        "enable_latency_logging": False,
        "log_config_file": HERE / "kserve_logging.json",
    }
    listed = [f"--{name}={value}" for name, value in arguments.items()]
    return Start([sys.executable, str(HERE / "kserve_server.py"), *listed], {})


def litserve(job: Job) -> Start:
    """LitServe's server is a script."""
    arguments = [job.model, job.url_path, job.port, job.workers, job.max_batch]
    return Start([sys.executable, str(HERE / "litserve_server.py"), *map(str, arguments)], {})


def triton(job: Job) -> Start:
    """Triton reads a model repository; server, backend and the backend's process are files in PyTriton's wheel."""
    packages = Path(sysconfig.get_path("purelib"))
    wheel = packages / "pytriton" / "tritonserver"
    folder = job.work / "models" / job.model.stem
    (folder / "1").mkdir(parents=True)
    (folder / "1" / "model.py").symlink_to(HERE / "triton_model.py")
    # The backend's process does not look where PYTHONPATH says.
    (folder / "1" / "runtime.py").symlink_to(HERE / "runtime.py")
    template = string.Template((HERE / "triton.pbtxt").read_text())
    (folder / "config.pbtxt").write_text(template.substitute(workers=job.workers))
    # The wheel has the backend's process built for each version of Python; the backend looks for one beside itself.
    process = wheel / "python_backend_stubs" / "{}.{}".format(*sys.version_info) / "triton_python_backend_stub"
    backend = job.work / "backends" / "python"
    backend.mkdir(parents=True)
    for file in (process, *(wheel / "backends" / "python").glob("*.*")):
        (backend / file.name).symlink_to(file)
    command = [
        str(wheel / "bin" / "tritonserver"),
        f"--model-repository={folder.parent}",
        f"--backend-directory={backend.parent}",
        "--http-address=127.0.0.1",
        f"--http-port={job.port}",
        "--allow-grpc=false",
        "--allow-metrics=false",
    ]
    libraries = [str(packages / "nvidia_pytriton.libs"), sysconfig.get_config_var("LIBDIR")]
    environment = {
        "PEER_MODEL": str(job.model),
        "PEER_MAX_BATCH": str(job.max_batch),
        # Whence the backend's process finds this Python's shared library, and by `python3` this environment.
        "LD_LIBRARY_PATH": ":".join(libraries),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    return Start(command, environment)


@dataclass(frozen=True)
class Peer:
    """A peer, the encodings that it speaks, and the largest batch that its own advice for such a load leads to."""

    start: Callable[[Job], Start]
    encodings: tuple[str, ...]
    max_batch: int = 1


PEERS = {
    "mlserver": Peer(mlserver, ("json",)),
    "kserve": Peer(kserve, ("json", "binary")),
    "litserve": Peer(litserve, ("json",)),
    "triton": Peer(triton, ("json", "binary"), max_batch=32),
}


def tool(name: str) -> str:
    """A program of this environment."""
    return str(Path(sys.executable).parent / name)


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Serves a model on 127.0.0.1 by a peer until standard input closes.")
    parser.add_argument("name", choices=PEERS)
    parser.add_argument("model", type=Path, metavar="MODEL.onnx")
    parser.add_argument("port", type=int)
    cores = len(os.sched_getaffinity(0))
    parser.add_argument("--workers", type=int, default=cores, help="processes with a session each: %(default)s cores")
    parser.add_argument("--max-batch", type=int, help="requests run as one: 32 for Triton, otherwise 1, which is none")
    return parser.parse_args()


def enter_environment(name: str) -> None:
    """Goes on in the peer's own environment, made where it is not there."""
    folder = ROOT / ".tools" / "venv" / f"peer-{name}"
    if Path(sys.prefix) != folder:
        subprocess.run([ROOT / "tools" / "venv", folder.name], check=True, stdout=sys.stderr)
        python = str(folder / "bin" / "python")
        os.execv(python, [python, __file__, *sys.argv[1:]])


class Question:
    """An inference whose answer is known."""

    def __init__(self, path: Path):
        import numpy
        from runtime import Model

        self._numpy, model = numpy, Model(str(path))
        shape = [1, *model.input.shape[1:]]
        self._rows = numpy.random.default_rng(0).random(shape, numpy.float32)
        self._expected = model.run(self._rows)
        self._tensor = {"name": model.input.name, "datatype": "FP32", "shape": shape}

    def request(self, encoding: str) -> tuple[bytes, dict[str, str]]:
        """Body and headers."""
        if encoding == "json":
            tensor = self._tensor | {"data": self._rows.ravel().tolist()}
            return json.dumps({"inputs": [tensor]}).encode(), {"Content-Type": "application/json"}
        tensor = self._tensor | {"parameters": {"binary_data_size": self._rows.nbytes}}
        head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
        headers = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(len(head))}
        return head + self._rows.tobytes(), headers

    def check(self, encoding: str, body: bytes, head_bytes: str | None) -> None:
        """Fails unless the answer is right, and in this encoding."""
        if encoding == "binary":
            head = int(head_bytes or sys.exit("the peer was asked for binary and answers without a header's length"))
            values = self._numpy.frombuffer(body[head:], self._numpy.float32)
            body = body[:head]
        (output,) = json.loads(body)["outputs"]
        if encoding == "json":
            values = self._numpy.array(output["data"], self._numpy.float32)
        if output["shape"] != list(self._expected.shape):
            sys.exit(f"the peer answers {output['shape']}, not {list(self._expected.shape)}")
        if not self._numpy.allclose(values.ravel(), self._expected.ravel(), rtol=1e-4, atol=1e-6):
            sys.exit(f"the peer's {encoding} answer is wrong")


class Server:
    """A running peer in a process group of its own."""

    def __init__(self, start: Start, folder: Path):
        # Only the ready line goes to standard output.
        self._process = subprocess.Popen(
            start.command,
            cwd=folder,
            env=os.environ | start.environment,
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr,
            start_new_session=True,
        )

    def pause(self) -> None:
        """Waits a moment; ends the program when standard input has closed or the peer has ended."""
        readable, _, _ = select.select([sys.stdin], [], [], POLL_SECONDS)
        if readable and not os.read(sys.stdin.fileno(), 4096):
            sys.exit(0)
        if self._process.poll() is not None:
            sys.exit(f"the peer has ended: status {self._process.returncode}")

    def stop(self) -> None:
        """Ends the whole group, at last by force."""
        self._signal_all(signal.SIGTERM)
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            print("the peer does not end and is killed", file=sys.stderr)
        self._signal_all(signal.SIGKILL)
        self._process.wait()

    def _signal_all(self, number: signal.Signals) -> None:
        try:
            os.killpg(self._process.pid, number)
        except ProcessLookupError:
            pass


def answer(url: str, body: bytes, headers: dict[str, str]) -> tuple[bytes, str | None] | None:
    """Body and length of its JSON header, or nothing where the peer is not ready yet."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=ANSWER_SECONDS) as response:
            return response.read(), response.headers.get("Inference-Header-Content-Length")
    except urllib.error.HTTPError as error:
        # Servers listen before their model is loaded: 4xx and 5xx may both mean "not yet".
        print(f"not ready: {error.code} {error.read(300)!r}", file=sys.stderr)
    except OSError:
        pass
    return None


def wait_until_ready(server: Server, job: Job, encodings: tuple[str, ...]) -> None:
    """Returns when the peer has answered rightly in each encoding."""
    question = Question(job.model)
    deadline = time.monotonic() + READY_SECONDS
    for encoding in encodings:
        body, headers = question.request(encoding)
        while (answered := answer(f"http://127.0.0.1:{job.port}{job.url_path}", body, headers)) is None:
            if time.monotonic() > deadline:
                sys.exit(f"the peer answers no {encoding} inference after {READY_SECONDS} s")
            server.pause()
        question.check(encoding, *answered)


def main() -> None:
    """Serves until told to end."""
    asked = arguments()
    enter_environment(asked.name)
    peer = PEERS[asked.name]
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    with tempfile.TemporaryDirectory(prefix=f"peer-{asked.name}-") as folder:
        work = Path(folder)
        job = Job(asked.model.resolve(strict=True), asked.port, asked.workers, asked.max_batch or peer.max_batch, work)
        server = Server(peer.start(job), work)
        try:
            wait_until_ready(server, job, peer.encodings)
            print("ready", job.url_path, ",".join(peer.encodings), flush=True)
            while True:
                server.pause()
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, signal.SIG_IGN)
            server.stop()


if __name__ == "__main__":
    main()
