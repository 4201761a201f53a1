"""The command `worker migrate`, which brings the schema of a database engine up to date."""

from __future__ import annotations

import click

from framework.engine.port import engine_module, shown
from framework.model.errors import UsageError
from framework.service.settings import load_settings


@click.command(short_help="Make or update the tables of an engine that has a schema.")
@click.argument("url", required=False)
@click.option("--sql", is_flag=True, help="Print the SQL from nothing to this version, and do nothing.")
def migrate(url: str | None, sql: bool) -> int:
    """Make or update the tables of the engine at URL, or of WORKER_ENGINE_URL, and print what was done.

    It may be repeated, and run twice at once. Workers of the version before go on beside it: migrate first, then start
    the new version.
    """
    url = url or load_settings().engine_url
    module = engine_module(url)
    if not hasattr(module, "migrate"):
        raise UsageError(f"{shown(url)}: this engine has no schema, there is nothing to migrate")
    for line in [module.script(url)] if sql else module.migrate(url):
        click.echo(line)
    return 0
