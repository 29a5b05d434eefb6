"""Where a store or a picture lies: a path or a URL, taken apart.

Every module that opens or writes something calls `parse_location` on what the user gave. A location names an
endpoint, a region and a profile and never holds a credential, so that it may stand in a task, a log or a
result.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from daskptycho.errors import OptionError

__all__ = ["Location", "parse_location"]

# Schemes, with the keys that each allows after the question mark.
SCHEMES: dict[str, tuple[str, ...]] = {
    "s3": ("endpoint", "region", "profile", "anonymous"),
    "gs": ("anonymous",),
    "az": ("account", "endpoint", "anonymous"),
    "https": (),
    "http": (),
    "file": (),
}
ALIASES = {"gcs": "gs", "azure": "az"}
YES_OR_NO = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


@dataclass(frozen=True)
class Location:
    """A place on a disk, in a bucket or on a web server.

    Attributes
    ----------
    scheme : {"file", "s3", "gs", "az", "https", "http"}
    bucket : str
        The bucket; the container of Azure, the host of a web server; empty on a disk.
    path : str
        An absolute path on a disk, otherwise the path below the bucket.
    endpoint, region, profile, account : str or None
        Of the server and of the credentials, which every process looks up for itself.
    anonymous : bool
        Requests are not signed.
    """

    scheme: str
    bucket: str
    path: str
    endpoint: str | None = None
    region: str | None = None
    profile: str | None = None
    account: str | None = None
    anonymous: bool = False

    def __str__(self) -> str:
        if self.is_local:
            return self.path
        values = {name: getattr(self, name) for name in SCHEMES[self.scheme]}
        query = "&".join(
            f"{name}={quote('true' if value is True else value, safe='/:')}"
            for name, value in values.items()
            if value
        )
        return f"{self.scheme}://{self.bucket}/{self.path}" + (f"?{query}" if query else "")

    @property
    def is_local(self) -> bool:
        """Whether it lies on a disk."""
        return self.scheme == "file"

    @property
    def local_path(self) -> Path:
        """The path of a location on a disk."""
        assert self.is_local, self
        return Path(self.path)

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rpartition("/")[2]

    def with_name(self, name: str) -> Location:
        """The location of another name beside this one."""
        parent, slash, _ = self.path.rpartition("/")
        return replace(self, path=f"{parent}{slash}{name}")

    def joinpath(self, *names: str) -> Location:
        """A location below this one."""
        return replace(self, path="/".join([self.path.rstrip("/"), *names]))


def parse_location(url: str | Path | Location) -> Location:
    """Take a path or a URL apart.

    Parameters
    ----------
    url : str, Path or Location
        A path on a disk, ``file://``, ``s3://bucket/name``, ``gs://bucket/name``, ``az://container/name`` or
        ``https://host/name``. How to reach the server may follow a question mark, as in
        ``s3://bucket/name?endpoint=http://localhost:9000&profile=beamline`` or
        ``s3://bucket/name?anonymous=true``.

    Returns
    -------
    Location

    Raises
    ------
    OptionError
        The URL is not of this form, or holds a credential, which the message does not repeat.
    """
    if isinstance(url, Location):
        return url
    text = str(url)
    squeezed = re.match(r"(\w+):/[^/]", text)
    if isinstance(url, Path) and squeezed and squeezed[1] in SCHEMES | ALIASES:
        raise OptionError(f"{text} was a URL before it became a Path; pass it as a string")
    scheme, separator, rest = text.partition("://")
    if not separator:
        return Location("file", "", str(Path(text).expanduser().resolve()))
    scheme = ALIASES.get(scheme.lower(), scheme.lower())
    if scheme not in SCHEMES:
        known = ", ".join(f"{name}://" for name in SCHEMES)
        raise OptionError(f"the scheme {scheme}:// is not known; expected a path or one of {known}")
    rest, _, query = rest.partition("?")
    host, _, path = rest.partition("/")
    if "@" in host:
        raise OptionError(
            f"a URL of {scheme}:// holds a user or a password before its '@'; expected credentials in the "
            "environment, a profile or an instance role"
        )
    if scheme == "file":
        if host not in ("", "localhost") or query:
            raise OptionError(f"file://{rest} is no file of this machine; expected file:///path")
        return Location("file", "", str(Path(unquote(f"/{path}")).resolve()))
    path = path.strip("/")
    if not host or not path:
        raise OptionError(f"{scheme}://{host} names no store; expected {scheme}://{host or 'bucket'}/name")
    if any(part in ("", ".", "..") for part in path.split("/")):
        raise OptionError(f"{scheme}://{host}/{path} has an empty part, '.' or '..'; expected plain names")
    return Location(scheme, host, path, **_parse_query(scheme, query))  # type: ignore[arg-type]


def _parse_query(scheme: str, query: str) -> dict[str, str | bool]:
    """Keys and values after the question mark. Errors repeat no values: one could be a secret."""
    values: dict[str, str | bool] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in SCHEMES[scheme]:
            known = ", ".join(SCHEMES[scheme]) or "nothing"
            raise OptionError(
                f"a URL of {scheme}:// has {name!r} after its '?'; expected {known} (credentials come "
                "from the environment, a profile or an instance role)"
            )
        if name == "anonymous" and value.lower() not in YES_OR_NO:
            raise OptionError(f"a URL of {scheme}:// has anonymous without true or false")
        values[name] = YES_OR_NO[value.lower()] if name == "anonymous" else value
    endpoint = str(values.get("endpoint", "http://localhost"))
    if urlsplit(endpoint).scheme not in ("http", "https") or re.search("[@?#]", endpoint):
        raise OptionError("the endpoint of a URL is no address; expected http://host:port or https://host")
    return values
