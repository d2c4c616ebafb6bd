"""What a user writes: a class with a table and handlers.

::

    class Balances(Projection):
        table = balances

        @on(Deposited)
        def deposited(self, event, recorded, rows):
            rows.add(account_id=recorded.stream_id, balance=event.amount)

        @on(Closed)
        async def closed(self, event, recorded, tx):
            await tx.execute("insert into closings (account_id) values ($1)", recorded.stream_id)

A handler with `rows` is a plain function: its row operations are folded in memory and written once a batch. A handler
with `tx` is a coroutine: SQL of its own, on the batch's transaction. Both kinds return None.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Final, TypeVar

from eventstore.errors import InvalidArgument
from eventstore.streams import check_name

from .errors import InvalidProjection

__all__ = ["Handler", "Projection", "on"]

F = TypeVar("F", bound=Callable[..., Any])

_MARK: Final = "_projections_on"
_SYNC: Final = ("event", "recorded", "rows")
_ASYNC: Final = ("event", "recorded", "tx")


def on(*types: type | str) -> Callable[[F], F]:
    """Mark a method as the handler of these event types: classes, or stored type names."""

    def mark(function: F) -> F:
        setattr(function, _MARK, (*getattr(function, _MARK, ()), *types))
        return function

    return mark


class Projection:
    """A read model that follows the log, exactly once. Subclass it.

    Attributes:
        name: the follower's name, under which its checkpoint is kept. Default: the class name. Renaming it starts over.
        table: a SQLAlchemy `Table` for handlers with `rows`; its primary key names the rows.
        categories: only streams of these categories; default: all.
    """

    name: ClassVar[str] = ""
    table: ClassVar[Any] = None  # sqlalchemy.Table; the type stays out so that importing this needs no SQLAlchemy
    categories: ClassVar[tuple[str, ...] | None] = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Take the class name for a name where none is given."""
        super().__init_subclass__(**kwargs)
        if "name" not in cls.__dict__:
            cls.name = cls.__name__


@dataclass(frozen=True, slots=True)
class Handler:
    """One handler, bound to its projection.

    Attributes:
        call: the bound method.
        asynchronous: whether it takes `tx` and is awaited; else it takes `rows`.
    """

    call: Callable[..., Any]
    asynchronous: bool


def handlers_of(projection: Projection, name_of: Callable[[type | str], str]) -> dict[str, Handler]:
    """Return the handlers of a projection by stored type name.

    Raises:
        InvalidProjection: a signature that is neither of the two, a type handled twice, no handler at all, `rows`
            without a table, or a class that is not registered.
    """
    try:
        check_name(projection.name, "a projection's name")
    except InvalidArgument as error:
        raise InvalidProjection(str(error)) from error
    found: dict[str, Handler] = {}
    for method_name, method, types in _marked(projection):
        handler = _checked(projection, method_name, method)
        for type_ in types:
            name = name_of(type_)
            if name in found:
                raise InvalidProjection(f"projection {projection.name!r} handles {name!r} twice, again in {method_name}()")
            found[name] = handler
    if not found:
        raise InvalidProjection(f"projection {projection.name!r} has no handler: mark a method with @on(SomeEvent)")
    return found


def _marked(projection: Projection) -> Iterator[tuple[str, Callable[..., Any], tuple[type | str, ...]]]:
    for name in dir(type(projection)):
        definitions = [cls.__dict__[name] for cls in type(projection).__mro__ if name in cls.__dict__]
        if not any(hasattr(definition, _MARK) for definition in definitions):
            continue
        types = getattr(definitions[0], _MARK, None)
        if not types:
            raise InvalidProjection(
                f"{type(projection).__name__}.{name}() overrides a handler without saying what it handles; mark it with @on too"
            )
        yield name, getattr(projection, name), types


def _checked(projection: Projection, name: str, method: Callable[..., Any]) -> Handler:
    parameters = tuple(inspect.signature(method).parameters)
    asynchronous = inspect.iscoroutinefunction(method)
    if parameters != (_ASYNC if asynchronous else _SYNC):
        raise InvalidProjection(
            f"{type(projection).__name__}.{name}({', '.join(('self', *parameters))}): expected "
            "`def handler(self, event, recorded, rows)` or `async def handler(self, event, recorded, tx)`"
        )
    if not asynchronous and projection.table is None:
        raise InvalidProjection(f"{type(projection).__name__}.{name}() takes rows, but the projection has no `table`")
    return Handler(method, asynchronous)
