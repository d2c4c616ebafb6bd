"""The examples keep their promises, in this process and as they are started by their READMEs."""

import ast
import asyncio
import contextlib
import importlib
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import asyncpg
import httpx
import pytest
from conftest import free_port, run_sql
from sqlalchemy import create_engine
from ways import address

from eventstore import sync
from examples.fastapi_orders.app import create_app as create_orders
from examples.flask_bookings import booking
from examples.flask_bookings.app import create_app as create_bookings
from examples.flask_bookings.models import EVENTS

ROOT = Path(__file__).parent.parent

ORDER = {
    "customer": "ada",
    "lines": [{"article": "tea", "pieces": 2, "cents": 450}, {"article": "cup", "pieces": 1, "cents": 1200}],
}
BOOKING = {"room": "blue", "day": "2030-01-15", "starts": 9, "ends": 11, "guest": "ada"}

REFUSE_AT_COMMIT = """
do $do$ begin
    create function refuse() returns trigger language plpgsql as $$ begin raise 'refused at commit'; end $$;
    create constraint trigger refuse after insert or update on {} deferrable initially deferred
    for each row execute function refuse();
end $do$
"""
"""The latest that a transaction can fail: the row and the event are written, and COMMIT is refused."""


# -- orders, on FastAPI


@pytest.fixture
async def orders(database):
    app = create_orders(database)
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://orders") as client:
            yield client


@pytest.fixture
async def outside(database):
    """A connection that belongs to nobody."""
    connection = await asyncpg.connect(database, ssl=False)
    yield connection
    await connection.close()


@pytest.mark.server
async def test_an_order_is_there_as_soon_as_it_is_answered(orders):
    """The row for its readers, the events for its history, and one version for both."""
    placed = await orders.post("/orders", json=ORDER)
    paid = await orders.post(
        f"{placed.headers['Location']}/payment", json={"reference": "p-1"}, headers={"If-Match": placed.headers["ETag"]}
    )
    read = await orders.get(placed.headers["Location"])
    history = await orders.get(f"{placed.headers['Location']}/history")

    assert (placed.status_code, placed.headers["ETag"], placed.json()["cents"]) == (201, '"1"', 2100)
    assert (paid.status_code, paid.headers["ETag"]) == (200, '"2"')
    assert read.json() == paid.json() == placed.json() | {"status": "paid", "version": 2}
    assert read.headers["ETag"] == '"2"'
    assert [(entry["version"], entry["type"]) for entry in history.json()] == [(1, "OrderPlaced"), (2, "OrderPaid")]
    assert history.json()[0]["data"] == ORDER


@pytest.mark.server
async def test_an_order_whose_commit_fails_leaves_neither_row_nor_event(orders, outside):
    """And its key is free: the same request succeeds once the trouble is over."""
    await outside.execute(REFUSE_AT_COMMIT.format("orders"))
    refused = await orders.post("/orders", json=ORDER, headers={"Idempotency-Key": "k"})

    assert refused.status_code == 500
    for table in ("orders", "eventstore.events", "eventstore.requests"):
        assert await outside.fetchval(f"select count(*) from {table}") == 0, table

    await outside.execute("drop trigger refuse on orders")
    placed = await orders.post("/orders", json=ORDER, headers={"Idempotency-Key": "k"})
    assert placed.status_code == 201
    assert (await orders.get(placed.headers["Location"])).json() == placed.json()
    assert await outside.fetchval("select count(*) from eventstore.events") == 1


@pytest.mark.server
async def test_a_change_that_is_refused_leaves_row_and_stream_as_they_were(orders):
    """The rule is looked at after the append, and takes it back."""
    placed = await orders.post("/orders", json=ORDER)
    url = placed.headers["Location"]
    paid = await orders.post(f"{url}/payment", json={"reference": "p-1"}, headers={"If-Match": '"1"'})
    cancelled = await orders.post(f"{url}/cancellation", json={"reason": "late"}, headers={"If-Match": '"2"'})

    assert cancelled.status_code == 409
    assert "only one that is placed" in cancelled.json()["detail"]
    assert (await orders.get(url)).json() == paid.json()
    assert len((await orders.get(f"{url}/history")).json()) == 2


