"""The picture of `worker top` in `operating.md`: the screen itself, on a store that a real `worker run` serves.

python -m docs.terminal services.example_worker      # while it runs, WORKER_ENGINE_URL as there
"""

from __future__ import annotations

import argparse
import asyncio
import re
from pathlib import Path

from framework.admin.actor import actor
from framework.admin.live.desk import Desk
from framework.engine.port import shown
from framework.service.loading import load_app
from framework.service.settings import load_settings
from framework.top.screen import Top

TARGET = Path(__file__).parent / "pictures/top.svg"


async def draw(module: str, seconds: float) -> None:
    """Write the picture of the first view, once rates are known."""
    settings, app = load_settings(), load_app(module)
    desk = Desk(settings, app, "", lambda event: None)
    screen = Top(desk, f"{app.__name__} on {shown(settings.engine_url)}", 1.0, actor(), lambda view: iter(()))
    async with screen.run_test(size=(92, 16)) as pilot:
        await pilot.pause(seconds)
        picture = screen.export_screenshot(title="worker top")
        screen.action_leave(0)
    TARGET.write_text(re.sub(r"@font-face \{.*?\}", "", picture, flags=re.DOTALL))  # fonts of another site
    await desk.close()


def main() -> None:
    """Write the picture."""
    parser = argparse.ArgumentParser(description="Writes docs/pictures/top.svg from a service that runs.")
    parser.add_argument("module")
    parser.add_argument("--seconds", type=float, default=15.0, help="until the picture is taken")
    given = parser.parse_args()
    asyncio.run(draw(given.module, given.seconds))
    print(TARGET)


if __name__ == "__main__":
    main()
