"""`worker schedules`, on the service of docs/schedules.md."""

from __future__ import annotations

import re
from pathlib import Path

from tests.support.command import Cli

PAGE = Path(__file__).parents[2] / "docs" / "schedules.md"


def test_the_page_s_service_is_shown(cli: Cli) -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    cli.write("shop.py", blocks[0])
    assert cli.ok("check", "shop").err == ""
    result = cli.ok("schedules", "shop")
    assert result.out.splitlines()[0] == "queue\tschedule\twhen\tlast\tnext\tnext (UTC)\tmissed"
    first, second, *_ = result.rows
    assert first[:4] == ["shop.reports", "weekly", "At 06:00 on Monday (Europe/Berlin)", "-"]
    assert second[:4] == ["", "", "", ""]
    assert all(re.search(r" 06:00:00\+0[12]:00$", row[4]) for row in result.rows[:3])
    weekly, interim = cli.ok("schedules", "shop", "--json").json
    assert list(weekly) == ["queue", "key", "rule", "words", "policy", "last", "next", "missed"]
    assert (weekly["rule"], weekly["policy"], weekly["last"]) == ("0 6 * * mon Europe/Berlin", "once", None)
    assert (interim["key"], interim["policy"], len(interim["next"])) == ("every 300 s", "skip", 3)


def test_a_wrong_schedule_is_one_line_with_its_place(cli: Cli) -> None:
    cli.write("wrong.py", 'from framework import Cron, Queue, WorkerApp\n\nclass Wrong(WorkerApp):\n'
              '    q = Queue[int]("q", schedules=[Cron("0 25 * * *", 1)])\n')  # fmt: skip
    result = cli.run("schedules", "wrong")
    assert result.code == 2
    assert "wrong.py:4: Cron('0 25 * * *'): Bad hour" in result.err
    assert "Traceback" not in result.err


def test_a_service_without_schedules_says_so(relay: Cli) -> None:
    assert relay.ok("schedules", "relay").rows == []
