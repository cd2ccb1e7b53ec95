"""The report of a benchmark: Markdown tables while it runs, and JSON."""

import datetime
import importlib.metadata
import json
import os
import platform
import re
import statistics
from pathlib import Path

import psutil

from training.benchmarks import PARTS
from training.benchmarks.frame import DISTURBED
from training.benchmarks.parts import FUNCTIONS
from training.files import atomic, check_replaceable

LIBRARIES = ("tensorflow", "keras", "torch", "torchvision", "timm", "onnxruntime", "openvino", "ai-edge-litert")
FEATURES = ("avx2", "avx512f", "avx512_vnni", "amx_tile")  # of CPUs, which decide about kernels


def benchmark(names, settings, file=None):
    """Measure parts, print their tables, and return the exit code.

    Args:
        names: Names of `PARTS`; all if there is none.
        settings: The Settings.
        file: Path of a JSON file with the same figures, if any.

    Returns:
        0; 1 if a target was not reached or a variant failed.
    """
    if file:
        check_replaceable(file, ())
    report = {"machine": machine(), "rounds": settings.rounds, "seconds": settings.seconds, "parts": {}}
    print(f"{report['machine']}; rounds: {settings.rounds}", flush=True)
    results = {}
    for name in names or PARTS:
        results[name] = list(print_part(name, FUNCTIONS[name](settings)))
        report["parts"][name] = [as_json(result) for result in results[name]]
    everything = [result for part in results.values() for result in part]
    failed = [f"{r.group.title}, {variant}: {error}" for r in everything for variant, error in r.failed.items()]
    fell = [line for result in everything for line in fallen(result)]
    packages = {module: None for r in everything for modules in r.missing.values() for module in modules}
    report |= {"failed": failed, "fell": fell, "missing": list(packages)}
    absent = [f"{', '.join(packages)}: not installed; pip install {' '.join(packages)}"] if packages else []
    for line in (*absent, *(f"failed: {line}" for line in failed), *(f"target missed: {line}" for line in fell)):
        print(f"\n{line}")
    if file:
        with atomic(file) as temporary:
            temporary.write_text(json.dumps(report, indent=2) + "\n")
    return 1 if failed or fell else 0


def print_part(name, results):
    """Print the tables of a part, a row as soon as it is measured, and yield the Results."""
    print(f"\n## {name}\n\n{PARTS[name][0].upper()}{PARTS[name][1:]}.\n")
    print("| what | variant | median | least | greatest | unit | MiB | others' load |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |", flush=True)
    done = []
    for result in results:
        for cells in variant_rows(result):
            print(row(cells), flush=True)
        done.append(result)
        yield result
    if any(result.group.comparisons for result in done):
        print("\n| what | ratio of speed, or seconds | median | least | greatest | target |  |")
        print("| --- | --- | --- | --- | --- | --- | --- |")
        print(*[row(cells) for result in done for cells in comparison_rows(result)], sep="\n")
    lines = [note for result in done for note in result.notes]
    if disturbed := [text for result in done if (text := disturbance(result))]:
        lines.append(f"Others used more than {DISTURBED:g} cores, in repeated rounds too: {', '.join(disturbed)}")
    for line in lines:
        print(f"\n{line}", flush=True)


def row(cells):
    """Return a row of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def figures(group, seconds):
    """Return seconds per step in the unit of a group."""
    factor = {"s": 1, "ms": 1000}.get(group.unit)
    return [group.images / each if factor is None else factor * each for each in seconds]


def spread(values):
    """Return median, minimum and maximum as texts of three digits or whole numbers."""
    three = statistics.median(values), min(values), max(values)
    return [f"{value:.3g}" if value < 1000 else f"{value:.0f}" for value in three]


def variant_rows(result):
    """Yield the cells of each variant that was measured."""
    group = result.group
    for name, seconds in result.seconds.items():
        memory = f"{result.memory[name]:,.0f}" if name in result.memory else ""
        load = f"{result.load[name]:.2f}" if name in result.load else ""
        yield [group.title, name, *spread(figures(group, seconds)), group.unit, memory, load]


def comparison_rows(result):
    """Yield the cells of each comparison."""
    for comparison in result.group.comparisons:
        values = values_of(comparison, result)
        if values is None:
            yield [result.group.title, str(comparison), "not measured", "", "", comparison.target, ""]
        else:
            holds = comparison.holds(statistics.median(values))
            verdict = ("reached" if holds else "**missed**") if comparison.target else ""
            yield [result.group.title, str(comparison), *spread(values), comparison.target, verdict]


def values_of(comparison, result):
    """Return the value of a comparison in each round; None if a variant of it was not measured."""
    wanted = {comparison.variant, comparison.other} - {None}
    return comparison.values(result.seconds) if wanted <= result.seconds.keys() else None


def fallen(result):
    """Return a line for each target that was not reached."""
    return [", ".join(cells[:3] + cells[5:6]) for cells in comparison_rows(result) if cells[-1] == "**missed**"]


def disturbance(result):
    """Return how many rounds of a group were disturbed, as text; empty if none was."""
    if not result.disturbed:
        return ""
    rounds = len(next(iter(result.seconds.values())))
    return f"{result.group.title} ({result.disturbed} of {rounds} rounds, up to {max(result.load.values()):.2f} cores)"


def as_json(result):
    """Return a Result as JSON values."""
    group = result.group
    variants = {
        name: {"figures": figures(group, seconds), "memory_mib": result.memory.get(name), "load": result.load.get(name)}
        for name, seconds in result.seconds.items()
    }
    comparisons = []
    for comparison in group.comparisons:
        values = values_of(comparison, result)
        holds = None if values is None else comparison.holds(statistics.median(values))
        comparisons.append({"what": str(comparison), "values": values, "target": comparison.target, "holds": holds})
    described = {"what": group.title, "unit": group.unit, "variants": variants, "comparisons": comparisons}
    return described | {
        "missing": result.missing,
        "failed": result.failed,
        "notes": result.notes,
        "disturbed": result.disturbed,
    }


def machine():
    """Return the date, the machine and the versions as a line."""
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    model = re.search(r"model name\s*: (.*)", info)
    features = [name for name in FEATURES if re.search(rf"\b{name}\b", info)]
    versions = []
    for library in LIBRARIES:
        try:
            versions.append(f"{library} {importlib.metadata.version(library)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    cores = [f"{os.cpu_count()} cores", *features, f"{psutil.virtual_memory().total / 2**30:.0f} GiB"]
    parts = [f"{datetime.date.today()}", f"{model[1] if model else platform.processor()} ({', '.join(cores)})"]
    return ", ".join([*parts, f"{platform.system()}, Python {platform.python_version()}", *versions])
