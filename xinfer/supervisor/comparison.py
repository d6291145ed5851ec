"""The combinations of engines and weights of a model side by side, as JSON values. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any

from xinfer.catalog.selection import default_size, size_of
from xinfer.catalog.sources import hub_source
from xinfer.supervisor.matching import Combination, Fit, Hindrance, hindrance_of, idle_warning, install_command

Found = tuple[Combination, Fit | None]
"""A combination, and whether it fits now; None: something else stands against it."""


def compared(found: Sequence[Found]) -> dict[str, Any]:
    """Every combination, the best first: those of the size that is taken by default before the others.

    ``best`` is what a launch would take that names nothing more; None: nothing that is installed fits now.
    """
    specs = [one.spec for one, _ in found]
    preferred = default_size(specs)
    order = {label: number for number, label in enumerate(dict.fromkeys([preferred, *map(size_of, specs)]))}
    rows = [_row(*one) for one in sorted(found, key=lambda one: (_rank(*one), order[size_of(one[0].spec)]))]
    best = (row for row in rows if row["runs"] and not row["installs_engine"] and row["size"] == preferred)
    return {
        "model_name": specs[0].name,
        "model_type": specs[0].kind.value,
        "default_size": preferred,
        "sizes": sorted(order, key=lambda label: _billions(specs, label)),
        "best": next(best, None),
        "combinations": rows,
    }


def _rank(one: Combination, fit: Fit | None) -> tuple[int, bool, bool]:
    """What runs, then what is too large for now, then the rest, the easiest to mend first."""
    if one.obstacle is not None:
        return int(one.obstacle.hindrance), one.installs, False
    return 0 if fit is None or fit.fits else int(Hindrance.MEMORY), one.installs, bool(one.idles)


def _row(one: Combination, fit: Fit | None) -> dict[str, Any]:
    engine, spec, obstacle = one.engine, one.spec, one.obstacle
    fits = fit is not None and fit.fits
    hindrance = hindrance_of(one) or ("" if fits else Hindrance.MEMORY.name.lower())
    return {
        "model_engine": engine.name,
        "size": size_of(spec),
        "model_size_in_billions": spec.size_in_billions,
        "model_format": spec.format.value,
        "quantization": spec.quantization,
        "weights_mib": spec.weights_mib,
        "weights_here": hub_source(spec.source) is None,
        "sources": [source for source in (spec.source, *spec.mirrors) if source],
        "runs": fits,
        "installs_engine": one.installs,
        "device_kind": fit.device_kind if fit else "",
        "needed_mib": fit.needed_mib if fit else 0,
        "fits_on": fit.where if fit else "",
        "missing_mib": fit.missing_mib if fit else 0,
        "hindrance": hindrance,
        "reason": obstacle.reason if obstacle else fit.reason if fit else "",
        "command": obstacle.command if obstacle else install_command(engine, one.packages) if one.installs else "",
        "warning": idle_warning(one),
    }


def _billions(specs: Sequence[Any], label: str) -> float:
    return next((spec.size_in_billions or 0.0 for spec in specs if size_of(spec) == label), 0.0)


def by_engine(found: Mapping[str, Any]) -> dict[str, Any]:
    """The answer of ``compared`` as Xinference has it: what each engine can run, or why it can run nothing."""
    table: dict[str, Any] = {}
    name = {"model_name": found["model_name"]}
    for row in found["combinations"]:
        engine = row["model_engine"]
        if row["reason"] and row["hindrance"] != Hindrance.MEMORY.name.lower():
            table.setdefault(engine, row["reason"])
            continue
        if not isinstance(table.get(engine), dict):
            table[engine] = {}
        entry = table[engine].setdefault((row["model_format"], row["size"]), name | _names(row) | {"quantizations": []})
        entry["quantizations"].append(row["quantization"])
    return {engine: rows if isinstance(rows, str) else list(rows.values()) for engine, rows in table.items()}


def _names(row: dict[str, Any]) -> dict[str, Any]:
    billions = row["model_size_in_billions"]
    if billions is not None:
        billions = int(billions) if float(billions).is_integer() else f"{billions:g}".replace(".", "_")
    return {"model_format": row["model_format"], "model_size_in_billions": billions}
