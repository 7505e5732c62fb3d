"""By reference where it can be imported, by value where not."""

from __future__ import annotations

import collections
import functools
import operator
import os
import pickle
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pfw import codec
from pfw.call import Input
from pfw.errors import MissingModuleError, UnpicklableError
from pfw.expansion import Tail
from pfw.stepfunction import Retry, step


@functools.cache
def cached_here(x: int) -> int:
    return x


@step(retry=Retry(on=KeyError, give_up=LookupError))
def importable(x: int) -> int:
    return x + 1


@pytest.mark.parametrize("value", [None, True, 3, 1.5, "text", b"bytes", [1, {"a": (2,)}], "__main__"])
def test_values_come_back_as_they_were(value: object) -> None:
    assert codec.load(codec.dump(value)) == value


class Text(str):
    pass


class Number(int):
    pass


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        (None, None),
        ((1, -(2**70), 1.5, float("-inf"), 2j, True, None, "t\u00e4xt\udcff", b"\x80bytes"), None),
        ((1,), {"key": 2}),
        (([1, {"a": (2,)}],), None),
        ((bytearray(b"x"), Number(3), Text("text")), None),
        ((Input(0), range(3)), None),
    ],
)
@pytest.mark.parametrize("step_id", ["step", Tail("outer/step", "outer", 1)])
def test_calls_come_back_as_they_were(step_id: str, args: Any, kwargs: Any) -> None:
    packed = codec.dump_call(step_id, args, kwargs)
    for found in (codec.load_call(packed), *map(loaded_call, codec.load_plain_calls([packed]))):
        assert found == (step_id, args, kwargs)
        assert type(found[0]) is type(step_id)
        assert [type(value) for value in found[1] or ()] == [type(value) for value in args or ()]


def loaded_call(call: Any) -> Any:
    return codec.load_call(call) if type(call) is bytes else call


def test_only_calls_that_run_no_code_are_loaded_ahead() -> None:
    plain, other = codec.dump_call("a", (1, "x"), None), codec.dump_call("b", (Text("x"),), None)
    assert codec.load_plain_calls([plain, other]) == [("a", (1, "x"), None), other]
    assert codec.load_plain_calls([plain, b"odd"]) == [plain, b"odd"]


def test_closures_and_lambdas_go_by_value() -> None:
    offset = 5
    assert codec.load(codec.dump(lambda x: x + offset))(1) == 6


def test_code_that_goes_by_value_keeps_the_name_of_its_file() -> None:
    # Without it a traceback says nowhere where the step failed.
    def outer() -> Callable[[], int]:
        return lambda: 1

    loaded = codec.load(codec.dump(outer))
    assert [loaded.__code__.co_filename, loaded().__code__.co_filename] == [__file__, __file__]


def test_cached_functions_go_by_value_with_an_empty_cache() -> None:
    calls = []

    @functools.lru_cache(maxsize=7, typed=True)
    def fibonacci(n: int) -> int:
        calls.append(n)
        return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)

    assert fibonacci(10) == 55
    loaded = codec.load(codec.dump(lambda n: (fibonacci(n), fibonacci.cache_info(), len(calls))))
    value, info, count = loaded(20)
    assert (value, info.maxsize, info.currsize) == (6765, 7, 7)
    assert count == 11 + 21  # its own list of calls, as it was when it was sent
    assert codec.load(codec.dump([cached_here, lambda: 0]))[0] is cached_here


@pytest.mark.parametrize(
    ("value", "advice"),
    [
        ((i for i in range(3)), "return a list"),
        ([threading.Lock()], "make it inside the step"),
        ({"file": sys.__stdout__}, "open the file inside the step"),
    ],
    ids=["generator", "lock", "file"],
)
def test_what_cannot_be_sent_is_refused_with_advice(value: object, advice: str) -> None:
    with pytest.raises(UnpicklableError, match=advice):
        codec.dump(value)


def test_nesting_without_end_is_refused() -> None:
    nested: list[Any] = []
    for _ in range(100_000):
        nested = [nested]
    with pytest.raises(UnpicklableError, match="nested too deeply"):
        codec.dump(nested)


def test_a_missing_module_is_named() -> None:
    with pytest.raises(MissingModuleError, match="'no_such_module'") as caught:
        codec.load(b"cno_such_module\nf\n.")
    assert caught.value.module == "no_such_module"


def test_a_step_is_sent_by_its_name_and_arrives_as_its_function() -> None:
    loaded = codec.load_function(codec.dump_function(importable))
    assert loaded.fn is importable.fn
    assert not loaded.is_async
    assert not loaded.is_retryable(KeyError())
    assert not loaded.is_retryable(ValueError())


def test_a_plain_function_can_be_sent() -> None:
    loaded = codec.load_function(codec.dump_function(operator.add))
    assert loaded.fn is operator.add
    assert loaded.is_retryable(ValueError())


def test_a_local_step_goes_by_value() -> None:
    @step
    async def local(x: int) -> int:
        return 2 * x

    loaded = codec.load_function(codec.dump_function(local))
    assert loaded.is_async
    assert loaded.fn.__name__ == "local"


def test_a_function_that_the_module_here_lacks_is_reported() -> None:
    pickled = codec.dump((collections.OrderedDict, (), ())).replace(b"OrderedDict", b"OrderedList")
    with pytest.raises(MissingModuleError, match="OrderedList"):
        codec.load_function(pickled)


def test_modules_beside_the_script_go_by_value_and_others_by_name(tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text(
        "class Point:\n    def __init__(self, x): self.x = x\n    def __eq__(self, o): return self.x == o.x\n"
    )
    (tmp_path / "script.py").write_text(
        textwrap.dedent(
            """
            import sys
            import json.decoder
            from beside import Point
            from pfw import codec
            from pfw.stepfunction import step

            @step
            def helper(x): return x * 10

            @step
            def main(x): return helper(Point(x).x) + (main(x - 1) if x else 0)

            point, function = codec.dump([Point(1)]), codec.dump_function(main)
            sys.stdout.buffer.write(point.hex().encode() + b" " + function.hex().encode())
            assert codec.is_by_value("beside") and codec.is_by_value("__main__")
            assert not codec.is_by_value("json.decoder") and not codec.is_by_value("pfw.stepfunction")
            """
        )
    )
    environ = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, tmp_path / "script.py"], env=environ, capture_output=True, check=True, cwd=os.sep, timeout=30
    )
    point, function = (bytes.fromhex(text.decode()) for text in done.stdout.split())
    assert codec.load(point)[0].x == 1
    assert codec.load_function(function).fn(1) == 10
    assert "beside" not in sys.modules


def test_a_folder_can_be_declared_a_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "declared_source.py").write_text("def f(): return 7\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    import declared_source  # type: ignore[import-not-found]

    codec.add_source_root(str(tmp_path))
    pickled = codec.dump_function(declared_source.f)
    monkeypatch.delitem(sys.modules, "declared_source")
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry != str(tmp_path)])
    assert codec.load_function(pickled).fn() == 7


def test_small_builtins_are_plain_pickles() -> None:
    assert codec.dump(7) == pickle.dumps(7, 5)
