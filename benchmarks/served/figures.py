"""The four figures of `myvlm serve`: overhead, many owners, overload, and hostile requests."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from myvlm import MyVLM
from myvlm.heads.features import forget_pictures
from myvlm.serving.http.app import create_app, running
from myvlm.serving.http.limits import Limits
from myvlm.serving.http.owners import Access, Tokens, digest
from myvlm.tinyworld import sample_picture
from served.hostile import bad_requests, refused_all, watched
from served.load import MODEL, Fresh, Server, asked_by, hammer, libraries, messages, serving, shown

console = Console(stderr=True)
CLIENTS = 16
PICTURES = 32
"""Number of pictures in a round of `served`."""


def served(seconds: float) -> dict[str, Any]:
    """`served_over_direct`: requests per second of 16 clients over those of `vlm.caption(picture)` in a loop.

    Both sides alternate on the same pictures, which are new to each process. The server is a process of its
    own; its clients run in this one, on the same cores. `served_over_batched` compares with one call for all
    pictures.
    """
    with tempfile.TemporaryDirectory() as folder, serving(_place(folder, 1), ["o0"]) as server:
        vlm = MyVLM.from_pretrained(MODEL, concepts=Path(folder) / "people" / "o0")
        warm = shown(CLIENTS, seed=99)
        vlm.caption(warm)
        asked_by(server, "o0", [messages(one) for one in warm], CLIENTS)
        begun, rounds = time.monotonic(), []
        while not rounds or time.monotonic() < begun + seconds:
            seen = shown(PICTURES, seed=len(rounds))
            asked = [messages(one) for one in seen]
            forget_pictures()
            alone = _timed(lambda seen=seen: [vlm.caption(one) for one in seen])
            forget_pictures()
            together = _timed(lambda seen=seen: vlm.caption(seen))
            over = _timed(lambda asked=asked: asked_by(server, "o0", asked, CLIENTS))
            rounds.append((alone / over, together / over, PICTURES / over))
            console.print(f"served: {rounds[-1][0]:.2f} of direct, {rounds[-1][2]:.1f} a second")
    each = [statistics.median(values) for values in zip(*rounds, strict=True)]
    return {
        "served_over_direct": round(each[0], 3),
        "served_over_batched": round(each[1], 3),
        "served_requests_a_second": round(each[2], 2),
        "served_rounds": len(rounds),
    }


def tenants(seconds: float, owners: int) -> dict[str, Any]:
    """`tenants`: requests per second of random owners of ten concepts each, over those of one owner.

    One server has all owners. Requests of one owner and of all alternate, always with pictures that are new
    to the server. `tenants_by_cpu` is the same by the server's CPU seconds, which other work on the machine
    does not affect. Every reply is searched for names of other owners' concepts.
    """
    names, body = [f"o{number}" for number in range(owners)], Fresh(256)
    done: dict[str, int] = defaultdict(int)
    wall: dict[str, float] = defaultdict(float)
    cpu: dict[str, float] = defaultdict(float)
    with tempfile.TemporaryDirectory() as folder, serving(_place(folder, owners), names) as server:
        hammer(server, names, body, clients=CLIENTS, seconds=min(seconds, 10))
        memory, leaks, failed = [round(server.mib)], 0, 0
        for name in ("one", "all", "all", "one") * 2:
            begun, used = time.monotonic(), server.cpu_seconds
            asking = names[:1] if name == "one" else names
            statuses = hammer(server, asking, body, clients=CLIENTS, seconds=seconds / 8)
            done[name] += statuses[200]
            wall[name] += time.monotonic() - begun
            cpu[name] += server.cpu_seconds - used
            leaks += statuses[1200]
            failed += sum(n for status, n in statuses.items() if status not in (200, 429, 1200))
            memory.append(round(server.mib))
            rate, each = done[name] / wall[name], cpu[name] / done[name]
            console.print(f"tenants: {name} {rate:.2f} a second, {each:.3f} s of a core, {memory[-1]} MiB")
    return {
        "tenants": round(done["all"] / wall["all"] / (done["one"] / wall["one"]), 3),
        "tenants_by_cpu": round(cpu["one"] / done["one"] / (cpu["all"] / done["all"]), 3),
        "tenants_requests": dict(done),
        "tenants_cpu_seconds_a_request": {name: round(cpu[name] / done[name], 3) for name in cpu},
        "tenants_leaks": leaks,
        "tenants_failed": failed,
        "tenants_memory_mib": memory,
        "tenants_owners": owners,
    }


def overload(seconds: float) -> dict[str, Any]:
    """`overload`: ten times as many clients as the queue has room for, then the normal number again.

    `overload_cpu_before_over_after` compares the server's CPU seconds per request, which other work on the
    machine does not affect.
    """
    body = Fresh(128)
    with (
        tempfile.TemporaryDirectory() as folder,
        serving(_place(folder, 1), ["o0"], "--requests", str(CLIENTS)) as server,
    ):
        hammer(server, ["o0"], body, clients=CLIENTS, seconds=min(seconds, 10))
        before = _rate(server, body, seconds / 4)
        memory = [round(server.mib)]
        statuses = hammer(server, ["o0"], body, clients=10 * CLIENTS, seconds=seconds)
        memory.append(round(server.mib))
        after = _rate(server, body, seconds / 4)
        memory.append(round(server.mib))
    return {
        "overload": sum(statuses[one] for one in (200, 429)) / sum(statuses.values()),
        "overload_statuses": {str(status): count for status, count in sorted(statuses.items())},
        "overload_rate_after_over_before": round(after[0] / before[0], 3),
        "overload_cpu_before_over_after": round(before[1] / after[1], 3),
        "overload_memory_mib": memory,
    }


def hostile() -> dict[str, Any]:
    """`hostile`: how many bad requests got a 4xx, of how many; what they made the server open; if it still
    runs."""
    vlm = MyVLM.from_pretrained(MODEL, device="cpu")
    limits = Limits(body_bytes=4 * 2**20)
    with tempfile.TemporaryDirectory() as folder:
        canary = Path(folder) / "secret" / "canary.png"
        canary.parent.mkdir()
        sample_picture(1).save(canary)
        libraries(Path(folder) / "people", ["ulmo"], concepts=1)
        tokens = Tokens({digest("token"): Access("ulmo", may_change=True)})
        app = create_app(vlm, tokens, {"ulmo": Path(folder) / "people" / "ulmo"}, limits=limits)
        with running(app) as url:
            bad = bad_requests(canary, "http://127.0.0.1:9", limits.body_bytes)
            port = url.rsplit(":", 1)[1].partition("/")[0]
            with watched() as touched:
                statuses = refused_all(url, "token", bad)
            forbidden = ("canary", "secret", "passwd", "environ", "/dev/", "win.ini", ".ssh")
            read = [one for one in touched if any(word in one for word in forbidden)]
            read += [one for one in touched if one.startswith("connect") and port not in one]
            server = Server(url, None, {"ulmo": "token"})  # type: ignore[arg-type]
            alive = bool(asked_by(server, "ulmo", [messages(sample_picture(1))], 1)[0])
    others = {why: status for why, status in statuses.items() if not 400 <= status < 500}
    return {
        "hostile": len(statuses) - len(others),
        "hostile_of": len(statuses),
        "hostile_others": others,
        "hostile_read": read,
        "hostile_alive": alive,
    }


def _place(folder: str, owners: int) -> Path:
    place = Path(folder) / "people"
    libraries(place, [f"o{number}" for number in range(owners)])
    return place


def _timed(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def _rate(server: Server, body: Callable[[], Any], seconds: float) -> tuple[float, float]:
    """Requests per second, and CPU seconds per request."""
    begun, used = time.monotonic(), server.cpu_seconds
    done = hammer(server, ["o0"], body, clients=CLIENTS, seconds=seconds)[200]
    return done / (time.monotonic() - begun), (server.cpu_seconds - used) / done
