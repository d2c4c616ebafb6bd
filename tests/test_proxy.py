"""The proxy does to real connections what it says, and nothing else."""

import asyncio
import hashlib
import socket
import time
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import psycopg
import pytest

from eventstore.testing import COMMIT, Link, Proxy, Rule

pytestmark = pytest.mark.server

LOST = (OSError, asyncpg.PostgresConnectionError, asyncpg.InterfaceError)
SHORT = 0.3
"""Seconds to wait for what must not come."""


@pytest.fixture
async def proxy(database):
    async with Proxy(database) as made:
        yield made


@pytest.fixture
async def connect(proxy):
    """Open connections through the proxy by their names; closed at the end, by force."""
    opened = []

    async def go(name="test"):
        opened.append(await asyncpg.connect(proxy.url, server_settings={"application_name": name}, timeout=10))
        return opened[-1]

    yield go
    for connection in opened:
        connection.terminate()


@pytest.fixture
async def direct(database):
    """A connection that goes around the proxy, with a table t."""
    connection = await asyncpg.connect(database, ssl=False)
    await connection.execute("create table t (n int)")
    yield connection
    await connection.close()


def opening(database):
    """A StartupMessage."""
    text = b"\0\x03\0\0user\0postgres\0database\0" + database.encode() + b"\0\0"
    return (len(text) + 4).to_bytes(4, "big") + text


async def begin_insert(connection, n):
    transaction = connection.transaction()
    await transaction.start()
    await connection.execute(f"insert into t values ({n})")
    return transaction


async def gone(direct, pid):
    """Wait until the server has ended a backend: only then is its transaction decided."""
    async with asyncio.timeout(20):
        while await direct.fetchval("select count(*) from pg_stat_activity where pid = $1", pid):
            await asyncio.sleep(0.005)


async def test_a_connection_through_the_proxy_works_as_one_without(proxy, connect):
    """And the proxy knows its name and its server process."""
    connection = await connect("app read")

    rows = await connection.fetch("select n, repeat('x', n) from generate_series(1, 1000) n")

    assert [len(row[1]) for row in rows] == list(range(1, 1001))
    (link,) = proxy.links("read")
    assert (link.application_name, link.pid) == ("app read", connection.get_server_pid())
    assert proxy.links("write") == []


async def test_a_closed_connection_is_no_link_any_more(proxy, connect, direct):
    """The server hears of it too."""
    connection = await connect()
    await connection.close()

    await proxy.wait_until(lambda: not proxy.links())
    await gone(direct, connection.get_server_pid())


async def test_clients_that_ask_for_encryption_are_told_no_and_go_on(proxy):
    """As psycopg does if it prefers TLS."""

    def go():
        with psycopg.connect(proxy.url.replace("sslmode=disable", "sslmode=prefer")) as connection:
            return connection.execute("select 1").fetchone()

    assert await asyncio.to_thread(go) == (1,)


async def test_notifications_are_dropped_while_queries_go_on(proxy, connect, direct):
    """Only on the connection that is named, and only until healed."""
    heard = {"listen": [], "other": []}
    connections = {name: await connect(name) for name in heard}
    for name, connection in connections.items():
        await connection.add_listener("c", lambda *args, name=name: heard[name].append(args[3]))
    proxy.drop("A", name="listen")

    await direct.execute("notify c, 'one'")
    await proxy.wait_until(lambda: proxy.dropped("A") == 1)
    assert await connections["listen"].fetchval("select 7") == 7
    proxy.heal()
    await direct.execute("notify c, 'two'")
    while len(heard["other"]) < 2 or not heard["listen"]:
        await asyncio.sleep(0.005)

    assert heard == {"listen": ["two"], "other": ["one", "two"]}
    assert proxy.dropped("A") == 1
    for connection in connections.values():
        await connection.reset()