@pytest.mark.server
async def test_of_changes_to_one_version_one_wins_and_the_others_are_told_what_to_do(orders, outside):
    """They all wait for one row before any of them appends."""
    placed = await orders.post("/orders", json=ORDER)
    url = placed.headers["Location"]

    async with outside.transaction():
        await outside.execute("select from orders for update")
        calls = [
            asyncio.create_task(orders.post(f"{url}/payment", json={"reference": f"p-{n}"}, headers={"If-Match": '"1"'}))
            for n in range(5)
        ]
        async with asyncio.timeout(10):
            while await outside.fetchval(WAITING) < len(calls):
                await asyncio.sleep(0.01)
    answers = await asyncio.gather(*calls)

    assert sorted(answer.status_code for answer in answers) == [200, 409, 409, 409, 409]
    lost = next(answer for answer in answers if answer.status_code == 409)
    assert lost.headers["Content-Type"] == "application/problem+json"
    assert lost.headers["ETag"] == '"2"'
    assert (lost.json()["expected"], lost.json()["actual"]) == (1, 2)
    assert "read it again" in lost.json()["detail"]
    assert len((await orders.get(f"{url}/history")).json()) == 2


WAITING = """select count(*) from pg_stat_clear_snapshot(), pg_stat_activity
             where datname = current_database() and wait_event_type = 'Lock'"""


@pytest.mark.server
async def test_an_order_with_a_key_is_placed_once_however_often_it_is_sent(orders, outside):
    """At once and later, also after the order has changed: the same answer."""
    headers = {"Idempotency-Key": "k"}
    answers = await asyncio.gather(*(orders.post("/orders", json=ORDER, headers=headers) for _ in range(6)))
    url = answers[0].headers["Location"]
    await orders.post(f"{url}/payment", json={"reference": "p-1"}, headers={"If-Match": '"1"'})
    answers.append(await orders.post("/orders", json=ORDER, headers=headers))

    assert {answer.status_code for answer in answers} == {201}
    assert {(answer.content, answer.headers["Location"], answer.headers["ETag"]) for answer in answers} == {
        (answers[0].content, url, '"1"')
    }
    assert await outside.fetchval("select count(*) from eventstore.events where type = 'OrderPlaced'") == 1
    assert await outside.fetchval("select count(*) from orders") == 1

    other = await orders.post("/orders", json=ORDER | {"customer": "bob"}, headers=headers)
    assert other.status_code == 422
    assert other.json()["idempotency_key"] == "k"
    assert await outside.fetchval("select count(*) from orders") == 1


HANG_UP = """select count(pg_terminate_backend(pid, 5000)) from pg_stat_activity
             where datname = current_database() and pid <> pg_backend_pid()"""


@pytest.mark.server
async def test_lost_connections_are_an_answer_to_try_again_and_trying_again_helps(orders, outside):
    """The server hangs up on all of them at once; the order is placed once."""
    headers = {"Idempotency-Key": "k"}
    first = await orders.post("/orders", json=ORDER, headers=headers)
    await outside.fetchval(HANG_UP)
    read = await orders.get(first.headers["Location"])
    assert (read.status_code, read.headers["Retry-After"]) == (503, "1")
    await outside.fetchval(HANG_UP)
    answers = [await orders.post("/orders", json=ORDER, headers=headers) for _ in range(2)]

    assert answers[-1].status_code == 201
    assert answers[-1].content == first.content
    assert await outside.fetchval("select count(*) from eventstore.events") == 1


@pytest.mark.server
@pytest.mark.parametrize(
    ("status", "method", "path", "headers", "body"),
    [
        (428, "POST", "/payment", {}, {"reference": "p-1"}),
        (400, "POST", "/payment", {"If-Match": "*"}, {"reference": "p-1"}),
        (409, "POST", "/payment", {"If-Match": '"7"'}, {"reference": "p-1"}),
        (422, "POST", "/payment", {"If-Match": '"1"'}, {"reference": "a\u0000b"}),
        (422, "POST", "/cancellation", {"If-Match": '"1"'}, {}),
        (404, "POST", "/nothing", {}, {}),
    ],
)
async def test_a_request_that_cannot_be_served_is_told_why(orders, status, method, path, headers, body):
    """And changes nothing."""
    placed = await orders.post("/orders", json=ORDER)
    url = placed.headers["Location"]
    answer = await orders.request(method, url + path, json=body, headers=headers)

    assert answer.status_code == status
    assert answer.json()["detail"]
    assert (await orders.get(url)).json() == placed.json()


@pytest.mark.server
async def test_an_order_that_is_not_there_is_not_found(orders):
    """By none of its addresses."""
    url = f"/orders/{uuid.uuid4()}"
    paid = await orders.post(f"{url}/payment", json={"reference": "p"}, headers={"If-Match": '"1"'})

    assert [paid.status_code, (await orders.get(url)).status_code, (await orders.get(f"{url}/history")).status_code] == [
        404
    ] * 3


# -- bookings, on Flask


@pytest.fixture
def bookings(database):
    engine = create_engine(address(database, "psycopg"))
    with sync.EventStore(database, events=EVENTS) as store:
        yield create_bookings(store, engine)
    engine.dispose()


@pytest.fixture
def client(bookings):
    return bookings.test_client()


