"""Config: its fields, where they come from, and what is refused."""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
import math
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from helpers import ROOT
from pfw import (
    Client,
    Config,
    ConfigError,
    LocalCluster,
    Retry,
    Run,
    StepFunction,
    Workflow,
    arun,
    current,
    run,
    start,
    step,
)
from pfw.config import _RULES, settle
from pfw_worker.cli import main as serve


@step
def attempts_used() -> int:
    if current().attempt < 3:
        raise ConnectionError("not yet")
    return current().attempt


@step(retry=0)
def fail() -> None:
    raise ValueError("no good")


def toml(folder: Path, text: str) -> Path:
    file = folder / "pfw.toml"
    file.write_text(text)
    return file


BAD: dict[str, list[Any]] = {
    "mode": ["paralell", 1, None, ["parallel"]],
    "cpu": [0, -1, 10_001, "2", True, 2.0, math.nan],
    "io": [0, -1, 10_001, "2", True, 2.0, math.inf],
    "memory": [0, -1, "2", "much", "-1GB", "", True, 2.0, math.nan, 1 << 53],
    "retry": [-1, 1.5, "3", True, math.nan, None, {"retries": 3}],
    "grace": [-0.1, math.nan, math.inf, "1", True, None, 1e9],
    "step_timeout": [0, -0.1, math.nan, math.inf, "1", True, 1e9],
    "timeout": [0, -0.1, math.nan, math.inf, "1", True, 1e9],
    "on_failure": ["ignore", True, None],
    "keep": ["leafs", 3, [1], None],
    "priority": [-1, 1.0, "1", True, 1 << 31, math.inf],
}


@pytest.mark.parametrize(("field", "value"), [(field, value) for field, values in BAD.items() for value in values])
def test_a_value_that_cannot_be_is_refused_and_named(field: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"^{field} is"):
        Config(**{field: value})
    with pytest.raises(ConfigError, match=rf"^{field} is"):
        Config().replace(**{field: value})
    if value is not None:
        with pytest.raises(ConfigError, match=rf"^{field} is"):
            settle(Config(), **{field: value})


def test_what_is_good_has_one_form() -> None:
    config = Config(retry=2, grace=1, keep=(name for name in "ab"))
    assert (config.retry, config.grace, config.keep) == (Retry(retries=2), 1.0, ("a", "b"))
    assert type(config.grace) is float
    assert config.replace(cpu=3) == Config(retry=2, grace=1, keep=["a", "b"], cpu=3)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.cpu = 4  # type: ignore[misc]
    assert Config(memory="1.5 GiB") == Config(memory=3 << 29)
    assert Config(memory="2GB").replace(cpu=1).memory == Config().replace(memory="2GB").memory == 2 * 10**9
    with pytest.raises(TypeError, match="cpus"):
        Config(cpus=4)  # type: ignore[call-arg]


def test_a_keyword_wins_over_the_variable_over_the_file_over_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = toml(tmp_path, 'cpu = 3\nio = 5\nmemory = "5GB"\ngrace = 7\nkeep = ["a", "b"]\n')
    monkeypatch.setenv("PFW_CONFIG", str(file))
    monkeypatch.setenv("PFW_IO", "6")
    monkeypatch.setenv("PFW_GRACE", "8.5")
    config = Config.load(grace=9)
    assert (config.cpu, config.io, config.grace, config.keep, config.mode) == (3, 6, 9.0, ("a", "b"), "parallel")
    assert settle(None, cpu=1, io=None).cpu == 1
    assert (config.memory, settle(None, memory=7).memory) == (5 * 10**9, 7)
    monkeypatch.setenv("PFW_MEMORY", "6GB")
    assert (Config.load().memory, Config.load(memory="7GB").memory) == (6 * 10**9, 7 * 10**9)
    other = tmp_path / "other.toml"
    other.write_text("cpu = 4\n")
    assert (Config.load(other).cpu, Config.load(str(other)).io) == (4, 6)
    assert Config() == Config(io=None)  # what is made by hand does not look around


