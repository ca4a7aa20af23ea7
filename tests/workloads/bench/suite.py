"""Runs one of pyperformance's benchmarks without end: its file is imported from where the package was installed, and its
inner function called again and again. The benchmark is named on the command line."""
import importlib.util
import pathlib
import random
import sys

import meter


def load(name):
    package = importlib.util.find_spec("pyperformance").submodule_search_locations[0]
    path = pathlib.Path(package) / "data-files" / "benchmarks" / ("bm_" + name) / "run_benchmark.py"
    spec = importlib.util.spec_from_file_location("run_benchmark", path)
    module = importlib.util.module_from_spec(spec)
    # Some look for themselves there.
    sys.modules["run_benchmark"] = module
    spec.loader.exec_module(module)
    return module


def deltablue(module):
    return lambda: module.delta_blue(100)


def go(module):
    def play():
        # The same game each time: a unit is to be as long as any other.
        random.seed(1)
        module.versus_cpu()
    return play


def json_dumps(module):
    cases = [getattr(module, name) for name in module.CASES]
    documents = [(document, range(1)) for document, _ in cases]
    return lambda: module.bench_json_dumps(documents)


def nbody(module):
    return lambda: module.bench_nbody(1, "sun", 200)


def raytrace(module):
    return lambda: module.bench_raytrace(1, 12, 12, None)


BENCHMARKS = {function.__name__: function for function in (deltablue, go, json_dumps, nbody, raytrace)}


def main():
    name = sys.argv[1]
    unit = BENCHMARKS[name](load(name))
    counter = meter.Meter()
    meter.ready()
    while True:
        unit()
        counter.add()


main()
