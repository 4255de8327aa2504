"""`embercache generate` against a service that says what it is told to."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import threading
import time
from concurrent import futures
from typing import TYPE_CHECKING, Any

import grpc
import psutil
import pytest
from click.testing import CliRunner, Result
from embercache.v1 import common_pb2, generate_pb2, generate_pb2_grpc
from grpc_health.v1 import health, health_pb2_grpc

from sidecar.cli import main

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Run = Callable[..., Result]

HANG_GUARD = 60.0


class Service(generate_pb2_grpc.GenerateServiceServicer):
    """Streams ``pieces``; while ``gate`` is not set, it stops after the first."""

    def __init__(self) -> None:
        self.address = ""
        self.generators = [
            generate_pb2.GeneratorModel(name="talker", accepts_chat=True),
            generate_pb2.GeneratorModel(name="base"),
        ]
        self.pieces = ["An ember", "", " glows."]
        self.summary = generate_pb2.GenerateSummary(
            model="talker",
            tier=common_pb2.TIER_HOT,
            finish_reason=generate_pb2.FINISH_REASON_STOP,
            usage=generate_pb2.GenerateUsage(prompt_tokens=7, completion_tokens=4),
        )
        self.fails_after_pieces = False
        self.requests: list[generate_pb2.GenerateRequest] = []
        self.gate = threading.Event()
        self.gate.set()
        self.ended = threading.Event()

    def ListGenerators(self, request: Any, context: Any) -> Any:  # noqa: N802
        return generate_pb2.ListGeneratorsResponse(generators=self.generators)

    def GenerateStream(self, request: Any, context: Any) -> Any:  # noqa: N802
        context.add_callback(self.ended.set)
        self.requests.append(request)
        for piece in self.pieces:
            yield generate_pb2.GenerateStreamResponse(text=piece)
            assert self.gate.wait(HANG_GUARD)
        if self.fails_after_pieces:
            context.abort(grpc.StatusCode.UNAVAILABLE, "told to break")
        yield generate_pb2.GenerateStreamResponse(summary=self.summary)


@pytest.fixture
def service() -> Iterator[Service]:
    made = Service()
    server = grpc.server(futures.ThreadPoolExecutor(4))
    generate_pb2_grpc.add_GenerateServiceServicer_to_server(made, server)
    health_pb2_grpc.add_HealthServicer_to_server(health.HealthServicer(), server)
    made.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    yield made
    made.gate.set()
    server.stop(None).wait()


@pytest.fixture
def run(service: Service) -> Run:
    runner = CliRunner(env={"EMBERCACHE_ADDRESS": service.address})

    def run_command(*arguments: str, input: bytes | None = None) -> Result:  # noqa: A002
        return runner.invoke(main, ["generate", *arguments], input=input)

    return run_command


@pytest.fixture
def start(service: Service) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts the command as a process of its own, for what only that has."""
    processes = []

    def start_command(*arguments: str, **options: Any) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "sidecar", "generate", *arguments]
        environment = os.environ | {"EMBERCACHE_ADDRESS": service.address}
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
        processes.append(subprocess.Popen(command, env=environment, **options))
        return processes[-1]

    yield start_command
    for process in processes:
        process.kill()
        process.communicate()


def asked(service: Service) -> list[tuple[str, str]]:
    (request,) = service.requests
    assert request.WhichOneof("prompt") == "chat"
    return [(message.role, message.content) for message in request.chat.messages]


def test_the_text_is_on_standard_output_and_the_summary_on_standard_error(run: Run) -> None:
    result = run("what glows?")
    assert result.exit_code == 0
    assert result.stdout == "An ember glows.\n"
    assert result.stderr.startswith("talker: from the hot tier, 0 s old; first text after ")
    assert result.stderr.endswith(" ms; 4 tokens; finish reason: stop\n")


