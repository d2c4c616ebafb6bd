"""Stores that are wrong in one way each: the contract and the model must notice, or they prove nothing."""

import asyncio

from eventstore.errors import IdempotencyMismatch, VersionConflict
from eventstore.streams import ANY, Expectation
from eventstore.testing import MemoryStore
from eventstore.testing.memory_log import MemoryLog, Work


class TakesLateAppends(MemoryLog):
    """An expectation that is too low is taken for met."""

    def _compared(self, work, one):
        version = len(self.stream(one.stream_id, work))
        if not isinstance(one.expect, Expectation) and one.expect <= version:
            return None
        return super()._compared(work, one)


class TakesEarlyAppends(MemoryLog):
    """An expectation that is too high is taken for met."""

    def _compared(self, work, one):
        version = len(self.stream(one.stream_id, work))
        if not isinstance(one.expect, Expectation) and one.expect >= version:
            return None
        return super()._compared(work, one)


class LeaksRollbacks(MemoryLog):
    """What is rolled back stays."""

    def roll_back(self, work):
        self.commit(work)


class CountsFromZero(MemoryLog):
    """Versions are one too low."""

    def _insert(self, work, one):
        appended = super()._insert(work, one)
        rows = work.rows[-len(one.rows) :]
        work.rows[-len(one.rows) :] = [(*row[:2], row[2] - 1, *row[3:]) for row in rows]
        return appended._replace(first_version=appended.first_version - 1, version=appended.version - 1)


class LosesLockedRaces(MemoryLog):
    """Nobody waits for an open transaction: two may append the same version."""

    async def _lock(self, work, name):
        await asyncio.sleep(0)


class SaysTheHeadsPosition(MemoryLog):
    """A repeated append returns the position of the log's head."""

    async def append(self, work, one):
        appended, written = await super().append(work, one)
        return appended._replace(position=self.last_given) if appended.deduplicated else appended, written


class RemembersWhatWasRolledBack(MemoryLog):
    """A request id stays taken though nothing was written."""

    def roll_back(self, work):
        self._requests.update(work.requests)
        super().roll_back(work)


class TakesAnyContent(MemoryLog):
    """Other content under the same request id gets the first one's result."""

    async def append(self, work, one):
        try:
            return await super().append(work, one)
        except IdempotencyMismatch:
            return self._requests[one.request_id].appended._replace(deduplicated=True), None


class ReadsPastOpenTransactions(MemoryLog):
    """Readers go as far as positions were given out: what commits later is skipped."""

    @property
    def decided(self):
        return self.last_given


class ReadsUncommitted(MemoryLog):
    """Everybody sees what open transactions have appended."""

    def stream(self, stream_id, work=None):
        everybody = Work([row for open_work in self._open for row in open_work.rows])
        return super().stream(stream_id, everybody)


class CutsInTwo(MemoryLog):
    """Events of one append are committed one by one, and others get in between."""

    async def append(self, work, one):
        *early, last = one.rows
        expect = one.expect
        for row in early:
            part = self.begin()
            try:
                await super().append(part, one._replace(expect=expect, rows=(row,), request_id=None))
            finally:
                self.commit(part)
            expect = ANY
            await asyncio.sleep(0)
        appended, written = await super().append(work, one._replace(expect=expect, rows=(last,)))
        return appended._replace(first_version=appended.version - len(early), event_ids=one.event_ids), written


class ConflictsBreakTransactions(MemoryLog):
    """A refused append takes back what its transaction did before."""

    async def append(self, work, one):
        try:
            return await super().append(work, one)
        except VersionConflict:
            work.rows.clear()
            raise


class LocksNoTags(MemoryLog):
    """Whoever writes a tag in an open transaction is not waited for."""

    async def _lock(self, work, name):
        if name[0] != "tag":
            await super()._lock(work, name)


class ForgetsTheQuestion(MemoryLog):
    """A decision is taken for an append."""

    def _refuse_overtaken(self, work, token):
        pass


class LooksAtOneTag(MemoryLog):
    """An event with one of an item's tags is taken for one with all."""

    def _refuse_overtaken(self, work, token):
        apart = tuple(item._replace(tags=(tag,)) for item in token.items for tag in item.tags)
        super()._refuse_overtaken(work, token._replace(items=apart))


class IgnoresTypes(MemoryLog):
    """Events of any type are taken for what was asked about."""

    def _refuse_overtaken(self, work, token):
        super()._refuse_overtaken(work, token._replace(items=tuple(item._replace(types=None) for item in token.items)))


class ConflictsWithItself(MemoryLog):
    """A decision does not know what it has appended itself."""

    async def append(self, work, one):
        done, _ = await super().append(work, one)
        return done, None if one.token is None else one.token.seen


def broken(kind, **how):
    """A `MemoryStore` on such a log."""
    store = MemoryStore(**how)
    store._log = kind(5.0, None)
    return store