async def test_messages_to_the_server_can_be_dropped(proxy, connect):
    """A polite goodbye, for one; the letters of the other direction are not meant."""
    connection = await connect()
    proxy.drop("X", to="server")
    proxy.drop("T", to="server")

    assert await connection.fetchval("select 7") == 7
    with pytest.raises(TimeoutError):
        await connection.close(timeout=SHORT)

    await proxy.wait_until(lambda: proxy.dropped("X", to="server") == 1)
    assert proxy.dropped("XT") == 0


async def test_a_black_hole_swallows_one_connection_and_closes_nothing(proxy, connect):
    """The one named; another works."""
    dead, live = await connect("listen"), await connect("other")
    proxy.black_hole("listen")

    with pytest.raises(TimeoutError):
        await dead.fetchval("select 1", timeout=SHORT)

    assert await live.fetchval("select 7") == 7
    assert not dead.is_closed()
    assert len(proxy.links("listen")) == 1


async def test_through_a_black_hole_nobody_hears_that_the_other_side_has_hung_up(proxy, connect, direct):
    """Each side keeps its half until it looks for itself."""
    server_ends, client_ends = await connect("server ends"), await connect("client ends")
    pid = client_ends.get_server_pid()
    proxy.black_hole("ends")

    await direct.fetchval("select pg_terminate_backend($1, 10000)", server_ends.get_server_pid())
    client_ends.terminate()
    await asyncio.sleep(SHORT)

    assert not server_ends.is_closed()
    assert await direct.fetchval("select count(*) from pg_stat_activity where pid = $1", pid) == 1
    assert proxy.cut("ends") == 2
    await gone(direct, pid)


@pytest.mark.parametrize(("to", "rows"), [("client", 1), ("server", 0)])
async def test_a_one_way_black_hole_swallows_one_way_only(proxy, connect, direct, to, rows):
    """The request arrives if only answers are swallowed, and does not if requests are."""
    connection = await connect()
    proxy.black_hole(to=to)

    with pytest.raises(TimeoutError):
        await connection.execute("insert into t values (1)", timeout=SHORT)

    assert await direct.fetchval("select count(*) from t") == rows


async def test_a_new_connection_into_a_black_hole_gets_no_answer(proxy, direct):
    """The port answers, nobody speaks; the server has not heard who it is."""
    proxy.black_hole()

    with pytest.raises(TimeoutError):
        await asyncpg.connect(proxy.url, timeout=SHORT)

    count = "select count(*) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
    assert await direct.fetchval(count) == 0


async def test_a_healed_black_hole_gives_back_who_was_silent_and_not_who_lost_bytes(proxy, connect):
    """A stream with a gap is none."""
    silent, lost = await connect("silent"), await connect("lost")
    proxy.black_hole()
    with pytest.raises(TimeoutError):
        await lost.fetchval("select 1", timeout=SHORT)
    proxy.heal()

    assert await silent.fetchval("select 7") == 7
    assert await (await connect("new")).fetchval("select 7") == 7
    with pytest.raises((TimeoutError, *LOST)):
        await lost.fetchval("select 1", timeout=SHORT)


async def test_cut_aborts_what_is_open_now(proxy, connect, direct):
    """Both sides find out; new connections are made."""
    cut, spared = await connect("cut"), await connect("spared")
    await begin_insert(cut, 1)

    assert proxy.cut("cut") == 1

    with pytest.raises(LOST):
        await cut.fetchval("select 1")
    await gone(direct, cut.get_server_pid())
    assert await spared.fetchval("select count(*) from t") == 0
    assert len(proxy.links()) == 1
    await connect("cut")


async def test_refused_connections_are_closed_at_once_until_healed(proxy, connect):
    """Those that are open stay."""
    before = await connect()
    proxy.refuse()

    with pytest.raises(LOST):
        await connect()
    reader, mute = await asyncio.open_connection("127.0.0.1", urlsplit(proxy.url).port)
    assert await asyncio.wait_for(reader.read(), 10) == b""
    mute.close()
    assert await before.fetchval("select 7") == 7
    proxy.heal()
    await connect()


