"""A pickle machine for checkpoints: it runs nothing but functions of our own, within bounds.

torch's `weights_only` machine calls the real classes with whatever a file says, so that a file
of a kilobyte can crash it or take all memory. This one knows the opcodes that torch writes, by
default (protocol 2) or asked for a later one, calls only what `ladon.models.safe_globals` puts in
the place of each name, and counts: objects, the work of each call, and in the end how deep and how
large the result is when every reference in it is followed.
"""

from __future__ import annotations

import argparse
import pickletools  # nosec B403 # reads opcodes and runs none
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO

# resnest269e's training checkpoint needs about 200,000 steps
MAX_STEPS = 2_000_000
MAX_DEPTH = 100
MAX_EXPANDED = 2_000_000
_MAX_KEY = 1 << 60  # Python's hash of an integer is itself up to here: no collisions by design
_CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_LITERALS = {"BININT", "BININT1", "BININT2", "BINFLOAT", "LONG1"}
_TEXTS = {
    "BINUNICODE",
    "SHORT_BINUNICODE",
    "BINUNICODE8",
    "SHORT_BINSTRING",
    "BINSTRING",
    "SHORT_BINBYTES",
    "BINBYTES",
    "BINBYTES8",
}
_SCALARS = (str, bytes, float, bool, type(None))
_SIZED = (str, bytes, dict, list, tuple, set)


class Refused(Exception):
    """A file holds something that no checkpoint needs; the message says what."""


def printable(text: str) -> str:
    """Return text of a file so that it stays in one line and in any terminal's reach."""
    return "".join(c if c.isprintable() else "?" for c in text)


class Call:
    """A function of our own that stands in the place of a name in the file.

    Args:
        name: the name in the file, for errors.
        function: called with the file's arguments, which it must check.
        new: it is a class without arguments, made by `cls.__new__`, not by a call.
    """

    def __init__(self, name: str, function: Callable[..., Any], *, new: bool = False) -> None:
        self.name, self.function, self.new = name, function, new


