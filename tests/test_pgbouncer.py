"""Through PgBouncer in transaction mode, which gives another session to each transaction: everything but LISTEN works.

The contract that every store passes runs behind it too, in test_contract.py.
"""

import asyncio
import contextlib
import datetime as dt
import io
import json
import uuid
from urllib.parse import urlsplit

import asyncpg
import projection_child
import pytest
from conftest import run_sql
from projection_child import Applied, Balances, Deposited, Opened
from test_cli import cli

from eventstore import Event, EventStore, WakeUps, errors, spi, sync
from eventstore.bulk import import_lines, read_json_lines
from eventstore.doctor import Level, connecting, examine
from eventstore.history import History
from eventstore.requests import prune_requests
from eventstore.tagging import backfill_tags
from eventstore.testing import COMMIT, Awaitable, Proxy, Rule
from projections import Daemon, followers
from projections._operations import checkpoints

pytestmark = pytest.mark.server

PARAMETER = "?statement_cache_size=0"
IGNORED = (
    "ignore_startup_parameters = default_transaction_isolation, idle_in_transaction_session_timeout, tcp_keepalives_idle, "
    "tcp_keepalives_interval, tcp_keepalives_count, enable_seqscan, enable_sort, enable_hashjoin, enable_mergejoin, jit, "
    "max_parallel_workers_per_gather, plan_cache_mode, lock_timeout, options"
)
APPEND = Rule("server", "B", b"Noted")
SETTINGS = "select name, setting from pg_settings where name = any('{lock_timeout,idle_in_transaction_session_timeout}')"
LEFT = """
    select 'prepared ' || name from pg_prepared_statements
    union all select 'listens ' || channel from pg_listening_channels() as l (channel)
    union all select 'lock ' || objid from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()
    union all select 'setting ' || name from pg_settings
    where source = 'session' and not name = any('{application_name,client_encoding,DateStyle,TimeZone,jit,transaction_isolation}')
"""
"""What is left in a session. PgBouncer itself sets the first four for each client, asyncpg puts jit back to what it was when it
has looked up a type, and the last is the question's own transaction's.
"""


class Noted(Event):
    n: int = 0


EVENTS = [Noted, projection_child.Opened, projection_child.Deposited]


@pytest.fixture
async def url(pgbouncer):
    """PgBouncer's address."""
    return await asyncio.to_thread(pgbouncer)


@pytest.fixture
async def raw(database):
    """A connection to the server itself."""
    connection = await asyncpg.connect(database, ssl=False)
    yield connection
    await connection.close()


@pytest.fixture(params=["asyncpg", "psycopg"])
def make(request):
    """Makes a store of each kind, with one face."""
    if request.param == "asyncpg":
        return lambda url, **how: EventStore(url, events=EVENTS, **how)
    return lambda url, **how: Awaitable(sync.EventStore(url, events=EVENTS, **how))


def through(url, **how):
    return EventStore(url, statement_cache_size=0, events=EVENTS, **{"wake_ups": WakeUps(poll_seconds=0.05), **how})


async def stored(store):
    return [recorded async for recorded in store.read_all(settle=5)]


async def until(question, seconds=10):
    async with asyncio.timeout(seconds):
        while not await question():
            await asyncio.sleep(0.01)


# -- opening


@pytest.mark.parametrize("settings", ["", IGNORED], ids=["refused", "dropped"])
async def test_without_the_option_opening_says_what_to_do(pgbouncer, make, settings):
    """Whether PgBouncer refuses the settings, or drops them without a word."""
    url = await asyncio.to_thread(pgbouncer, settings)
    with pytest.raises(errors.CannotConnect, match=r"statement_cache_size=0, wake_ups=WakeUps\(listen_url=") as caught:
        await make(url).open()
    assert "?statement_cache_size=0 in the URL" in str(caught.value)
    assert "docs/operations.md" in str(caught.value)


async def test_the_option_may_stand_in_the_url(url, make):
    """For commands, and wherever an address is all that one can give."""
    async with make(url + PARAMETER) as store:
        await store.append("a-1", Noted(n=1), expect=0)
        assert "statement_cache_size" not in store.dsn
        assert len(await stored(store)) == 1