def test_variables_are_read_as_what_their_fields_are(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in {"MODE": "waves", "RETRY": "4", "KEEP": "one, two", "PRIORITY": "0", "ON_FAILURE": ""}.items():
        monkeypatch.setenv(f"PFW_{name}", text)
    config = Config.load()
    assert (config.mode, config.retry, config.keep) == ("waves", Retry(retries=4), ("one", "two"))
    assert (config.priority, config.on_failure) == (0, "stop")
    monkeypatch.setenv("PFW_KEEP", "all")
    assert Config.load().keep == "all"


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("mode", "fast"), ("cpu", "four"), ("cpu", "0"), ("cpu", "2.5"), ("io", "-1"), ("retry", "many"),
        ("retry", "-2"), ("grace", "nan"), ("grace", "inf"), ("grace", "1e999"), ("grace", "-1"),
        ("on_failure", "go"), ("priority", "1.5"), ("memory", "much"), ("memory", "8"),
    ],
)  # fmt: skip
def test_a_bad_variable_is_named(field: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    variable = f"PFW_{field.upper()}"
    monkeypatch.setenv(variable, text)
    with pytest.raises(ConfigError, match=f"^the variable {variable} is"):
        Config.load()
    with pytest.raises(ConfigError, match=variable):
        settle(None, cpu=1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cpu = 0", "cpu in .*pfw.toml is a number of slots from 1 to 10,000, not 0"),
        ('io = "8"', "io in .*pfw.toml is a number of slots from 1 to 10,000, not '8'"),
        ("memory = -1", "memory in .*pfw.toml is a number of bytes, or a text .*, not -1"),
        ("memory = true", "memory in .*pfw.toml is a number of bytes, or a text .*, not True"),
        ("grace = nan", "grace in .*pfw.toml is a number, 0 or more, not nan"),
        ("grace = true", "grace in .*pfw.toml is a number, 0 or more, not True"),
        ("retry = -1", "retry in .*pfw.toml is a number of attempts"),
        ("[retry]\nbackoff = inf", "retry in .*pfw.toml: Retry.backoff is a number"),
        ("[retry]\nretires = 1", "retry in .*pfw.toml: there is no 'retires'.*did you mean \"retries\""),
        ('[retry]\non = "OSError"', "retry in .*pfw.toml: there is no 'on'"),
        ("progress = 1", "progress in .*pfw.toml is a function that takes an event, 'bar', .*, not 1"),
        ("prioriti = 1", "pfw.toml: there is no 'prioriti'.*did you mean \"priority\""),
        ("cpu = 1\nio = = 2", "pfw.toml cannot be read: .*line 2"),
    ],
)
def test_a_bad_file_is_named_with_its_key(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Config.load(toml(tmp_path, text))


def test_a_file_that_is_not_there_or_no_text_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PFW_CONFIG", str(tmp_path / "nowhere.toml"))
    with pytest.raises(ConfigError, match=r"nowhere.toml cannot be read"):
        Config.load()
    file = tmp_path / "bytes.toml"
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"bytes.toml cannot be read"):
        Config.load(file)


@pytest.mark.parametrize("use", [partial(run, Workflow()), partial(Client, "tcp://127.0.0.1:1"), LocalCluster])
def test_a_config_is_a_config(use: Callable[..., object]) -> None:
    with pytest.raises(ConfigError, match="config is a Config, not 'waves'"):
        use(config="waves")


def test_the_doors_take_the_same_options() -> None:
    options = [inspect.signature(door).parameters for door in (run, start, arun)]
    assert options[0] == options[1] == options[2]
    assert list(options[0])[1:] == [
        "mode", "on", "cpu", "io", "memory", "config", "token", "progress", "timeout", "on_failure", "keep", "check",
        "priority",
    ]  # fmt: skip


@pytest.mark.parametrize("door", [run, start, lambda wf, **options: asyncio.run(arun(wf, **options))])
def test_a_bad_size_is_refused_before_anything_is_started(door: Callable[..., object]) -> None:
    with pytest.raises(ConfigError, match=r"^memory is a number of bytes, .* not '2'"):
        door(two_steps(), mode="sequential", memory="2")


@pytest.mark.parametrize("size", [{"cpu": 0}, {"io": 1.5}, {"memory": "2"}])
def test_sizes_of_a_local_cluster_have_the_same_rules(size: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=rf"^{next(iter(size))} is"):
        LocalCluster(**size)


