"""How functions and values become bytes and back: by reference where they can be imported, by value where not.

By value goes what is defined in `__main__`, in a notebook, or in a module under the entry script's directory: another
machine does not have those. Everything else is imported where it is loaded.
"""

from __future__ import annotations

import functools
import io
import marshal
import os
import pickle
import re
import sys
import sysconfig
from collections import ChainMap
from collections.abc import Callable, Iterable, Sequence
from itertools import repeat
from types import CodeType, ModuleType
from typing import TYPE_CHECKING, Any, ClassVar, Final, NamedTuple, TypeAlias

from pfw.call import is_plain
from pfw.errors import MissingModuleError, UnpicklableError
from pfw.graph import IF_ALL

if TYPE_CHECKING:
    from pfw.call import Call, Row
    from pfw.stepfunction import Inherited, StepFunction

_PROTOCOL: Final = 5
#: Values of these types name no module, never change and are not large: `dumped` pickles them without a look.
SMALL: Final = frozenset({bool, int, float})
Small: TypeAlias = bool | int | float
#: Larger numbers may be too large to be sent, which is their step's fault.
SMALL_LIMIT: Final = 1 << 64
_dump_small: Final = functools.partial(pickle.dumps, protocol=_PROTOCOL)
#: The first byte of each pickle, and of nothing that marshal writes.
_PICKLED: Final = 0x80
#: Of marshal's formats the one whose bytes depend on nothing but the values, and the fastest one.
_MARSHAL: Final = 2
#: The one reason for which a plain call cannot be marshalled.
_TOO_LARGE: Final = "an argument of 2 GiB or more cannot be sent: pass a path instead"
#: Values of these types name no module, so their bytes need not be searched.
_PLAIN: Final = frozenset({type(None), bool, int, float, str, bytes})
_OUR_PACKAGES: Final = frozenset({"pfw", "pfw_coordinator", "pfw_worker"})
_INSTALLED: Final = tuple({os.path.realpath(sysconfig.get_path(key)) + os.sep for key in ("stdlib", "platstdlib")})
_SITE_FOLDERS: Final = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")

#: What to do about values that no process can be sent, by the type that pickle complains about.
_REMEDIES: Final = {
    "generator": "return a list, or consume it inside the step",
    "async_generator": "return a list, or consume it inside the step",
    "coroutine": "await it inside the step, or make the step `async def`",
    "lock": "make it inside the step, or leave it out of the object's __getstate__",
    "RLock": "make it inside the step, or leave it out of the object's __getstate__",
    "TextIOWrapper": "send the path and open the file inside the step",
    "BufferedReader": "send the path and open the file inside the step",
    "BufferedWriter": "send the path and open the file inside the step",
    "socket": "send the address and connect inside the step",
    "module": "import it inside the step",
}


class LoadedFunction(NamedTuple):
    """A step's function, ready to be called."""

    fn: Callable[..., Any]
    #: Whether the step's `Retry` allows another attempt after this exception.
    is_retryable: Callable[[BaseException], bool]
    #: Whether calling it gives a coroutine to be awaited.
    is_async: bool
    #: IF_ALL, IF_ANY or IF_ALWAYS: what it can do with inputs that are missing.
    run_if: int = IF_ALL
    #: The pickled Inherited of its workflow; b"" where that is nothing.
    inherited: bytes = b""


def dumped(output: bytes | Small) -> bytes:
    """Return an output as bytes: if it is a value of one of the SMALL types, pickled."""
    return output if isinstance(output, bytes) else _dump_small(output)


def all_dumped(outputs: Iterable[bytes | Small]) -> list[bytes]:
    """As `dumped` of each; 0.4 µs a number."""
    return [output if isinstance(output, bytes) else _dump_small(output) for output in outputs]


def dump_inherited(inherited: Inherited) -> bytes:
    """Return what `load_inherited` reads; b"" if it says nothing.

    Raises:
        UnpicklableError: It cannot be sent.
    """
    from pfw.stepfunction import STEP_DEFAULTS

    if not inherited.params and inherited.defaults == STEP_DEFAULTS:
        return b""
    return dump((dict(inherited.params), tuple(inherited.defaults)))


def load_inherited(pickled: bytes) -> Inherited:
    """Return what `dump_inherited` made these bytes of."""
    from pfw.stepfunction import STEP_DEFAULTS, Inherited, StepDefaults

    if not pickled:
        return Inherited({}, STEP_DEFAULTS)
    params, defaults = load(pickled)
    return Inherited(params, StepDefaults(*defaults))