async def test_a_name_is_refused_alone(proxy, connect):
    """Another gets in."""
    proxy.refuse("listen")

    with pytest.raises(LOST):
        await connect("app listen")
    await connect("app read")


async def test_a_commit_cut_before_it_arrives_has_not_happened(proxy, connect, direct):
    """The client gets a connection error, and the row is not there; the next commit is left alone."""
    connection = await connect()
    transaction = await begin_insert(connection, 1)
    strike = proxy.cut_when(COMMIT, forward=False)

    with pytest.raises(LOST):
        await transaction.commit()
    await strike.wait()
    await gone(direct, connection.get_server_pid())

    assert await direct.fetchval("select count(*) from t") == 0
    await (await begin_insert(await connect(), 2)).commit()
    assert (strike.count, await direct.fetchval("select n from t")) == (1, 2)


async def test_a_commit_cut_after_the_server_has_answered_has_happened(proxy, connect, direct):
    """The row is there the moment that the cut is known, and the client got a connection error."""
    connection = await connect()
    transaction = await begin_insert(connection, 1)
    strike = proxy.cut_when(COMMIT, forward=True)
    outcome = asyncio.ensure_future(transaction.commit())

    await strike.wait()
    assert await direct.fetchval("select count(*) from t") == 1
    with pytest.raises(LOST):
        await outcome
    assert strike.count == 1


@pytest.mark.parametrize("pipeline", [False, True])
async def test_psycopgs_commit_is_cut_too(proxy, direct, pipeline):
    """As a simple query, and in the extended protocol behind answers that the client is still owed."""
    strike = proxy.cut_when(COMMIT, forward=True)
    answers = []

    def go():
        with psycopg.connect(proxy.url) as connection:
            if not pipeline:
                answers.append(connection.execute("insert into t values (1) returning n").fetchone())
                connection.commit()
                return
            with connection.pipeline() as pipe:
                first = connection.execute("insert into t values (1) returning n")
                pipe.sync()
                answers.append(first.fetchone())
                connection.commit()

    with pytest.raises(psycopg.OperationalError):
        await asyncio.to_thread(go)
    await strike.wait()

    assert answers == [(1,)]
    assert await direct.fetchval("select count(*) from t") == 1


def packet(letter, text):
    return letter + (len(text) + 4).to_bytes(4, "big") + text


def simple(sql):
    return packet(b"Q", sql + b"\0")


def extended(sql):
    return packet(b"P", b"\0" + sql + b"\0\0\0") + packet(b"B", bytes(8)) + packet(b"E", bytes(5)) + packet(b"S", b"")


@pytest.mark.parametrize(
    ("encode", "last"),
    [
        (simple, b"insert into t values (3); select 'three', repeat('x', 99999); select pg_sleep(0.3)"),
        (extended, b"insert into t select 3 from pg_sleep(0.2) returning 'three'"),
    ],
)
async def test_a_cut_waits_for_the_matching_answer_and_delivers_earlier_ones(proxy, direct, encode, last):
    """Three requests sent at once, the last is the one, and it takes long: the first two answers arrive whole, though they
    are read after the cut; of the third comes nothing, but it has been done.
    """
    strike = proxy.cut_when(Rule("server", "QP", b"three"), forward=True)
    with socket.create_connection(("127.0.0.1", urlsplit(proxy.url).port)) as client:
        client.sendall(opening(urlsplit(proxy.url).path[1:]))
        client.sendall(b"".join(encode(text) for text in (b"select 'one'", b"select 'two'", last)))

        await strike.wait()
        rows = await direct.fetchval("select count(*) from t")
        received = b"".join(iter(lambda: client.recv(65536), b""))

    assert rows == 1
    assert received.count(b"Z\0\0\0\x05I") == 3  # the start-up's and two
    assert b"two" in received
    assert b"three" not in received