def test_what_the_option_may_be(make):
    """0 or nothing: how many statements are kept is the driver's business."""
    address = "postgresql://nobody@127.0.0.1:1/none"
    for wrong in (1, -1, False, "0"):
        with pytest.raises(errors.InvalidArgument, match="must be 0"):
            make(address, statement_cache_size=wrong)
    for wrong in ("1", "", "no"):
        with pytest.raises(errors.InvalidUrl, match="must be 0"):
            make(f"{address}?statement_cache_size={wrong}")


async def test_the_option_is_not_for_an_asyncpg_pool(url):
    """Its connections are taken as they are."""
    async with asyncpg.create_pool(url, min_size=0, ssl=False, statement_cache_size=0) as pool:
        with pytest.raises(errors.InvalidArgument, match="create_pool"):
            EventStore(pool, statement_cache_size=0)


async def test_it_migrates_through_it(url, make):
    """Twice at once, as when two processes start; nothing prepared is left behind for others to stumble over."""
    stores = [make(url, statement_cache_size=0, schema="other", migrate=True) for _ in range(2)]
    await asyncio.gather(*(store.open() for store in stores))
    for store in stores:
        await store.append("a-1", Noted())
    assert await stores[0].stream_version("a-1") == 2
    for store in stores:
        await store.close()


# -- sessions


async def test_transactions_bring_the_settings_that_sessions_cannot_carry(database, url, make):
    """Time-outs and READ COMMITTED, whatever the server's defaults are; gone with the transaction."""
    name = urlsplit(database).path[1:]
    await asyncio.to_thread(run_sql, database, f"alter database {name} set default_transaction_isolation = 'serializable'")
    async with make(url, statement_cache_size=0) as store:
        async with store.transaction() as tx:
            found = tx.connection.execute(SETTINGS) if hasattr(store, "_store") else await tx.connection.fetch(SETTINGS)
            assert dict(tuple(row) for row in found) == {
                "lock_timeout": "5000",
                "idle_in_transaction_session_timeout": "60000",
            }
            shown = "show transaction_isolation"
            if hasattr(store, "_store"):
                assert tx.connection.execute(shown).fetchone() == ("read committed",)
            else:
                assert await tx.connection.fetchval(shown) == "read committed"
            await tx.append("a-1", Noted())
            with contextlib.suppress(errors.VersionConflict):
                await tx.append("a-1", Noted(), expect=7)  # a savepoint of its own: settings are not set again
        assert await store.stream_version("a-1") == 1


async def test_nothing_is_left_in_a_session(pgbouncer, make):
    """One session serves all of a store's connections, so that whatever one leaves, the next would meet."""
    url = await asyncio.to_thread(pgbouncer, "default_pool_size = 1")
    async with make(url, statement_cache_size=0, wake_ups=WakeUps(poll_seconds=0.05)) as store:
        async with store.subscribe() as live:
            follower = aiter(live)
            for n in range(20):
                await store.append("a-1", Noted(n=n), expect=n, request_id=f"r-{n}")
                assert (await asyncio.wait_for(anext(follower), 10)).data.n == n
        async with store.transaction() as tx:
            await tx.append("b-1", Noted())
            assert [one.version for one in await collected(tx.read_stream("b-1"))] == [1]
        await asyncio.gather(*(store.append(f"c-{n}", Noted()) for n in range(32)))
        assert len(await stored(store)) == 53
    connection = await asyncpg.connect(url, ssl=False, statement_cache_size=0)
    assert await connection.fetchval("select count(distinct pg_backend_pid()) from generate_series(1, 9)") == 1
    assert [row[0] for row in await connection.fetch(LEFT)] == []
    await connection.close()


async def collected(reading):
    return await reading if asyncio.iscoroutine(reading) else [one async for one in reading]


async def test_what_pgbouncer_sets_for_all_holds_for_reads(pgbouncer):
    """docs/operations.md: plans without our settings rest on statistics; connect_query gives them back."""
    query = "connect_query='set enable_seqscan = off; set enable_sort = off; set jit = off'"
    url = await asyncio.to_thread(pgbouncer, of_database=query)
    connection = await asyncpg.connect(url, ssl=False, statement_cache_size=0)
    shown = "select string_agg(setting, ' ') from pg_settings where name in ('enable_seqscan', 'enable_sort', 'jit')"
    assert await connection.fetchval(shown) == "off off off"
    await connection.close()


