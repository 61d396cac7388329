"""A network in containers of one machine: the Compose file, and what its services mount.

    compose.yaml              the services: a node each, the submitter, the profile `monitoring`
    node-arbutus/ ...         a home each, which only its own container sees
    submitter/                milepost.toml with the URLs inside the project, key, trust file
    runs/                     where the submitter records
    monitoring/               settings of Prometheus and Grafana

The same file with volumes in place of folders is the repository's own `docker-compose.yml`, whose
service `net` writes such a network into a volume when it starts for the first time.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from milepost import network
from milepost.places import PORT, Place, make_container_places
from milepost_consensus.params import Params

COMPOSE_FILE: Final = "compose.yaml"
SUBMITTER: Final = "submitter"
RUNS: Final = "runs"
MONITORING: Final = "monitoring"
VOLUME: Final = "net"
USER: Final = 10001
"""Whom the image runs as; also where root makes the network, so that no container is root's."""
REPOSITORY_NODES: Final = 7
ATTEST_WINDOW: Final = 30
"""Shorter than that of `milepost dev`: with two of seven nodes down a height takes two seconds or
more, and an interval may have to wait for three windows until a node has it that answers."""

_CONTAINER: Final = """\
  read_only: true
  tmpfs: ["/tmp:size=512m,mode=1777"]
  cap_drop: [ALL]
  security_opt: ["no-new-privileges:true"]
  mem_limit: 2g
  pids_limit: 256
  logging: {driver: local}
"""
"""What holds for every container here, also for those of other people's images."""


def write_containers(
    folder: Path,
    *,
    name: str,
    nodes: int,
    malicious: Mapping[int, str],
    gpus: Sequence[str] = (),
    first_port: int = PORT,
    params: Params,
) -> tuple[network.NodeHome, ...]:
    """Write a new network for containers and the Compose file that runs it.

    Node i gets `gpus[i]`, one node each.  Raises WrongUsage if the folder is not empty or a number
    is out of range.
    """
    places = make_container_places(nodes, first_port=first_port)
    homes = network.found_network(
        folder,
        places,
        name=name,
        malicious=malicious,
        params=params,
        submitter_folder=SUBMITTER,
    )
    (folder / RUNS).mkdir()
    _write_monitoring(folder / MONITORING, places)
    user = os.getuid() or USER
    (folder / COMPOSE_FILE).write_text(render_folder_project(places, user=user, gpus=gpus))
    shutil.copy(folder / network.TRUST, folder / SUBMITTER)
    # Written last: a submitter with a profile can start.
    network.write_profile(folder / SUBMITTER, [place.endpoint for place in places])
    if os.getuid() == 0:
        for part in (*(home.home for home in homes), folder / SUBMITTER, folder / RUNS):
            _give_away(part, user)
    return homes


def _write_monitoring(folder: Path, places: Sequence[Place]) -> None:
    shutil.copytree(Path(__file__).parent / MONITORING, folder)
    targets = [{"targets": [f"{place.name}:{place.port}" for place in places]}]
    (folder / "targets.json").write_text(json.dumps(targets, indent=2) + "\n")


def _give_away(folder: Path, user: int) -> None:
    for path in (folder, *folder.rglob("*")):
        os.chown(path, user, user)


def render_folder_project(places: Sequence[Place], *, user: int, gpus: Sequence[str] = ()) -> str:
    """The Compose file of a network folder; its containers have the rights of `user`."""
    head = f"""\
# A Milepost network in containers: docker compose up --detach --wait
# Written by `milepost net new`; the image is the one that the repository's Dockerfile makes.

x-container: &container
{_CONTAINER}\
  image: ${{MILEPOST_IMAGE:-milepost}}
  pull_policy: never
  user: "{user}:{user}"

services:
"""
    nodes = [
        _render_node(place, f"- ./node-{place.name}:/node", gpu=gpu)
        for place, gpu in _deal(places, gpus)
    ]
    submitter = _render_submitter(f"- ./{SUBMITTER}:/net:ro", f"- ./{RUNS}:/work")
    monitoring = _render_monitoring(f"- ./{MONITORING}:/etc/milepost:ro")
    return "\n".join([head, *nodes, submitter, monitoring, _render_volumes()]).replace(
        "services:\n\n", "services:\n"
    )