class SafeUnpickler:
    """Runs one pickle of a stream and leaves the stream behind its end.

    Args:
        stream: with `read`, `readline` and `tell`; never reads more than there is.
        names: what stands for each "module.name"; a Call, or a value that cannot be called.
        load_storage: makes a storage of a persistent id; its argument is a tuple.
    """

    def __init__(
        self,
        stream: BinaryIO,
        names: Mapping[str, Any],
        load_storage: Callable[[tuple], Any] | None = None,
    ) -> None:
        self._stream, self._names, self._load_storage = stream, names, load_storage
        self._stack: list[Any] = []
        self._marks: list[list[Any]] = []
        self._memo: dict[int, Any] = {}
        self._steps = 0

    def load(self) -> Any:
        """Return the object.

        Raises:
            Refused: for anything that is not let in.
        """
        for opcode, argument, _ in pickletools.genops(self._stream):
            self._charge(1)
            if opcode.name == "STOP":
                result = self._stack.pop()
                check_nesting(result)
                return result
            self._step(opcode.name, argument)
        raise Refused("truncated or damaged: it ends too early")

    def _charge(self, work: int) -> None:
        self._steps += work
        if self._steps > MAX_STEPS:
            raise Refused(
                f"refused: it takes more than {MAX_STEPS:,} steps to load, which no model needs"
            )

    def _step(self, name: str, argument: Any) -> None:
        stack = self._stack
        if name in _LITERALS:
            stack.append(argument)
        elif name in _TEXTS:
            self._charge(len(argument) >> 8)
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in ("BINPUT", "LONG_BINPUT"):
            self._memo[argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(self._memo[argument])
        elif name == "GLOBAL":
            stack.append(self._named(argument.replace(" ", ".")))
        else:
            handler = _HANDLERS.get(name)
            if handler is None:
                raise Refused(f"not a checkpoint, or damaged: {name} is nothing that torch writes")
            handler(self)

    def _named(self, name: str) -> Any:
        try:
            return self._names[name]
        except KeyError:
            pass
        if name.startswith(("torch.", "numpy.")):
            raise Refused(f"refused: it holds {name}, which no checkpoint of these models needs")
        raise Refused(f"refused: it holds objects that would run code when loaded ({name})")

    def _popped(self) -> list[Any]:
        items, self._stack = self._stack, self._marks.pop()
        return items

    def _mark(self) -> None:
        self._marks.append(self._stack)
        self._stack = []

    def _reduce(self) -> None:
        arguments, function = self._stack.pop(), self._stack.pop()
        self._stack.append(self._called(function, arguments, new=False))

    def _new(self) -> None:
        arguments, function = self._stack.pop(), self._stack.pop()
        self._stack.append(self._called(function, arguments, new=True))

    def _called(self, function: Any, arguments: Any, *, new: bool) -> Any:
        if not isinstance(function, Call) or function.new is not new:
            name = getattr(function, "__name__", None) or getattr(function, "name", "an object")
            raise Refused(f"refused: it calls {name!s:.80}, which no checkpoint needs")
        if type(arguments) is not tuple:
            raise Refused(f"not a checkpoint, or damaged: {function.name} without arguments")
        self._charge(sum(len(a) for a in arguments if isinstance(a, _SIZED)))
        try:
            return function.function(*arguments)
        except (TypeError, ValueError, OverflowError) as error:
            text = " ".join(str(error).split())
            raise Refused(f"refused: {function.name} with odd arguments ({text:.100})") from error

    def _build(self) -> None:
        state, target = self._stack.pop(), self._stack[-1]
        build = self._names.get("<build>")
        if build is None:
            raise Refused("not a checkpoint, or damaged: objects where none belong")
        if isinstance(state, _SIZED):
            self._charge(len(state))
        build(target, state)

    def _persistent(self) -> None:
        pid = self._stack.pop()
        if self._load_storage is None or type(pid) is not tuple:
            raise Refused("not a checkpoint, or damaged: a storage where none belongs")
        self._stack.append(self._load_storage(pid))

    def _named_on_the_stack(self) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        if type(name) is not str or type(module) is not str:
            raise Refused("not a checkpoint, or damaged: a name that is no text")
        self._stack.append(self._named(f"{module}.{name}"))

    def _memoize(self) -> None:
        self._memo[len(self._memo)] = self._stack[-1]

    def _add(self, items: list[Any]) -> None:
        if type(self._stack[-1]) is not set:
            raise Refused("not a checkpoint, or damaged: items of no set")
        for item in items:
            check_key(item)
        self._stack[-1].update(items)

    def _set(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if not isinstance(target, dict) or len(items) % 2:
            raise Refused("not a checkpoint, or damaged: items of no dictionary")
        for key, value in zip(items[::2], items[1::2], strict=True):
            check_key(key)
            target[key] = value

    def _set_one(self) -> None:
        items = self._stack[-2:]
        del self._stack[-2:]
        self._set(items)

    def _extend(self, items: list[Any]) -> None:
        if type(self._stack[-1]) is not list:
            raise Refused("not a checkpoint, or damaged: items of no list")
        self._stack[-1].extend(items)

    def _marked_tuple(self) -> None:
        items = tuple(self._popped())
        self._stack.append(items)

    def _tuple(self, count: int) -> None:
        items = tuple(self._stack[-count:])
        if len(items) != count:
            raise Refused("not a checkpoint, or damaged: a tuple without items")
        self._stack[-count:] = [items]


_HANDLERS: dict[str, Callable[[SafeUnpickler], None]] = {
    "PROTO": lambda self: None,
    "FRAME": lambda self: None,  # how much to read ahead
    "MEMOIZE": SafeUnpickler._memoize,
    "STACK_GLOBAL": SafeUnpickler._named_on_the_stack,
    "EMPTY_SET": lambda self: self._stack.append(set()),
    "ADDITEMS": lambda self: self._add(self._popped()),
    "MARK": SafeUnpickler._mark,
    "REDUCE": SafeUnpickler._reduce,
    "NEWOBJ": SafeUnpickler._new,
    "BUILD": SafeUnpickler._build,
    "BINPERSID": SafeUnpickler._persistent,
    "EMPTY_DICT": lambda self: self._stack.append({}),
    "EMPTY_LIST": lambda self: self._stack.append([]),
    "APPEND": lambda self: self._extend([self._stack.pop()]),
    "APPENDS": lambda self: self._extend(self._popped()),
    "SETITEM": SafeUnpickler._set_one,
    "SETITEMS": lambda self: self._set(self._popped()),
    "TUPLE": SafeUnpickler._marked_tuple,
    "TUPLE1": lambda self: self._tuple(1),
    "TUPLE2": lambda self: self._tuple(2),
    "TUPLE3": lambda self: self._tuple(3),
}


def check_key(key: Any) -> None:
    """Refuse keys whose hash could recurse for ever or collide at will.

    Raises:
        Refused: unless it is a plain value or a short, flat tuple of them.
    """
    parts = key if type(key) is tuple and len(key) <= 16 else (key,)
    for part in parts:
        if type(part) is int and abs(part) >= _MAX_KEY:
            raise Refused(f"refused: a dictionary with a key of {part.bit_length()} bits")
        if type(part) not in (*_SCALARS, int):
            raise Refused(f"refused: a dictionary with keys of type {type(part).__name__}")


def check_nesting(root: Any) -> None:
    """Refuse what cannot be walked: cycles, absurd depth, and references nested so that a walk
    over them has no end ("billion laughs").

    Raises:
        Refused: saying which of them.
    """
    known: dict[int, tuple[int, int] | None] = {}
    waiting: list[tuple[Any, bool]] = [(root, False)]
    while waiting:
        item, is_done = waiting.pop()
        if is_done:
            below = [_measured(child, known) for child in _children(item)]
            size = 1 + sum(s for s, _ in below)
            depth = 1 + max((d for _, d in below), default=0)
            if depth > MAX_DEPTH:
                raise Refused(f"refused: nested more than {MAX_DEPTH} deep")
            if size > MAX_EXPANDED:
                raise Refused(
                    f"refused: nested references that unfold to more than {MAX_EXPANDED:,} values"
                )
            known[id(item)] = size, depth
        elif id(item) not in known:
            known[id(item)] = None
            waiting.append((item, True))
            waiting += [(child, False) for child in _children(item) if _is_container(child)]
        elif known[id(item)] is None:
            raise Refused("refused: it holds an object that holds itself")


def _measured(child: Any, known: Mapping[int, tuple[int, int] | None]) -> tuple[int, int]:
    if _is_container(child):
        return known[id(child)] or (0, 0)
    return (1 + (len(child) >> 6) if isinstance(child, str | bytes) else 1), 0


def _is_container(item: Any) -> bool:
    return isinstance(item, dict | list | tuple | set | argparse.Namespace)


def _children(item: Any) -> Iterator[Any]:
    if isinstance(item, argparse.Namespace):
        yield from vars(item).values()
    elif isinstance(item, dict):
        yield from item.values()
        yield from getattr(item, "__dict__", {}).values()
    elif isinstance(item, list | tuple | set):
        yield from item
