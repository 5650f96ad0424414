"""Logs in to an oVirt engine, by a configuration file or the environment."""

from __future__ import annotations

import configparser
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .._log import Log
from .._typing import override
from ..errors import EngineError, EngineLoginError, LocalIOError, UsageError
from .asking import asking
from .limited import watched, within
from .sdk import sdk
from .timeouts import EngineTimeouts

log = Log("tapestream.ovirt")
_API = "/ovirt-engine/api"
# Seconds for a logout at most: a token that is not revoked expires by itself.
_LOGOUT = 10
_DEFAULT_CONFIG = "~/.config/ovirt.conf"
# The names that oVirt's Ansible collection has for the same.
_ENVIRONMENT = {
    "engine_url": "OVIRT_URL",
    "username": "OVIRT_USERNAME",
    "password": "OVIRT_PASSWORD",
    "cafile": "OVIRT_CAFILE",
    "insecure": "OVIRT_INSECURE",
    "host_cafile": "OVIRT_HOST_CAFILE",
}
_BOOLEANS = configparser.RawConfigParser.BOOLEAN_STATES


@dataclass(frozen=True)
class EngineSettings:
    """Where an engine is, and who logs in.

    Attributes:
        url: Its URL, such as `https://engine.example.com`.
        username: The user, such as `admin@internal`.
        password: The user's password.
        cafile: The CA that signed the engine's certificate; None for the CAs of the system.
        secure: Whether certificates are checked.
        host_cafile: The CA that signed the hosts' certificates, for the data. That is the engine's
            internal CA, also if the engine's web server has a certificate of somebody else.
    """

    url: str
    username: str
    password: str = field(repr=False)
    cafile: str | None = None
    secure: bool = True
    host_cafile: str | None = None


class EngineConnection(sdk.Connection):  # type: ignore[misc]  # the SDK has no types
    """A connection of oVirt's SDK to an engine, logged in.

    It is a context manager that logs out. A logout that fails raises nothing: what was done is
    done, and the engine ends the session itself.

    Attributes:
        settings: How it was made.
        request_timeout: Seconds to wait for the reply to one request.
    """

    def __init__(self, settings: EngineSettings, request_timeout: int) -> None:
        self.settings = settings
        self.request_timeout = request_timeout
        super().__init__(
            url=settings.url.rstrip("/").removesuffix(_API) + _API,
            username=settings.username,
            password=settings.password,
            ca_file=settings.cafile,
            insecure=not settings.secure,
            timeout=request_timeout,
        )

    @override
    def wait(self, context: tuple[Any, ...], failed_auth: bool = False) -> object:
        """Wait for the reply to a request; after some seconds, a warning says for which."""
        request = context[3]
        what = f"{self.settings.url}, asked to {request.method} {request.path},"
        with watched(what, self.request_timeout):
            return super().wait(context, failed_auth)

    @override
    def close(self, logout: bool = True) -> None:
        """Log out, and close the connection."""
        logout_limit = min(self.request_timeout, _LOGOUT)
        try:
            within(logout_limit, self.settings.url, lambda: sdk.Connection.close(self, logout))
        except Exception as e:  # noqa: BLE001 - the SDK passes on whatever a broken reply causes
            log.warning("The logout from %s failed: %s", self.settings.url, e)
            super().close(logout=False)


def connect(
    config: str | os.PathLike[str] | None = None,
    section: str | None = None,
    *,
    timeouts: EngineTimeouts | None = None,
) -> EngineConnection:
    """Log in to an oVirt engine.

        with connect() as connection:
            ...

    Args:
        config: The configuration file. None for the environment, if it has `OVIRT_URL` and no
            section is given, or else for `~/.config/ovirt.conf`. See `read_settings`.
        section: The engine's section in the file; None if there is only one.
        timeouts: How long to wait for the engine.

    Returns:
        The connection: a context manager that logs out, and a connection of oVirt's SDK.

    Raises:
        UsageError: The settings are not complete.
        EngineLoginError: The engine refuses the user.
        EngineError: The engine cannot be reached.
    """
    settings = read_settings(config, section)
    connection = None
    with asking(f"log in to {settings.url}"):
        connection = EngineConnection(settings, (timeouts or EngineTimeouts()).request)
        try:
            within(connection.request_timeout, settings.url, connection.authenticate)
        except TimeoutError as e:
            raise EngineError(
                f"cannot log in: {e}", hint="Is the engine up, and its URL right?"
            ) from e
        except (TypeError, ValueError) as e:  # of a reply that is none of an engine
            raise EngineLoginError(
                f"cannot log in to {settings.url}: what answers there is no oVirt engine"
            ) from e
        except BaseException:
            connection.close()  # it may have logged in
            raise
    return connection


