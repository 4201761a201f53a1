"""The declarations of services: a row for each."""

from __future__ import annotations

from framework.engine.declarations import Declaration, read
from framework.engine.postgres.link import Link


class DeclaringEngine:
    """The part of the engine that implements `framework.engine.declarations`."""

    link: Link
    schema: str

    def declare(self, said: Declaration) -> None:
        """Replace the service's row."""
        self.link.rows(
            f"insert into {self.schema}.service values (%s, %s, {self.schema}.clock()) "
            "on conflict (name) do update set said = excluded.said, seen = excluded.seen",
            [said.service, said.text()],
        )

    def withdraw(self, service: str) -> None:
        """Remove the time from the service's row."""
        self.link.rows(f"update {self.schema}.service set seen = 0 where name = %s", [service])

    def declarations(self) -> list[Declaration]:
        """Return what stands in all rows; a damaged one says nothing."""
        rows = self.link.rows(
            f"select said, case when seen > 0 then {self.schema}.clock() - seen end from {self.schema}.service "
            "order by name"
        )
        return [found for said, silent in rows if (found := read(said, silent)) is not None]