# -- appends


async def test_sixty_four_appends_at_once_share_commits_beside_a_held_stream(database, url, raw):
    """Nobody waits for the one that waits."""
    async with through(url) as store, EventStore(database, events=EVENTS) as direct:
        async with raw.transaction():
            await direct.join(raw).append("held-1", Noted())
            held = asyncio.create_task(store.append("held-1", Noted(), expect=1))
            done = await asyncio.gather(*(store.append(f"a-{n % 48}", Noted(n=n)) for n in range(64)))
            assert not held.done()
        assert (await asyncio.wait_for(held, 10)).version == 2
        assert sorted(one.version for one in done) == [1] * 48 + [2] * 16
        commits = await raw.fetchval("select count(distinct xmin::text) from eventstore.events")
        assert commits < 40
        positions = [recorded.position for recorded in await stored(store)]
        assert positions == sorted(set(positions))
        assert len(positions) == 66


async def test_a_request_gives_its_first_result(url, make):
    """Also to another store, at the same time."""
    async with make(url, statement_cache_size=0) as one, make(url, statement_cache_size=0) as other:
        both = await asyncio.gather(*(store.append("a-1", Noted(n=1), request_id="r") for store in (one, other)))
        assert sorted(done.deduplicated for done in both) == [False, True]
        assert both[0][:4] == both[1][:4]
        with pytest.raises(errors.IdempotencyMismatch):
            await other.append("a-1", Noted(n=2), request_id="r")


@pytest.mark.parametrize("committed", [False, True])
async def test_an_append_is_followed_up_when_the_servers_connection_dies(database, pgbouncer, make, committed):
    """Between PgBouncer and the server, before or after the commit: the caller sees nothing but the result."""
    async with Proxy(database) as proxy:
        url = await asyncio.to_thread(pgbouncer, behind=proxy.url)
        async with make(url, statement_cache_size=0, resolve_unknown=True) as store:
            await store.append("a-1", Noted())
            strike = proxy.cut_when(APPEND, forward=committed)
            done = await store.append("a-1", Noted(n=1), expect=1)
            await strike.wait()
            assert (done.version, done.deduplicated) == (2, False)
            assert [one.data.n for one in await stored(store)] == [0, 1]
            strike = proxy.cut_when(COMMIT, forward=committed)
            try:
                async with store.transaction() as tx:
                    await tx.append("b-1", Noted(n=2))
                landed = True
            except errors.ConnectionLost:
                landed = False
            await strike.wait()
            assert landed is committed
            assert await store.stream_version("b-1") == int(committed)
        await asyncio.to_thread(pgbouncer.stop)


async def test_without_that_it_is_unknown(database, pgbouncer, make):
    """As without PgBouncer."""
    async with Proxy(database) as proxy:
        url = await asyncio.to_thread(pgbouncer, behind=proxy.url)
        async with make(url, statement_cache_size=0) as store:
            await store.append("a-1", Noted())
            proxy.cut_when(APPEND, forward=True)
            with pytest.raises(errors.AppendUnknown):
                await store.append("a-1", Noted(n=1), expect=1)
            assert await store.stream_version("a-1") == 2
        await asyncio.to_thread(pgbouncer.stop)


async def test_an_append_is_followed_up_when_pgbouncer_dies(database, pgbouncer, make, raw):
    """It waits for a stream; PgBouncer is killed and started again; the stream is free: it is there once."""
    url = await asyncio.to_thread(pgbouncer)
    waits = "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
    async with (
        make(url, statement_cache_size=0, resolve_unknown=True) as store,
        EventStore(database, events=EVENTS) as direct,
    ):
        async with raw.transaction():
            await direct.join(raw).append("a-1", Noted())
            task = asyncio.create_task(store.append("a-1", Noted(n=1)))
            await until(lambda: raw.fetchval(waits))
            await asyncio.to_thread(pgbouncer.stop)
            await asyncio.to_thread(pgbouncer)
        done = await asyncio.wait_for(task, 20)
        assert done.version == 2
        assert [one.data.n for one in await stored(store)] == [0, 1]