class _Roots:
    """Which folders' modules go by value, and which modules of those have been found so far."""

    __slots__ = ("_folders", "_seen", "marks", "modules_scanned")

    def __init__(self) -> None:
        self._folders: list[str] | None = None
        self._seen: set[str] = set()
        #: How many modules there were when they were last looked through.
        self.modules_scanned = 0
        #: How a pickle names one of the modules that go by value.
        self.marks = [_mark("__main__")]

    def add(self, folder: str) -> None:
        """Send modules under this folder by value, also those that were imported before."""
        self._folders = [*self._need_folders(), os.path.realpath(folder) + os.sep]
        self._seen.clear()
        self.scan()

    def scan(self) -> None:
        """Register the modules that were imported since the last scan and lie under one of the folders."""
        self.modules_scanned = len(sys.modules)
        for name in set(sys.modules) - self._seen:
            self._seen.add(name)
            module = sys.modules.get(name)
            if isinstance(module, ModuleType) and name != "__main__" and self._is_local(name, module):
                self._register(name, module)

    def _need_folders(self) -> list[str]:
        if self._folders is None:
            script = getattr(sys.modules.get("__main__"), "__file__", None)
            # A notebook and an interactive session have no script: their modules lie in the working directory.
            folder = os.path.dirname(os.path.realpath(script)) if script else os.getcwd()
            self._folders = [folder + os.sep]
        return self._folders

    def _is_local(self, name: str, module: ModuleType) -> bool:
        file = module.__dict__.get("__file__")
        if not isinstance(file, str) or name.partition(".")[0] in _OUR_PACKAGES:
            return False
        # Most can be told by their names; where all links were followed first, this took 6 ms in each process.
        if _is_installed(file) or _is_installed(path := os.path.realpath(file)):
            return False
        return path.startswith(tuple(self._need_folders()))

    def _register(self, name: str, module: ModuleType) -> None:
        import cloudpickle

        cloudpickle.register_pickle_by_value(module)
        if _mark(name) not in self.marks:
            self.marks.append(_mark(name))


def _is_installed(file: str) -> bool:
    return file.startswith(_INSTALLED) or any(folder in file for folder in _SITE_FOLDERS)


def _mark(name: str) -> bytes:
    """Return how protocol 5 writes a string of this name (SHORT_BINUNICODE)."""
    encoded = name.encode()
    return b"\x8c" + bytes([len(encoded)]) + encoded if len(encoded) < 256 else encoded


_roots: Final = _Roots()


def add_source_root(folder: str) -> None:
    """Send what is defined in modules under this folder by value, as under the entry script's directory.

    Modules of the standard library and of installed packages are imported all the same.
    """
    _roots.add(folder)


def look_at_modules() -> None:
    """Find out which of the modules that are loaded now go by value; a process that is forked then knows it too."""
    _roots.scan()


def is_by_value(module_name: str) -> bool:
    """Return whether what is defined in this module is sent by value."""
    if len(sys.modules) != _roots.modules_scanned:
        _roots.scan()
    return _mark(module_name) in _roots.marks


def dump(value: Any) -> bytes:
    """Return the value as bytes for `load`; a small builtin takes about 0.3 µs.

    Raises:
        UnpicklableError: The value cannot be sent; the message says why and what to do.
    """
    if type(value) in _PLAIN:
        return pickle.dumps(value, _PROTOCOL)
    try:
        pickled = pickle.dumps(value, _PROTOCOL)
    except Exception:  # pickle raises whatever the value's own code raises
        return _dump_by_value(value)
    if len(sys.modules) != _roots.modules_scanned:
        _roots.scan()
    for mark in _roots.marks:
        if mark in pickled:
            return _dump_by_value(value)
    return pickled


def load(pickled: bytes) -> Any:
    """Return the value that `dump` made these bytes of; runs whatever code the bytes name.

    Raises:
        MissingModuleError: A module that the value needs is not installed here.
    """
    try:
        return pickle.loads(pickled)
    except ModuleNotFoundError as error:
        raise _missing(error) from error


def load_all(pickled: Iterable[bytes]) -> list[Any]:
    """Return the values that `dump` made these of. Raises as `load`."""
    try:
        return list(map(pickle.loads, pickled))
    except ModuleNotFoundError as error:
        raise _missing(error) from error


def dump_call(step_id: str, args: Row, kwargs: dict[str, Any] | None) -> bytes:
    """Return a step's call as bytes for `load_call`.

    Raises:
        UnpicklableError: An argument cannot be sent.
    """
    if type(step_id) is str and not kwargs and is_plain(args or ()):
        return dump_plain_call(step_id, args)
    return dump((step_id, args, kwargs))


def dump_plain_call(step_id: str, args: Row) -> bytes:
    """Return a call as `dump_plain_calls` does. Raises as that."""
    try:
        return marshal.dumps((step_id, args, None), _MARSHAL)
    except ValueError as error:
        raise UnpicklableError(_TOO_LARGE) from error