def together(app, monkeypatch, wanted):
    """Send all at once; each has seen the day empty before any of them appends."""
    barrier = threading.Barrier(len(wanted), timeout=10)
    check = booking.Day.check

    def check_together(day, one):
        if day.version == 0:
            barrier.wait()
        check(day, one)

    monkeypatch.setattr(booking.Day, "check", check_together)
    with ThreadPoolExecutor(len(wanted)) as threads:
        return list(threads.map(lambda one: app.test_client().post("/bookings", json=one), wanted))


@pytest.mark.server
def test_of_bookings_of_one_room_at_one_time_exactly_one_wins(bookings, client, monkeypatch):
    """The others are told which hours are taken."""
    answers = together(bookings, monkeypatch, [BOOKING | {"guest": f"guest {n}"} for n in range(5)])

    assert sorted(answer.status_code for answer in answers) == [201, 409, 409, 409, 409]
    lost = next(answer for answer in answers if answer.status_code == 409)
    assert (lost.json["starts"], lost.json["ends"]) == (9, 11)
    won = next(answer for answer in answers if answer.status_code == 201)
    assert client.get("/rooms/blue/2030-01-15").json == [won.json]
    assert [entry["data"]["guest"] for entry in client.get("/rooms/blue/2030-01-15/history").json] == [won.json["guest"]]


@pytest.mark.server
def test_bookings_of_one_room_that_do_not_overlap_all_win(bookings, client, monkeypatch):
    """Who was overtaken decides again, on the day as it is then."""
    wanted = [BOOKING | {"starts": hour, "ends": hour + 1} for hour in range(8, 13)]
    answers = together(bookings, monkeypatch, wanted)

    assert [answer.status_code for answer in answers] == [201] * 5
    assert [row["starts"] for row in client.get("/rooms/blue/2030-01-15").json] == [8, 9, 10, 11, 12]
    assert [entry["version"] for entry in client.get("/rooms/blue/2030-01-15/history").json] == [1, 2, 3, 4, 5]


@pytest.mark.server
def test_a_booking_whose_commit_fails_leaves_neither_row_nor_event(database, bookings, client):
    """And its key is free."""
    run_sql(database, REFUSE_AT_COMMIT.format("bookings"))
    refused = client.post("/bookings", json=BOOKING, headers={"Idempotency-Key": "k"})

    assert refused.status_code == 500
    for table in ("bookings", "eventstore.events", "eventstore.requests"):
        assert run_sql(database, f"select count(*) from {table}") == 0, table

    run_sql(database, "drop trigger refuse on bookings")
    assert client.post("/bookings", json=BOOKING, headers={"Idempotency-Key": "k"}).status_code == 201
    assert len(client.get("/rooms/blue/2030-01-15").json) == 1


@pytest.mark.server
def test_a_booking_with_a_key_is_made_once_however_often_it_is_sent(client):
    """It is not in its own way, not even after it was cancelled."""
    headers = {"Idempotency-Key": "k"}
    first = client.post("/bookings", json=BOOKING, headers=headers)
    again = client.post("/bookings", json=BOOKING, headers=headers)
    assert client.delete(first.headers["Location"]).status_code == 204
    later = client.post("/bookings", json=BOOKING, headers=headers)

    assert [first.status_code, again.status_code, later.status_code] == [201] * 3
    assert first.data == again.data == later.data
    assert first.headers["Location"] == again.headers["Location"] == later.headers["Location"]
    assert client.get("/rooms/blue/2030-01-15").json == []
    for other in ({"guest": "bob"}, {"ends": 12}, {"room": "green"}, {"day": "2030-01-16"}):
        mismatch = client.post("/bookings", json=BOOKING | other, headers=headers)
        assert (mismatch.status_code, mismatch.json["idempotency_key"]) == (422, "k")


@pytest.mark.server
def test_lost_connections_are_an_answer_to_try_again_and_trying_again_helps_here_too(database, client):
    """The server hangs up on all of them at once."""
    made = client.post("/bookings", json=BOOKING, headers={"Idempotency-Key": "k"})
    run_sql(database, HANG_UP)
    read = client.get(made.headers["Location"])

    assert (read.status_code, read.headers["Retry-After"]) == (503, "1")
    assert client.get(made.headers["Location"]).json == made.json
    assert client.post("/bookings", json=BOOKING, headers={"Idempotency-Key": "k"}).data == made.data


@pytest.mark.server
def test_cancelled_hours_are_free_again(client):
    """Cancelled once or twice; the history keeps it all."""
    made = client.post("/bookings", json=BOOKING)
    assert client.post("/bookings", json=BOOKING).status_code == 409
    for _ in range(2):
        assert client.delete(made.headers["Location"]).status_code == 204
    second = client.post("/bookings", json=BOOKING | {"guest": "bob"})

    assert second.status_code == 201
    assert client.get(made.headers["Location"]).json == made.json | {"cancelled": True}
    history = client.get("/rooms/blue/2030-01-15/history").json
    assert [entry["type"] for entry in history] == ["RoomBooked", "BookingCancelled", "RoomBooked"]


