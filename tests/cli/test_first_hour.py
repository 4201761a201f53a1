"""What goes wrong in the first hour: each mistake is one line that names the place and the way out (DESIGN.md)."""

from __future__ import annotations

import os

import pytest

from tests.support.command import RELAY, Cli

COMMANDS = [("check",), ("run",), ("dead", "list")]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_1_a_queue_without_payload_type(cli: Cli, command: tuple[str, ...]) -> None:
    cli.write(
        "relay.py",
        """
        from framework import Queue, WorkerApp

        class Relay(WorkerApp):
            deliveries = Queue("deliveries")
        """,
    )
    result = cli.run(*command, "relay")
    assert result.code == 2
    assert result.error == ('relay.py:4: Relay.deliveries has no payload type: write Queue[YourModel]("deliveries")')


@pytest.mark.parametrize("path", ["services/relay.py", "./services/relay.py", "services/relay"])
def test_2_a_path_instead_of_a_module(cli: Cli, path: str) -> None:
    cli.write("services/relay.py", RELAY)
    result = cli.run("run", path)
    assert result.code == 2
    assert result.error == f"{path} is a path: write services.relay (searched from {cli.home})"


def test_3_the_app_is_one_module_further(cli: Cli) -> None:
    cli.write("services/shop/__init__.py", "")
    cli.write("services/shop/broken.py", "raise RuntimeError('not yours')")
    cli.write("services/shop/app.py", RELAY.replace("class Relay", "class Shop"))
    result = cli.run("run", "services.shop")
    assert result.code == 2
    assert result.error == ("services.shop has no WorkerApp; services.shop.app has Shop: worker run services.shop.app")


def test_4_a_handler_of_another_payload(cli: Cli) -> None:
    cli.write(
        "relay.py",
        RELAY.replace("delivery: Delivery, ctx", "delivery: Other, ctx").replace(
            "class Relay", "class Other(BaseModel): ...\n\n\nclass Relay"
        ),
    )
    result = cli.run("check", "relay")
    assert result.code == 2
    assert result.error == "relay.py:21: Relay.deliver takes Other, but queue 'deliveries' carries Delivery"


def test_5_concurrency_of_a_sync_handler(cli: Cli) -> None:
    cli.write("relay.py", RELAY.replace('"digests", max', '"digests", concurrency=2000, max'))
    result = cli.run("run", "relay")
    assert result.code == 2
    assert result.error == (
        "relay.py:22: daily_digests is sync and runs each job in a thread: concurrency=2000 must be at most 256; "
        "raise workers instead"
    )


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_6_a_setting_of_no_queue(relay: Cli, command: tuple[str, ...]) -> None:
    result = relay.run(*command, "relay", env={"WORKER_QUEUES__DELIVERES__WORKERS": "2"})
    assert result.code == 2
    assert result.error == "WORKER_QUEUES__DELIVERES__WORKERS: no queue 'deliveres'; did you mean DELIVERIES?"


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
@pytest.mark.parametrize("args", [("run", "relay"), ("enqueue", "relay", "digests", "1"), ("queues", "relay")])
def test_8_the_spool_of_another_user(relay: Cli, args: tuple[str, ...]) -> None:
    relay.spool.mkdir(mode=0o700)
    os.chown(relay.spool, 1000, 1000)
    result = relay.run(*args)
    assert result.code == 3
    assert result.error == (f"spool {relay.spool} belongs to uid 1000, this process is uid 0: run both as one user")
    assert not any(relay.spool.iterdir())


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("WORKER_DRAIN", "soon", "WORKER_DRAIN='soon'"),
        (
            "WORKER_ENGINE_URL",
            "redis://cache",
            "WORKER_ENGINE_URL='redis://cache': no engine 'redis'; there are spool:",
        ),
        (
            "WORKER_QUEUES__DELIVERIES__WORKERS",
            "-1",
            "WORKER_QUEUES__DELIVERIES__WORKERS: workers=-1: must be 0 or more",
        ),
        (
            "WORKER_QUEUES__DELIVERIES__WORKER",
            "1",
            "WORKER_QUEUES__DELIVERIES__WORKER: no option 'worker'; did you mean",
        ),
        ("WORKER_QUEUES__DAILY_DIGESTS__CONCURRENCY", "400", "concurrency=400 must be at most 256"),
    ],
)
def test_a_wrong_setting_names_its_variable(relay: Cli, variable: str, value: str, message: str) -> None:
    result = relay.run("check", "relay", env={variable: value})
    assert result.code == 2
    assert message in result.error


def test_an_unknown_variable_is_a_warning(relay: Cli) -> None:
    result = relay.ok("check", "relay", env={"WORKER_DRIAN": "3"})
    assert "worker: warning: WORKER_DRIAN is set, but nothing reads it; did you mean WORKER_DRAIN?\n" in result.err
