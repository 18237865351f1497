"""How a configuration field is declared, checked and read from text. The fields are in config.py."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal

from .errors import ConfigError

KIB: Final = 1024
MIB: Final = 1024 * 1024


def _load_toml(file: BinaryIO) -> dict[str, Any]:
    parser = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    table: dict[str, Any] = parser.load(file)
    return table


@dataclass(frozen=True, slots=True)
class Option:
    """The declaration of one configuration field.

    `kind` is the type of the value; `low` and `high` bound an integer, or the length of bytes; `choices` are
    all that a text may be, `enum` the class they come from; `optional` allows None; `secret` keeps the value
    out of `repr()` and `as_dict()`.
    """

    kind: Literal["int", "bool", "text", "path", "list", "bytes"]
    doc: str
    unit: str = ""
    low: int = 0
    high: int = sys.maxsize
    choices: tuple[str, ...] = ()
    enum: type[Enum] | None = None
    optional: bool = False
    secret: bool = False

    def range_text(self) -> str:
        """The values that are right, in words."""
        if self.choices:
            text = "one of " + ", ".join(self.choices)
        elif self.kind == "int":
            low, high = show_number(self.low, self.unit), show_number(self.high, self.unit)
            if self.unit and high.endswith(self.unit):
                low = low.removesuffix(f" {self.unit}")
            text = f"{low} to {high}"
        elif self.kind == "bytes" and self.low == self.high:
            text = f"{self.low} bytes, as text in hexadecimal"
        else:
            text = {
                "bool": "true or false",
                "list": "one or more texts, as text separated by commas",
                "path": "a path in UTF-8",
                "bytes": "PEM",
            }.get(self.kind, "text")
        return f"{text}, or none" if self.optional else text

    def parse(self, text: str) -> object:
        """The value that `text`, of the environment, a file or the command line, means. Raises ValueError."""
        word = text.strip().lower()
        if self.kind == "bool":
            if word not in _BOOLEANS:
                raise ValueError(text)
            return _BOOLEANS[word]
        if self.optional and word in ("", "none"):
            return None
        if self.kind == "int":
            return int(text, 0)
        if self.kind == "list":
            return [part.strip() for part in text.split(",") if part.strip()]
        if self.kind == "bytes":
            return bytes.fromhex(text) if self.low == self.high else text.encode("ascii")
        return self.enum(text) if self.enum is not None and text in self.choices else text

    def problem(self, value: object) -> str | None:
        """What is wrong with `value`, None if nothing is."""
        if value is None:
            return None if self.optional else "is not set"
        if self.kind == "list":
            texts = [value] if isinstance(value, str) else value
            if not isinstance(texts, (list, tuple)) or not all(isinstance(text, str) for text in texts):
                return f"{value!r} is not a list of texts"
            return None if texts else "the list is empty"
        wanted = {"int": int, "bool": bool, "bytes": bytes}.get(self.kind, str)
        if not isinstance(value, wanted) or (wanted is int and isinstance(value, bool)):
            shown = f"a {type(value).__name__}" if self.secret else repr(value)
            return f"{shown} is not {_KIND_NAMES[self.kind]}"
        size = value if isinstance(value, int) else len(value) if isinstance(value, bytes) else None
        if self.kind in ("int", "bytes") and size is not None and not self.low <= size <= self.high:
            shown = f"{size} bytes" if self.kind == "bytes" else str(size)
            return f"{shown} is {'less' if size < self.low else 'more'} than allowed"
        if isinstance(value, str):
            if self.choices and value not in self.choices:
                return f"{str(value)!r} is not known"
            if self.kind == "path" or not self.choices:
                return _text_problem(value)
        return None


_BOOLEANS: Final = {
    **dict.fromkeys(("1", "true", "yes", "on"), True),
    **dict.fromkeys(("0", "false", "no", "off"), False),
}
_KIND_NAMES: Final = {
    "int": "an integer",
    "bool": "true or false",
    "text": "text",
    "path": "a path",
    "bytes": "bytes",
}


def _text_problem(value: str) -> str | None:
    """Texts go to quiche, which aborts the process when one is not UTF-8, and ends it at a NUL."""
    if not value:
        return "is empty"
    if "\0" in value:
        return f"{value!r} holds a NUL"
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return f"{value!r} is not UTF-8"
    return None


def show_number(value: int, unit: str) -> str:
    """An integer as people write it: `16 MiB`, `2^60 bytes`, `10,000 connections`."""
    if unit == "bytes" and value < 1 << 40:
        for size, name in ((1024 * MIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
            if value >= size and value % size == 0:
                return f"{value // size} {name}"
    if not unit:
        return str(value)  # a port or a code, not a quantity
    number = f"2^{value.bit_length() - 1}" if value > 1 << 40 and value & (value - 1) == 0 else f"{value:,}"
    return f"{number} {unit}"


def declare(option: Option) -> dict[str, Option]:
    """The metadata of a dataclass field that carries its declaration."""
    return {"option": option}


def _declared(default: object, option: Option) -> Any:
    return field(default=default, repr=not option.secret, metadata=declare(option))


def integer(default: int, unit: str, low: int, high: int, doc: str) -> Any:
    return _declared(default, Option("int", doc, unit, low, high))


def flag(default: bool, doc: str) -> Any:
    return _declared(default, Option("bool", doc))


def path(doc: str) -> Any:
    return _declared(None, Option("path", doc, optional=True))


def text(default: str | None, doc: str, choices: tuple[str, ...] = ()) -> Any:
    return _declared(default, Option("text", doc, choices=choices, optional=default is None))


def choice(enum: type[Enum], doc: str) -> dict[str, Option]:
    values = tuple(member.value for member in enum)
    return declare(Option("text", doc, choices=values, enum=enum))


def blob(doc: str, size: int = 0, secret: bool = False) -> Any:
    low, high = (size, size) if size else (1, 16 * MIB)
    return _declared(None, Option("bytes", doc, low=low, high=high, optional=True, secret=secret))


def address_and_port(value: str) -> tuple[IPv4Address | IPv6Address, int]:
    """Of a text like `192.0.2.1:443` or `[2001:db8::1]:443`. Raises ValueError."""
    host, _, port = value.rpartition(":")
    address = ip_address(host[1:-1] if host[:1] + host[-1:] == "[]" else host)
    if (address.version == 6 and not host.startswith("[")) or not (
        port.isdecimal() and 0 < int(port) < 65_536
    ):
        raise ValueError(value)
    return address, int(port)


def convert(options: Mapping[str, Option], given: Mapping[str, object], source: str) -> dict[str, Any]:
    """The given values, texts converted to the type of their field.

    Raises `ConfigError` for a name that is no field, naming the nearest, and for a text that cannot be
    converted; `source` says where it came from.
    """
    values: dict[str, Any] = {}
    for name, value in given.items():
        if name not in options:
            import difflib  # only for this

            near = difflib.get_close_matches(name, options, n=1, cutoff=0.5)
            remedy = f"did you mean {near[0]}?" if near else "see docs/configuration.md for the fields"
            raise ConfigError(name, f"no such field ({source})", remedy)
        option = options[name]
        try:
            values[name] = option.parse(value) if isinstance(value, str) else value
        except ValueError:
            shown = "the value" if option.secret else repr(value)
            problem = f"{shown} cannot be used ({source})"
            raise ConfigError(name, problem, f"use {option.range_text()}") from None
    return values


def read_toml(file: str | os.PathLike[str]) -> dict[str, Any]:
    """The top-level table of a TOML file. Raises `ConfigError` when it cannot be read or parsed."""
    name = os.fspath(file)
    try:
        with Path(name).open("rb") as stream:
            return _load_toml(stream)
    except OSError as exc:
        raise ConfigError(name, f"cannot be read: {exc.strerror}", "give a TOML file") from None
    except ValueError as exc:  # TOMLDecodeError and UnicodeDecodeError
        raise ConfigError(name, f"is not TOML: {exc}", "write fields as name = value") from None