@pytest.mark.server
@pytest.mark.parametrize(
    "change", [{"starts": 11}, {"ends": 25}, {"room": "no such/room"}, {"day": "soon"}, {"guest": ""}, {"guest": "a\u0000"}]
)
def test_a_booking_that_makes_no_sense_is_refused(client, change):
    """By what is wrong with it."""
    answer = client.post("/bookings", json=BOOKING | change)

    assert answer.status_code == 422
    assert answer.json["errors"]


@pytest.mark.server
@pytest.mark.parametrize(
    "path",
    [
        "/rooms/blue/someday",
        "/rooms/a%00b/2030-01-15",
        "/rooms/blue/someday/history",
        f"/rooms/{'x' * 300}/2030-01-15/history",
    ],
)
def test_a_day_that_cannot_be_is_refused(client, path):
    """Before the database is asked."""
    answer = client.get(path)

    assert answer.status_code == 422
    assert answer.json["errors"]


# -- as they are written and started


def test_the_examples_use_what_is_public():
    """Whoever copies from them depends on nothing that may change any day."""
    for path in (ROOT / "examples").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "eventstore":
                assert not any(part.startswith("_") for part in node.module.split(".")), path
                module = importlib.import_module(node.module)
                assert {alias.name for alias in node.names} <= set(module.__all__), path


@contextlib.contextmanager
def started(example, log, *arguments):
    """The example as a process of its own, on a private server; gives its address."""
    port = free_port()
    environment = {k: v for k, v in os.environ.items() if not k.startswith("EVENTSTORE_") or k == "EVENTSTORE_CACHE_DIR"}
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", f"examples.{example}", *arguments],
            cwd=ROOT,
            env=environment | {"PORT": str(port), "PYTHONUNBUFFERED": "1"},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        url, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 60
        while True:
            with contextlib.suppress(httpx.TransportError):
                httpx.get(url)
                break
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        yield url
        process.send_signal(signal.SIGTERM)
        process.wait(30)
    finally:
        with contextlib.suppress(ProcessLookupError):  # workers that hang go with their parent
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)


def send(url, command):
    """Do what a curl line of a README says; return the answer."""
    method, headers, body, target = None, {}, None, None
    words = iter(shlex.split(command)[1:])
    for word in words:
        if word == "-X":
            method = next(words)
        elif word == "-H":
            name, _, value = next(words).partition(": ")
            headers[name] = value
        elif word == "--json":
            body, headers["Content-Type"] = next(words), "application/json"
        elif word != "-i":
            assert target is None, command
            target = word.replace("localhost:8000", url)
    return httpx.request(method or ("POST" if body else "GET"), target, headers=headers, content=body)


def check_readme(example, url):
    """Every curl line of the README is answered with the status that stands above it."""
    text = (ROOT / "examples" / example / "README.md").read_text()
    lines = re.findall(r"^# (\d{3})\b.*\n(curl (?:.*\\\n)*.*)", text, re.MULTILINE)
    assert len(lines) == text.count("\ncurl ") >= 6
    for status, command in lines:
        answer = send(url, command.replace("\\\n", " "))
        assert answer.status_code == int(status), (command, answer.text)


def test_the_orders_readme_is_true_of_the_started_service(tmp_path):
    """On the private server, over HTTP."""
    with started("fastapi_orders", tmp_path / "log") as url:
        check_readme("fastapi_orders", url)


def test_the_bookings_readme_is_true_of_forked_workers(tmp_path):
    """One store, opened before the fork, serves in both workers; they share what is booked, and give a room away once."""
    log = tmp_path / "log"
    with started("flask_bookings", log, "--access-logfile=-", "--access-logformat=worker %(p)s") as url:
        check_readme("flask_bookings", url)

        def ask(n):
            return httpx.post(
                f"{url}/bookings", json=BOOKING | {"room": f"room_{n // 8}", "guest": f"guest {n}"}
            ).status_code

        workers, room, deadline = set(), 0, time.monotonic() + 60
        with ThreadPoolExecutor(8) as threads:
            while room < 5 or len(workers) < 2:
                statuses = list(threads.map(ask, range(room * 8, room * 8 + 8)))
                assert sorted(statuses) == [201, *[409] * 7]
                workers, room = set(re.findall(r"worker (\S+)", log.read_text())), room + 1
                assert time.monotonic() < deadline, log.read_text()
    assert "Traceback" not in log.read_text()