def dump_plain_calls(ids: Iterable[str], rows: Iterable[Row]) -> list[bytes]:
    """Return calls as `dump_call` does, whose arguments are positional and plain; None stands for none. 0.3 µs a call.

    The ids are of type `str`, and of no class derived from it.

    They are not pickled, which takes 0.7 µs, but in Python's own format, which both ends know: theirs is one Python.

    Raises:
        UnpicklableError: An argument has 2 GiB or more.
    """
    try:
        return list(map(marshal.dumps, zip(ids, rows, repeat(None), strict=False), repeat(_MARSHAL)))
    except ValueError as error:
        raise UnpicklableError(_TOO_LARGE) from error


def load_call(call: bytes) -> Call:
    """Return the call that these bytes were made of; raises as `load`, or something else if they are none."""
    found: Call = load(call) if call[0] == _PICKLED else marshal.loads(call)
    return found


def load_plain_calls(calls: Sequence[bytes]) -> Sequence[bytes | Call]:
    """Return the calls that nobody's code has a part in loading loaded, and the others as they are.

    One after the other they take 0.3 µs; a step of some ms finds none of that in the processor's caches: 20 µs.
    """
    try:
        return [call if call[0] == _PICKLED else marshal.loads(call) for call in calls]
    except Exception:  # one is none, for which marshal has many errors: its step is to fail
        return calls


def dump_function(function: StepFunction | Callable[..., Any], inherited: bytes = b"") -> bytes:
    """Return a step's function and what its `Retry` says of exceptions as bytes for `load_function`.

    Args:
        function: A step, or a plain function, which is never retried by the kind of its exception.
        inherited: What `dump_inherited` gave. It goes with the functions, so that it comes to each slot once.

    Raises:
        UnpicklableError: The function, or something that it closes over, cannot be sent.
    """
    from pfw.stepfunction import RUN_IF, Retry, StepFunction

    retry, run_if = Retry(), IF_ALL
    if isinstance(function, StepFunction):
        retry, run_if, function = function.retry, RUN_IF[function.run_if], function.named() or function.fn
    return dump((function, retry.on, retry.give_up, run_if, inherited))


def load_function(pickled: bytes) -> LoadedFunction:
    """Return the function that `dump_function` made these bytes of.

    Raises:
        MissingModuleError: Its module, or one that it imports, is not installed here, or does not define it.
    """
    from pfw.stepfunction import Retry, StepFunction, is_async

    try:
        function, on, give_up, run_if, inherited = load(pickled)
    except AttributeError as error:
        raise MissingModuleError(f"the installed module differs from the sender's: {error}") from error
    fn = function.fn if isinstance(function, StepFunction) else function
    return LoadedFunction(fn, Retry(on=on, give_up=give_up).is_retryable, is_async(fn), run_if, inherited)


def _missing(error: ModuleNotFoundError) -> MissingModuleError:
    message = f"module {error.name!r} is needed to load a value and is not installed here"
    return MissingModuleError(message, module=error.name)


def _dump_by_value(value: Any) -> bytes:
    file = io.BytesIO()
    try:
        _by_value_pickler()(file, _PROTOCOL).dump(value)
    except Exception as error:  # pickle raises whatever the value's own code raises
        what = f"a value of type {type(value).__qualname__!r}"
        raise UnpicklableError(f"{what} cannot be sent to another process: {_explain(error)}") from error
    return file.getvalue()


@functools.cache
def _by_value_pickler() -> type[pickle.Pickler]:
    import cloudpickle

    class Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # it has no types
        # Code keeps the name of its file, which cloudpickle 3.1.3 leaves out: tracebacks tell where a step failed.
        dispatch_table: ClassVar = ChainMap({CodeType: _reduce_code}, cloudpickle.Pickler.dispatch_table)

        def reducer_override(self, value: Any) -> Any:
            # Cached functions pickle themselves by name, wherever they are: cloudpickle does not know them.
            if isinstance(value, functools._lru_cache_wrapper) and not _is_importable(value):
                return _cached, (value.__wrapped__, value.cache_parameters())
            return super().reducer_override(value)

    return Pickler


def _reduce_code(code: CodeType) -> Any:
    import cloudpickle

    _, cells = cloudpickle.Pickler.dispatch_table[CodeType](code)
    return _code, (code.co_filename, *cells)


def _code(file: str, *cells: Any) -> CodeType:
    return CodeType(*cells).replace(co_filename=file)


def _is_importable(function: Any) -> bool:
    module = getattr(function, "__module__", None)
    return module in sys.modules and not is_by_value(module) and "<locals>" not in function.__qualname__


def _cached(function: Callable[..., Any], parameters: dict[str, Any]) -> Any:
    return functools.lru_cache(**parameters)(function)


def _explain(error: Exception) -> str:
    text = str(error)
    found = re.search(r"cannot pickle '(?:\w+\.)*(\w+)' object", text)
    remedy = _REMEDIES.get(found[1]) if found else None
    if "pickle files" in text:  # cloudpickle's own words
        remedy = _REMEDIES["TextIOWrapper"]
    if "recursion" in text:
        remedy = "it is nested too deeply; use a flat structure"
    return f"{text}; {remedy}" if remedy else f"{type(error).__name__}: {text}"
