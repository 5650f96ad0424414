"""One request to the engine: its errors become ours, and it is repeated if it may be good later."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from ..errors import EngineError, EngineLoginError
from .patience import Patience, Wait
from .sdk import pycurl, sdk

T = TypeVar("T")
NOT_FOUND = 404
_BAD_REQUEST = 400
CONFLICT = 409
_UNREACHED = "Is the engine up? Are its URL and its CA right?"


@contextmanager
def asking(doing: str) -> Iterator[None]:
    """Turn the SDK's errors into ours.

    Args:
        doing: What is done, for the error, such as "start a backup of VM mail".

    Raises:
        EngineLoginError: The engine does not know the user, or the user may not do this.
        EngineError: The engine refused the request, cannot be reached, or answered nonsense.
    """
    try:
        yield
    except sdk.AuthError as e:
        raise EngineLoginError(f"cannot {doing}: {_reason(e)}", status=e.code) from e
    except sdk.ConnectionError as e:
        raise EngineError(f"cannot {doing}: {_reason(e)}", status=e.code, hint=_UNREACHED) from e
    except sdk.Error as e:
        raise EngineError(f"cannot {doing}: {_reason(e)}", status=e.code) from e
    except pycurl.error as e:  # the SDK does not turn all of them into its own
        raise EngineError(f"cannot {doing}: {e.args[-1]}") from e
    except Exception as e:
        if type(e) is not Exception:
            raise
        # The SDK's reader of XML raises nothing more specific.
        raise EngineError(f"cannot {doing}: the engine's reply is not valid XML: {e}") from e


def _reason(error: Any) -> str:
    """What the engine says; without the SDK's words about it."""
    fault = getattr(error, "fault", None)
    text = str((fault and (fault.detail or fault.reason)) or error)
    # The SDK shows the list of pycurl: [(<pycurl.Curl object at 0x...>, 52, 'Empty reply ...')].
    # Or what pycurl raised: (7, 'Failed to connect ...').
    if curl := re.search(r"(?:object at \w+>, |: \()\d+, (['\"])(.*)\1\)\]?$", text):
        text = curl[2]
    return text.strip("[] ") or type(error).__name__


def may_succeed_later(error: EngineError) -> bool:
    """Whether the same request may be good a little later: the engine is busy, or restarts."""
    login = isinstance(error, EngineLoginError)
    return error.status == CONFLICT or (error.is_transient and not login)


def repeat(
    ask: Callable[[], T],
    patience: Patience,
    *,
    done: Callable[[], bool] = lambda: False,
    ends: bool = False,
) -> T | None:
    """Make a request, and repeat it for up to `patience.limits.refused` seconds.

    Args:
        ask: The request. It must do no harm if it is made twice: a reply may have been lost.
        patience: How long, how often, and what ends it early.
        done: After a failure: whether the engine has done what is wanted, and needs no other
            request. So an action whose reply was lost is not repeated.
        ends: The request ends something that must not stay open. It is also repeated after a 400,
            by which an engine says that a host failed to do it.

    Returns:
        What `ask` returned; None if `done` says that nothing has to be done any more.

    Raises:
        EngineError: It still fails, or this request will never be good.
        OperationCancelledError: It was cancelled. It is not known whether the last request was
            carried out, if its reply was lost.
    """
    wait = Wait(patience, patience.limits.refused)
    for left in wait:
        try:
            return ask()
        except EngineError as e:
            if e.status == NOT_FOUND:
                raise
            with suppress(EngineError):
                if done():
                    return None
            if not left or not (may_succeed_later(e) or (ends and e.status == _BAD_REQUEST)):
                raise
            wait.goes_on(e.message)
    raise AssertionError  # the pauses have no end
