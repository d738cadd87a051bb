"""A process in which another library computes, with threads and an allocator of its own."""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Any, Protocol, Self

from xpcnn.bench.timing import seconds_of

__all__ = ["Peer", "PeerError", "PeerProcess", "RemoteCall"]

Ask = Callable[..., Any]

_ENDS_WITHIN = 5.0
"""Seconds that a process which answers no more is given to end by itself, and to tell its exit status."""


class Peer(Protocol):
    """Another library."""

    def host(self, tensor: Any) -> Any:
        """Return one of its arrays as a host array."""


class PeerError(Exception):
    """The other process could not do what it was asked to, or has ended."""


class RemoteCall:
    """A call that the other process makes."""

    def __init__(self, ask: Ask, number: int) -> None:
        self._ask, self._number = ask, number

    def __call__(self) -> Any:
        """Return the result as host arrays."""
        return self._ask("call", self._number)

    def seconds(self, repeats: int) -> float:
        """Return what each of so many calls took, by the other process's clock."""
        seconds: float = self._ask("seconds", self._number, repeats)
        return seconds


class PeerProcess:
    """Another library in a process of its own, which starts when it is needed and ends with this one.

    It is new, not a copy of this process: nothing that this one has set up, such as its allocator, holds
    there; its environment variables do. While one of the two works, the other waits for it and sleeps.

    Parameters
    ----------
    make_peer : callable
        Called there, once. It is sent there like all that `prepare` takes, so it must be picklable.

    Examples
    --------
    >>> from functools import partial
    >>> from xpcnn.backend.torch_peer import TorchPeer
    >>> process = PeerProcess(partial(TorchPeer, threads=1))
    >>> process.running
    False
    """

    def __init__(self, make_peer: Callable[[], Peer]) -> None:
        self._make_peer = make_peer
        self._numbers = itertools.count()
        self._started: tuple[BaseProcess, Connection] | None = None

    @property
    def running(self) -> bool:
        """Whether there is such a process at present."""
        return self._started is not None and self._started[0].is_alive()

    def prepare(
        self, make: Callable[..., Callable[[], Any]], arguments: Mapping[str, tuple[Any, ...]]
    ) -> dict[str, RemoteCall]:
        """Return calls by name; those that were prepared before are forgotten there.

        Parameters
        ----------
        make : function
            Of a module. Takes the peer and arguments, and returns a call, whose result is an array or a
            sequence of arrays.
        arguments : mapping of name to tuple

        Raises
        ------
        PeerError
            When something goes wrong there, with the traceback. So do the calls.
        """
        numbers = {name: next(self._numbers) for name in arguments}
        self._ask("prepare", make, {numbers[name]: taken for name, taken in arguments.items()})
        return {name: RemoteCall(self._ask, number) for name, number in numbers.items()}

    def close(self) -> None:
        """End the process."""
        if self._started is not None:
            process, connection = self._started
            self._started = None
            connection.close()
            process.kill()
            process.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _ask(self, *request: Any) -> Any:
        process, connection = self._started = self._started or self._start()
        try:
            connection.send(request)
            answer, failure = connection.recv()
        except (EOFError, ConnectionError):
            process.join(_ENDS_WITHIN)
            self.close()
            raise PeerError(f"the process of the other library has ended, with {process.exitcode}") from None
        except BaseException:  # Ctrl-C, say: its answer would be taken for that to another request
            self.close()
            raise
        if failure is not None:
            raise PeerError(f"in the process of the other library:\n{failure}")
        return answer

    def _start(self) -> tuple[BaseProcess, Connection]:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, self._make_peer), daemon=True)
        process.start()
        theirs.close()  # theirs alone holds it now, so that its end is seen here
        return process, ours


def _serve(connection: Connection, make_peer: Callable[[], Peer]) -> None:
    """Answer requests until nobody is there to ask."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for who asks
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what is printed there are results
    server: _Server | None = None
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            answer, failure = None, None
            try:
                method, *arguments = connection.recv()
                server = server or _Server(make_peer())
                answer = getattr(server, method)(*arguments)
            except EOFError:
                return
            except Exception:
                failure = traceback.format_exc()
            connection.send((answer, failure))


class _Server:
    """What can be asked for."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.calls: dict[int, Callable[[], Any]] = {}

    def prepare(
        self, make: Callable[..., Callable[[], Any]], arguments: Mapping[int, tuple[Any, ...]]
    ) -> None:
        self.calls = {}  # before the new ones need memory
        self.calls = {number: make(self.peer, *taken) for number, taken in arguments.items()}

    def call(self, number: int) -> Any:
        result = self.calls[number]()
        if isinstance(result, list | tuple):
            return [self.peer.host(part) for part in result]
        return self.peer.host(result)

    def seconds(self, number: int, repeats: int) -> float:
        return seconds_of(self.calls[number], repeats)