# -- readers


@pytest.mark.parametrize("writes_through_it", [False, True])
async def test_a_follower_is_woken_through_the_direct_address(database, url, raw, writes_through_it):
    """LISTEN goes there alone, and notifications come from anywhere; the poll would come half a minute later."""
    async with (
        through(url) if writes_through_it else EventStore(database, events=EVENTS) as writer,
        through(url, wake_ups=WakeUps(poll_seconds=30, listen_url=database)) as store,
        store.subscribe() as live,
    ):
        follower = aiter(live)
        first = asyncio.create_task(anext(follower))

        async def listening():
            return store._frontier.listener.listening

        await until(listening)
        for n in range(3):
            await writer.append("a-1", Noted(n=n))
            assert (await asyncio.wait_for(first, 10)).data.n == n
            first = asyncio.create_task(anext(follower))
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)


async def test_without_one_it_does_not_listen_and_polls(database, url, raw):
    """LISTEN would stay behind in a session that others are given next."""
    async with EventStore(database, events=EVENTS) as writer, through(url) as store, store.subscribe() as live:
        first = asyncio.create_task(anext(aiter(live)))
        await writer.append("a-1", Noted(n=1))
        assert (await asyncio.wait_for(first, 10)).data.n == 1
        assert store._frontier.listener.connects == 0
        said = "select count(*) from pg_stat_activity where datname = current_database() and query ilike 'listen%'"
        assert await raw.fetchval(said) == 0


# -- projections


async def test_a_projection_catches_up_and_follows(database, url, raw):
    """Tables are made, batches bring their settings, and the lease names no session, since it has none."""
    async with through(url) as store:
        for n in range(5):
            await store.append(f"account-{n}", [Opened(owner="x"), *(Deposited(amount=i) for i in range(100))])
        await raw.execute("create table applied (event_id uuid primary key, times int)")
        async with Daemon(store, [Balances(), Applied()], create=True) as daemon:
            await daemon.run_until_caught_up()
            running = asyncio.create_task(daemon.run())
            await store.append("account-1", Deposited(amount=10**6))

            async def there():
                caught_up = {one.behind for one in await followers(store)} == {0}  # each follows at its own pace
                balance = await raw.fetchval("select balance from balances where account_id = 'account-1'")
                return caught_up and balance == 10**6 + 4950

            await until(there)
            assert await raw.fetch("select distinct pid, backend_start::text from eventstore.leases") == [(0, "-infinity")]
            daemon.stop()
            await asyncio.wait_for(running, 10)
        assert {(one.behind, one.owner) for one in await followers(store)} == {(0, None)}
        assert await raw.fetchval("select sum(events) from balances") == 506
    assert await raw.fetchrow("select count(*), max(times) from applied") == (506, 1)


async def test_an_expired_owner_ends_by_its_time_out_not_by_its_successor(url):
    """Its session may serve somebody else by now: nobody may terminate that."""
    async with through(url) as store:
        old, new = [await spi.connect(store, name, {"lock_timeout": "3s"}) for name in ("old", "new")]
        mine, other = uuid.uuid4(), uuid.uuid4()
        await new.run(checkpoints.heartbeat(mine, "old", 30))
        held = await old.run(checkpoints.acquire("F", 0, mine, old.pid))
        async with old.transaction():
            await old.run(checkpoints.lock("F", 0, held))
            found = {row["name"]: row["setting"] for row in await old.raw.fetch(SETTINGS)}
            assert found == {"lock_timeout": "3000", "idle_in_transaction_session_timeout": "20000"}
            await new.run(checkpoints.heartbeat(mine, "old", -1))
            await new.run(checkpoints.end_expired("F", 0, other))
            assert (await old.run(checkpoints.save("F", 0, held, 9))).position == 9
        taken = await new.run(checkpoints.acquire("F", 0, other, new.pid))
        assert (taken.position, taken.epoch) == (9, held.epoch + 1)
        for connection in (old, new):
            await connection.close()


# -- tools


