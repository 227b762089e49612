"""Commands about the workers of a night: what each does, and which node is to be emptied."""

from __future__ import annotations

from typing import Annotated

import typer

from autoresearch.cli.app import AsJson, Home, Name, command, open_study


@command("autoresearch workers mine --drain node-7")
def workers(
    name: Name,
    drain: Annotated[
        str | None,
        typer.Option(help="Finish the runs of this node, by its host or its id, and begin none there in this night."),
    ] = None,
    as_json: AsJson = False,
    home: Home = None,
) -> None:
    """The workers of the night that runs: each slot of a cluster, its node and what it does."""
    from autoresearch.errors import UserError
    from autoresearch.evidence.cluster import cluster
    from autoresearch.evidence.status import status
    from autoresearch.facts import to_json
    from autoresearch.terminal.console import make_console, say
    from autoresearch.terminal.workers import workers_view
    from autoresearch.workers.fleet import Fleet

    study, console = open_study(name, home), make_console()
    found = cluster(study.path)
    if drain is not None:
        if found is None:
            raise UserError(f"study {name} has no night on a cluster just now: there is nothing to drain")
        place = Fleet(study.path).drain(drain)
        say(console, f"{place.host} ({place.node[:8]}) is emptied: its runs are finished, none is begun there tonight")
        return
    if as_json:
        print(to_json(found, indent=1))
    elif found is None:
        flying = status(study).in_flight
        doing = f"in flight on this machine: {', '.join(flying)}" if flying else "no run is in flight"
        say(console, f"study {name} has no night on a cluster; {doing}")
    else:
        console.print(workers_view(found))