async def test_a_dropped_answer_counts_as_given(proxy):
    """A cut after a later request strikes at that one's answer."""
    proxy.drop("Z")
    strike = proxy.cut_when(Rule("server", "Q", b"two"), forward=True)
    with socket.create_connection(("127.0.0.1", urlsplit(proxy.url).port)) as client:
        client.sendall(opening(urlsplit(proxy.url).path[1:]) + simple(b"select 'one'") + simple(b"select 'two'"))
        await strike.wait(seconds=5)

    assert strike.count == 1


async def test_a_cut_at_a_servers_message_comes_before_or_after_it(proxy, connect):
    """Forwarded, the client has it; else not."""
    for forward, heard in ((False, []), (True, ["seven"])):
        connection = await connect()
        seen = []
        connection.add_log_listener(lambda _, message, seen=seen: seen.append(message.message))
        proxy.cut_when(Rule("client", "N", b"seven"), forward=forward)
        with pytest.raises(LOST):
            await connection.execute("do $$ begin raise notice 'seven'; perform pg_sleep(0.5); end $$", timeout=5)
        assert seen == heard


async def test_a_rule_means_direction_type_and_content_of_its_named_connections(proxy, connect):
    """What matches in all but one respect passes."""
    connection = await connect("other")
    strikes = [
        proxy.cut_when(Rule("client", "Q", b"needle"), forward=False),
        proxy.cut_when(Rule("server", "D", b"needle"), forward=False),
        proxy.cut_when(Rule("server", "Q", b"Needle"), forward=False),
        proxy.cut_when(Rule("server", "Q", b"needle"), forward=False, name="named"),
    ]

    await connection.execute("select 'needle'")
    with pytest.raises(LOST):
        await (await connect("named")).execute("select 'needle'")

    assert [strike.count for strike in strikes] == [0, 0, 0, 1]


async def test_a_lasting_cut_strikes_again_until_healed(proxy, connect):
    """With once=False."""
    strike = proxy.cut_when(Rule("server", "Q", b"needle"), forward=False, once=False)

    for _ in range(2):
        with pytest.raises(LOST):
            await (await connect()).execute("select 'needle'")
    proxy.heal()
    await (await connect()).execute("select 'needle'")

    assert strike.count == 2


async def test_a_slow_network_takes_its_time_and_loses_nothing(proxy, connect):
    """Each message is late, there and back."""
    slow, quick = await connect("slow"), await connect("quick")
    proxy.slow(0.05, name="slow")

    begun = time.monotonic()
    await slow.execute("select 1")  # Query; RowDescription, DataRow, CommandComplete, ReadyForQuery
    took = time.monotonic() - begun
    begun = time.monotonic()
    await quick.execute("select 1")
    proxy.heal()
    await slow.execute("select 1")

    assert took >= 5 * 0.05
    assert time.monotonic() - begun < 0.2


async def test_chunks_of_a_byte_carry_a_megabyte_unchanged(proxy, connect):
    """Both ways: 1,000,000 bytes there in one-byte pieces, a digest back; and a longer value back in pieces of seven."""
    connection = await connect()
    value = bytes(range(256)) * 3907
    proxy.chunk(1)
    assert await connection.fetchval("select encode(sha256($1), 'hex')", value) == hashlib.sha256(value).hexdigest()

    proxy.heal()
    proxy.chunk(7)
    assert await connection.fetchval("select $1::bytea", value) == value


async def test_chunks_reach_the_client_in_pieces(proxy):
    """A client of this process reads no message at once."""
    proxy.chunk(1)
    reader, writer = await asyncio.open_connection("127.0.0.1", urlsplit(proxy.url).port)
    writer.write(opening("no-such-database"))

    sizes = []
    while piece := await reader.read(65536):
        sizes.append(len(piece))
    writer.close()

    assert sum(sizes) > 20
    assert max(sizes) < 5