def test_a_line_that_ends_is_not_ended_again(run: Run, service: Service) -> None:
    service.pieces = ["one\n"]
    assert run("p").stdout == "one\n"
    service.pieces = []
    assert run("p").stdout == ""


def test_quiet_leaves_the_summary_out(run: Run) -> None:
    result = run("p", "--quiet")
    assert (result.stdout, result.stderr) == ("An ember glows.\n", "")


def test_json_is_one_object_and_nothing_else(run: Run) -> None:
    result = run("p", "--json")
    answer = json.loads(result.stdout)
    assert (answer["text"], answer["tier"]) == ("An ember glows.", "hot")
    assert answer["finish_reason"] == "stop"
    assert result.stderr == ""


def test_a_prompt_is_a_message_of_the_user(run: Run, service: Service) -> None:
    run("what glows?")
    assert asked(service) == [("user", "what glows?")]


def test_a_message_of_the_system_comes_first(run: Run, service: Service, tmp_path: Path) -> None:
    run("q", "--system", "be brief")
    assert asked(service) == [("system", "be brief"), ("user", "q")]
    service.requests.clear()
    file = tmp_path / "system.txt"
    file.write_text("be\nbrief\n")
    run("q", "--system-file", str(file))
    assert asked(service) == [("system", "be\nbrief"), ("user", "q")]


@pytest.mark.parametrize("arguments", [(), ("-",)])
def test_a_prompt_is_piped_in_without_the_end_of_its_last_line(
    run: Run, service: Service, arguments: tuple[str, ...]
) -> None:
    run(*arguments, input="Was glüht?\n\n".encode())
    assert asked(service) == [("user", "Was glüht?\n")]


def test_a_raw_prompt_is_sent_as_it_is(run: Run, service: Service) -> None:
    run("--raw", "Once")
    run("--raw", "-", input=b"Once\n")
    assert [request.text for request in service.requests] == ["Once", "Once\n"]


def test_a_model_without_a_template_gets_the_prompt_as_it_is(run: Run, service: Service) -> None:
    run("Once", "--model", "base")
    assert (service.requests[0].text, service.requests[0].model) == ("Once", "base")
    for arguments in (("--chat",), ("--system", "be brief")):
        refused = run("Once", "--model", "base", *arguments)
        assert refused.exit_code == 1
        assert "base has no template for conversations: use --raw" in refused.stderr


def test_options_reach_the_sidecar(run: Run, service: Service) -> None:
    sampling = "--max-tokens 5 --temperature 0.5 --top-k 40 --top-p 0.75 --min-p 0.25"
    sampling += " --repetition-penalty 1.5 --seed 7 --stop END --stop ."
    cache = "--namespace n --mode no-store --ttl 90s --tag a --tag b --semantic --store-sampled"
    assert run("p", *sampling.split(), *cache.split()).exit_code == 0
    (request,) = service.requests
    assert request.sampling == generate_pb2.Sampling(
        max_tokens=5,
        temperature=0.5,
        top_k=40,
        top_p=0.75,
        min_p=0.25,
        repetition_penalty=1.5,
        seed=7,
        stop=["END", "."],
    )
    assert request.namespace == "n"
    assert request.cache.mode == common_pb2.CACHE_MODE_NO_STORE
    assert request.cache.ttl.seconds == 90
    assert list(request.cache.tags) == ["a", "b"]
    assert request.semantic.mode == common_pb2.SemanticOptions.MODE_ON
    assert request.store_sampled


def test_without_options_only_the_prompt_is_sent(run: Run, service: Service) -> None:
    run("--raw", "p")
    assert service.requests == [generate_pb2.GenerateRequest(text="p")]


def test_a_sidecar_without_generator_is_told_how_to_get_one(run: Run, service: Service) -> None:
    service.generators = []
    result = run("p")
    assert result.exit_code == 1
    assert "embercache models pull smollm2-135m" in result.stderr
    assert "EMBERCACHE_GENERATOR_PACKS=smollm2-135m" in result.stderr
    assert not service.requests