async def test_the_past_is_asked_and_requests_are_pruned_through_it(url):
    """As of a time, and by age."""
    async with through(url) as store:
        first = await store.append("a-1", Noted(n=1), request_id="r-1")
        await asyncio.sleep(0.05)
        (recorded,) = await stored(store)
        between = recorded.recorded_at + dt.timedelta(milliseconds=20)
        await store.append("a-1", Noted(n=2))

        assert await History(store).as_of(between) == first.position
        assert await prune_requests(store, older_than=dt.timedelta(0)) == 1
        assert not (await store.append("a-1", Noted(n=3), request_id="r-1")).deduplicated


async def test_imports_run_through_it(url):
    """By COPY, and by the append function where a stream is there already."""
    lines = [{"stream_id": f"s-{n % 7}", "type": "T", "data": {"n": n}} for n in range(3000)]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    async with through(url) as store:
        await store.append("s-1", Noted())
        for repeated in (False, True):
            done = await import_lines(store, read_json_lines(io.BytesIO(text.encode()), "test"), on_bad=pytest.fail)
            assert (done.added, done.present) == ((0, 3000) if repeated else (3000, 0))
        assert len(await stored(store)) == 3001


async def test_tags_are_imported_and_back_filled_through_it(url):
    """Locks, COPY and rows in one transaction, whichever session it gets."""
    lines = [{"stream_id": f"s-{n % 7}", "type": "T", "data": {"n": n}, "tags": [f"t:{n % 300}"]} for n in range(6000)]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    async with through(url) as store:
        done = await import_lines(store, read_json_lines(io.BytesIO(text.encode()), "test"), on_bad=pytest.fail)
        filled = await backfill_tags(store, lambda recorded: [*recorded.tags, f"u:{recorded.version % 3}"])

        assert (done.added, filled.added, filled.present) == (6000, 6000, 6000)
        assert len([r async for r in store.read_all(tags=["t:1"])]) == 20
        assert len([r async for r in store.read_all(tags=["u:1"])]) == 2002


async def test_commands_go_through_it_with_the_parameter(url, tmp_path):
    """And say what to do without it."""
    file = tmp_path / "log.jsonl"

    def commands():
        assert "statement_cache_size=0 in the URL" in cli("read", "a-1", url=url, code=2)
        cli("append", "a-1", "Opened", '{"owner": "Ada"}', url=url + PARAMETER)
        assert "Ada" in cli("read", "a-1", "--json", url=url + PARAMETER)
        cli("export", str(file), url=url + PARAMETER)
        assert "Ada" in file.read_text()
        assert "statement_cache_size" not in cli("migrate", "status", url=url + PARAMETER)
        cli("status", url=url + PARAMETER, command="projections")

    await asyncio.to_thread(commands)


async def test_the_doctor_has_no_complaint_about_a_store_with_the_option(database, url, monkeypatch):
    """But for notifications, unless it is told where to listen."""
    monkeypatch.setattr(connecting, "ANSWER_SECONDS", 0.5)
    report = await examine(through(url, wake_ups=WakeUps(listen_url=database)))
    levels = {finding.check: finding.level for finding in report.findings if finding.check in ("pooler", "listen")}
    assert levels == {"pooler": Level.OK, "listen": Level.OK}
    report = await examine(EventStore(url + PARAMETER))
    (pooler,) = [finding for finding in report.findings if finding.check == "pooler"]
    assert pooler.level is Level.OK
    assert "PgBouncer" in pooler.found
    (listen,) = [finding for finding in report.findings if finding.check == "listen"]
    assert listen.level is Level.WARNING
    assert "listen_url" in listen.cure


async def test_the_doctor_names_the_option_as_the_cure(pgbouncer, monkeypatch):
    """Whether PgBouncer refuses the settings, or drops them."""
    monkeypatch.setattr(connecting, "ANSWER_SECONDS", 0.1)
    for settings in ("", IGNORED):
        url = await asyncio.to_thread(pgbouncer, settings)
        report = await examine(EventStore(url))
        (finding,) = [finding for finding in report.findings if finding.check == "pooler"]
        assert finding.level is Level.ERROR
        assert "cannot be opened" in finding.found
        assert "EventStore(url, statement_cache_size=0" in finding.cure
        await asyncio.to_thread(pgbouncer.stop)