def render_repository_project() -> str:
    """The repository's `docker-compose.yml`: builds the image and makes the network by itself."""
    places = make_container_places(REPOSITORY_NODES)
    head = f"""\
# Seven nodes and a submitter: docker compose up --detach --wait
# The guide is docs/guides/testnet.md. `milepost net new` writes a file like this for any number of
# nodes; a test compares this one with what milepost/compose.py writes.

name: milepost

x-container: &container
{_CONTAINER}\
  image: milepost
  pull_policy: never

x-made: &made
  net: {{condition: service_completed_successfully}}

services:
  # Makes keys and genesis in a volume when it starts for the first time, and ends.
  net:
    <<: *container
    build:
      context: .
      args: {{TORCH_INDEX: "${{TORCH_INDEX:-}}"}}
    pull_policy: build
    command:
      - sh
      - -c
      - >-
        test -e /net/{SUBMITTER}/{network.PROFILE} ||
        exec milepost net new /net --name testnet --nodes {len(places)}
    network_mode: none
    volumes: ["{VOLUME}:/net"]
    healthcheck: {{disable: true}}
"""
    nodes = [
        _render_node(place, _mount(f"node-{place.name}", "/node"), after_net=True)
        for place in places
    ]
    submitter = _render_submitter(
        _mount(SUBMITTER, "/net", read_only=True), f"- {RUNS}:/work", after_net=True
    )
    monitoring = _render_monitoring(
        _mount(MONITORING, "/etc/milepost", read_only=True), after_net=True
    )
    return "\n".join([head, *nodes, submitter, monitoring, _render_volumes(VOLUME, RUNS)])


def _deal(places: Sequence[Place], gpus: Sequence[str]) -> list[tuple[Place, str]]:
    return [(place, gpus[i] if i < len(gpus) else "") for i, place in enumerate(places)]


def _mount(part: str, target: str, *, read_only: bool = False) -> str:
    """A folder of the network's volume, alone: a node sees no other node's key."""
    access = ", read_only: true" if read_only else ""
    volume = f"volume: {{subpath: {part}}}{access}"
    return f"- {{type: volume, source: {VOLUME}, target: {target}, {volume}}}"


def _render_after(after_net: bool) -> str:
    return "    depends_on: *made\n" if after_net else ""


def _render_node(place: Place, home: str, *, gpu: str = "", after_net: bool = False) -> str:
    port = place.url.rpartition(":")[2]
    text = f"""\
  {place.name}:
    <<: *container
    restart: on-failure:3
    ports: ["127.0.0.1:{port}:{place.port}"]
    volumes:
      {home}
{_render_after(after_net)}"""
    if gpu:
        text += f"""\
    deploy:
      resources:
        reservations:
          devices: [{{driver: nvidia, device_ids: ["{gpu}"], capabilities: [gpu]}}]
"""
    return text


def _render_submitter(client: str, runs: str, *, after_net: bool = False) -> str:
    return f"""\
  # docker compose exec {SUBMITTER} milepost status
  {SUBMITTER}:
    <<: *container
    command: [sleep, infinity]
    stop_signal: SIGKILL
    environment: {{MILEPOST_NETWORK: /net}}
    volumes:
      {client}
      {runs}
    healthcheck: {{test: [CMD, test, -r, /net/{network.PROFILE}]}}
{_render_after(after_net)}"""


def _render_monitoring(settings: str, *, after_net: bool = False) -> str:
    return f"""\
  # docker compose --profile monitoring up --detach --wait
  prometheus:
    <<: *container
    profiles: [monitoring]
    image: prom/prometheus:v3.5.0
    pull_policy: missing
    user: "65534:65534"
    command: ["--config.file=/etc/milepost/prometheus.yml", "--storage.tsdb.path=/prometheus"]
    ports: ["127.0.0.1:9090:9090"]
    volumes:
      {settings}
      - prometheus:/prometheus
{_render_after(after_net)}
  grafana:
    <<: *container
    profiles: [monitoring]
    image: grafana/grafana:12.2.0
    pull_policy: missing
    user: "472:0"
    environment:
      GF_PATHS_PROVISIONING: /etc/milepost/grafana
      GF_AUTH_ANONYMOUS_ENABLED: "true"
      GF_ANALYTICS_REPORTING_ENABLED: "false"
      GF_ANALYTICS_CHECK_FOR_UPDATES: "false"
    ports: ["127.0.0.1:3000:3000"]
    volumes:
      {settings}
      - grafana:/var/lib/grafana
{_render_after(after_net)}"""


def _render_volumes(*names: str) -> str:
    listed = "".join(f"  {name}:\n" for name in (*names, "prometheus", "grafana"))
    return f"volumes:\n{listed}"