def test_a_bad_variable_is_refused_by_a_local_cluster_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PFW_IO", "some")
    with pytest.raises(ConfigError, match=r"^the variable PFW_IO is"):
        LocalCluster()


@pytest.mark.parametrize("seconds", [-1, math.nan, math.inf, "1", True])
def test_how_long_a_run_is_waited_for_is_checked(seconds: Any) -> None:
    found = sequential(two_steps())
    for wait in (found.wait, partial(found.cancel, "")):
        with pytest.raises(ConfigError, match=r"^timeout is a number"):
            wait(seconds)
    assert found.wait(0)


@pytest.mark.parametrize("seconds", ["-1", "nan", "inf"])
def test_how_long_a_worker_drains_is_checked(seconds: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        serve(["tcp://127.0.0.1:1", "--drain-s", seconds])
    assert "--drain-s is a number, 0 or more, not " in capsys.readouterr().err


# ---------------------------------------------------------------- what it does


def two_steps() -> Workflow:
    with Workflow("two") as wf:
        wf.returns(attempts_used())
        fail()
    return wf


def sequential(wf: Workflow, **options: Any) -> Run:
    return run(wf, mode="sequential", check=False, **options)


def test_a_step_that_sets_nothing_gets_the_configs_retry_and_grace() -> None:
    wf = two_steps()
    config = Config(retry=Retry(retries=2, backoff=0.001), grace=0.5, on_failure="continue")
    first, second = wf.compile(config.step_defaults).graph.specs
    assert (first.retries, first.backoff, first.grace) == (2, 0.001, 0.5)
    assert (second.retries, second.grace) == (0, 0.5)
    found = sequential(wf, config=config)
    assert found.outputs["attempts_used"] == 3
    assert found.errors["fail"].attempts == 1
    # The same workflow with another config, and with none: each run has its own.
    assert sequential(wf, config=config.replace(retry=1)).errors["attempts_used"].attempts == 2
    assert sequential(wf, on_failure="continue").errors["attempts_used"].attempts == 1


def test_the_rules_of_the_configs_retry_are_asked() -> None:
    config = Config(retry=Retry(retries=5, backoff=0.001, give_up=ConnectionError), on_failure="continue")
    assert sequential(two_steps(), config=config).errors["attempts_used"].attempts == 1


def test_options_and_pickles_keep_what_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    def plain() -> None:
        pass

    base = step(plain)
    for changed in (base, base.options(id="x"), rebuilt(base)):
        assert changed.unset == {"retry", "grace", "timeout"}
    for changed in (base.options(retry=0), rebuilt(base.options(retry=0))):
        assert changed.unset == {"grace", "timeout"}
    settled = base.settled(Config(retry=3, grace=1, step_timeout=9).step_defaults)
    assert (settled.retry.retries, settled.grace, settled.name, base.retry.retries) == (3, 1.0, "plain", 0)
    assert (settled.timeout, base.timeout) == (9.0, None)


def rebuilt(function: StepFunction) -> StepFunction:
    made = function.__reduce__()
    assert isinstance(made, tuple)
    return made[0](*made[1])


def test_variables_reach_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PFW_MODE", "sequential")
    monkeypatch.setenv("PFW_ON_FAILURE", "continue")
    monkeypatch.setenv("PFW_RETRY", "2")
    monkeypatch.setenv("PFW_KEEP", "attempts_used")
    found = run(two_steps(), check=False)
    assert found.outputs["attempts_used"] == 3
    assert list(found.outputs) == ["attempts_used"]
    assert {known.worker.partition("-")[0] for known in found.metrics.steps.values()} == {"sequential"}


def test_every_field_has_its_rule() -> None:
    assert set(_RULES) == {field.name for field in dataclasses.fields(Config)}


def test_the_page_lists_the_fields_with_their_defaults() -> None:
    page = (ROOT / "docs" / "config.md").read_text("utf-8")
    rows = re.findall(r"^\| `(\w+)` \| `([^`]+)` \| (?:`PFW_(\w+)`)? *\|", page, re.MULTILINE)
    documented = [(name, default) for name, default, _ in rows]
    assert documented == [
        (f.name, str(f.default) if f.default in (None, 0, 2.0) else f'"{f.default}"')
        for f in dataclasses.fields(Config)
    ]
    assert all(variable == name.upper() for name, _, variable in rows)