def read_settings(
    config: str | os.PathLike[str] | None = None, section: str | None = None
) -> EngineSettings:
    """Read how to log in to an engine.

    The file is that of the SDK's examples: for each engine a section with `engine_url`, `username`,
    `password`, `cafile` and `secure`. `host_cafile` is the CA for the data, if it is another one.
    Without a password in the file, that of the environment is taken. The environment has the names
    of oVirt's Ansible collection: `OVIRT_URL`, `OVIRT_USERNAME`, `OVIRT_PASSWORD`, `OVIRT_CAFILE`,
    `OVIRT_INSECURE`; and `OVIRT_HOST_CAFILE`.

    Args:
        config: The file; None as in `connect`.
        section: The section.

    Raises:
        UsageError: The file has no such section, or something is missing.
        LocalIOError: The file cannot be read.
    """
    of_environment = {
        name: os.environ[variable]
        for name, variable in _ENVIRONMENT.items()
        if os.environ.get(variable)
    }
    if config is None and section is None and "engine_url" in of_environment:
        secure = not _boolean("OVIRT_INSECURE", of_environment.get("insecure", "false"))
        return _settings(of_environment, secure, "the environment")
    path = Path(config if config is not None else _DEFAULT_CONFIG).expanduser()
    values = _section(path, section)
    if "password" not in values and "password" in of_environment:
        values["password"] = of_environment["password"]
    secure = _boolean(f"secure in {path}", values.get("secure", "true"))
    return _settings(values, secure, str(path))


def _section(path: Path, section: str | None) -> dict[str, str]:
    # The SDK's examples read it like this: a password may contain "%".
    parser = configparser.ConfigParser(interpolation=None)
    try:
        with path.open(encoding="utf-8") as f:
            others_may_read = _others_may_read(os.fstat(f.fileno()))
            parser.read_file(f)
    except OSError as e:
        raise LocalIOError(
            f"cannot read the configuration {path}",
            e,
            hint="Check the path, or write that file. See read_settings for what is needed.",
        ) from e
    except (configparser.Error, UnicodeDecodeError) as e:
        # The text of the error would show the line, which may be that of the password.
        raise UsageError(f"{path} is no configuration file: {type(e).__name__}") from None
    names = parser.sections()
    if section is None and len(names) == 1:
        section = names[0]
    if section is None or section not in names:
        which = f"no section [{section}]" if section is not None else "more than one section"
        raise UsageError(
            f"{path} has {which}" if names else f"{path} has no section",
            hint=f"Choose one of {', '.join(names)}." if names else "See read_settings.",
        )
    values = {name: value for name, value in parser.items(section) if value}
    if others_may_read and "password" in values:
        log.warning("%s has a password, and other users may read it: run 'chmod 600'", path)
    return values


def _others_may_read(status: os.stat_result) -> bool:
    # A credential of systemd is root's. An ACL lets only the service read it, and shows as its
    # group's permission.
    is_ours = status.st_uid == os.geteuid()
    return bool(status.st_mode & (0o077 if is_ours else 0o007))


def _settings(values: Mapping[str, str], secure: bool, where: str) -> EngineSettings:
    missing = [name for name in ("engine_url", "username", "password") if name not in values]
    if missing:
        names = ", ".join(
            _ENVIRONMENT[name] if where == "the environment" else name for name in missing
        )
        raise UsageError(f"{where} has no {names}", hint="See read_settings for what is needed.")
    cafile = values.get("cafile")
    for path in filter(None, (cafile, values.get("host_cafile"))):
        if not Path(path).is_file():
            raise UsageError(f"{where} names a CA that is no file: {path}")
    return EngineSettings(
        values["engine_url"],
        values["username"],
        values["password"],
        cafile,
        secure,
        values.get("host_cafile") or cafile,
    )


def _boolean(name: str, text: str) -> bool:
    try:
        return _BOOLEANS[text.lower()]
    except KeyError:
        raise UsageError(f"{name} must be true or false, not {text!r}") from None


def host_trust(
    connection: sdk.Connection, cafile: str | os.PathLike[str] | None, secure: bool | None
) -> tuple[str | os.PathLike[str] | None, bool]:
    """Which certificates of hosts are good: what was given, or else what the settings say."""
    settings = connection.settings if isinstance(connection, EngineConnection) else None
    if cafile is None and settings is not None:
        cafile = settings.host_cafile
    if secure is None:
        secure = settings is None or settings.secure
    return cafile, secure