async def test_a_cancelled_statement_is_cancelled_on_the_server(proxy, connect, direct):
    """The cancel request comes on a connection of its own and passes through."""
    connection = await connect()

    with pytest.raises(TimeoutError):
        await connection.execute("select pg_sleep(60)", timeout=SHORT)

    assert await connection.fetchval("select 7") == 7
    assert (
        await direct.fetchval(
            "select count(*) from pg_stat_activity where query like '%pg_sleep(60)%' and pid <> pg_backend_pid()"
        )
        == 0
    )


async def test_a_cancel_request_falls_into_its_sessions_black_hole(proxy, connect, direct):
    """It takes the same way through the network as the session that it is about."""
    connection = await connect("listen")
    running = asyncio.ensure_future(connection.execute("select pg_sleep(60)"))
    sql = "select count(*) from pg_stat_activity where query = 'select pg_sleep(60)' and state = 'active'"
    while not await direct.fetchval(sql):
        await asyncio.sleep(0.005)
    proxy.black_hole("listen")

    running.cancel()
    await asyncio.sleep(SHORT)

    assert await direct.fetchval(sql) == 1
    await direct.fetchval("select pg_terminate_backend($1, 10000)", connection.get_server_pid())


async def test_a_reader_that_does_not_read_stops_the_server(proxy, connect):
    """The proxy holds no more than its limit."""
    connection = await connect()
    connection._transport.pause_reading()
    answer = asyncio.ensure_future(connection.execute("select repeat('x', 10000) from generate_series(1, 5000)"))
    await asyncio.sleep(0)
    (link,) = proxy.links()

    async with asyncio.timeout(10):
        while not link._sides["server"][0]._paused:
            await asyncio.sleep(0.01)
    assert link._sides["client"][1].transport.get_write_buffer_size() < 2**20
    connection._transport.resume_reading()

    assert await answer == "SELECT 5000"


async def test_a_server_that_is_not_there_closes_the_connection():
    """The client gets an error, the proxy lives."""
    async with Proxy("postgresql://postgres@/postgres?host=/nowhere") as proxy:
        with pytest.raises(LOST):
            await asyncpg.connect(proxy.url, timeout=5)


async def test_a_bug_of_the_proxy_fails_the_test(database, monkeypatch):
    """A link that ends for no reason of the network's is not taken for a fault."""

    async def broken(link):
        raise RuntimeError("a bug")

    monkeypatch.setattr(Link, "run", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        async with Proxy(database) as proxy:
            with pytest.raises(LOST):
                await asyncpg.connect(proxy.url, timeout=5)


async def test_at_the_end_neither_task_nor_socket_is_left(database):
    """Whatever the links are doing: idle, in a black hole, about to be cut, without a word."""
    before, files = asyncio.all_tasks(), open_sockets()
    async with Proxy(database) as proxy:
        opened = [
            await asyncpg.connect(proxy.url, server_settings={"application_name": name}) for name in ("idle", "hole", "cut")
        ]
        _, mute = await asyncio.open_connection("127.0.0.1", urlsplit(proxy.url).port)
        proxy.black_hole("hole")
        proxy.cut_when(Rule("server", "Q", b"sleep"), forward=True, name="cut")
        statements = [asyncio.ensure_future(connection.execute("select pg_sleep(0.5)")) for connection in opened[1:]]
        await asyncio.sleep(0.05)
    assert asyncio.all_tasks() - set(statements) == before
    for outcome in await asyncio.gather(*statements, return_exceptions=True):
        assert isinstance(outcome, LOST)
    mute.close()
    for connection in opened:
        connection.terminate()
    await asyncio.sleep(0.05)

    assert open_sockets() == files
    assert proxy.links() == []


def open_sockets():
    folder = Path("/proc/self/fd")
    if not folder.exists():
        return set()
    return {entry.name for entry in folder.iterdir() if entry.is_symlink() and entry.readlink().name.startswith("socket:")}