def test_an_unknown_generator_is_refused_with_those_there_are(run: Run) -> None:
    result = run("p", "--model", "nobody")
    assert result.exit_code == 1
    assert "no generator 'nobody'; it has: talker, base" in result.stderr


def test_what_is_not_utf_8_is_refused(run: Run, tmp_path: Path) -> None:
    result = run(input=b"ab\xff")
    assert result.exit_code == 1
    assert "standard input is not UTF-8 (byte 3)" in result.stderr
    file = tmp_path / "system.txt"
    file.write_bytes(b"\xff")
    assert "system.txt is not UTF-8 (byte 1)" in run("p", "--system-file", str(file)).stderr


def test_an_answer_that_breaks_off_is_an_error_on_a_line_of_its_own(
    run: Run, service: Service
) -> None:
    service.fails_after_pieces = True
    result = run("p")
    assert result.exit_code == 1
    assert result.stdout == "An ember glows.\n"
    assert result.stderr == "Error: told to break\n"


def test_pieces_are_shown_as_they_come(
    service: Service, start: Callable[..., subprocess.Popen[bytes]]
) -> None:
    service.gate.clear()
    process = start("p")
    assert process.stdout is not None
    assert process.stdout.read(8) == b"An ember"
    service.gate.set()
    assert process.communicate(timeout=HANG_GUARD)[0] == b" glows.\n"
    assert process.returncode == 0


def wait_until_it_waits(process: subprocess.Popen[bytes]) -> None:
    """Until a process has done nothing for a moment."""
    seen = psutil.Process(process.pid)
    before = None
    while before != (before := seen.cpu_times()[:2]):
        time.sleep(0.1)


@pytest.mark.parametrize("arguments", [(), ("--json",)])
def test_ctrl_c_ends_the_generation_and_the_command_without_a_traceback(
    service: Service, start: Callable[..., subprocess.Popen[bytes]], arguments: tuple[str, ...]
) -> None:
    service.gate.clear()
    process = start("p", "--raw", *arguments)
    while not service.requests:
        assert process.poll() is None
    if not arguments:
        assert process.stdout is not None
        assert process.stdout.read(8) == b"An ember"
    # An interrupt in the midst of starting a call can leave gRPC with a lock that nobody frees.
    wait_until_it_waits(process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=HANG_GUARD)
    assert process.returncode == 130
    assert (out, err) == (b"" if arguments else b"\n", b"")
    assert service.ended.wait(HANG_GUARD)


def test_a_reader_that_leaves_ends_the_command_without_a_traceback(
    service: Service, start: Callable[..., subprocess.Popen[bytes]]
) -> None:
    service.gate.clear()
    process = start("p")
    assert process.stdout is not None
    assert process.stdout.read(8) == b"An ember"
    process.stdout.close()
    service.gate.set()
    assert process.wait(HANG_GUARD) == 1
    assert process.stderr is not None
    assert process.stderr.read() == b""


@pytest.mark.parametrize("arguments", [(), ("--json",)])
def test_a_terminal_is_shown_what_would_control_it(
    service: Service, start: Callable[..., subprocess.Popen[bytes]], arguments: tuple[str, ...]
) -> None:
    service.pieces = ["red \x1b[3", "1m\x9b\r", "ok"]
    ours, its = pty.openpty()
    try:
        process = start("p", *arguments, stdout=its)
        assert process.wait(HANG_GUARD) == 0
        shown = os.read(ours, 10_000)
    finally:
        os.close(its)
        os.close(ours)
    assert b"\x1b" not in shown
    assert "\x9b".encode() not in shown
    assert b"red \\u001b[31m\\u009b" in shown


def test_what_is_piped_on_is_the_text_as_it_is(run: Run, service: Service) -> None:
    service.pieces = ["red \x1b[3", "1m\x9b\r", "ok"]
    assert run("p").stdout_bytes == "red \x1b[31m\x9b\rok\n".encode()
