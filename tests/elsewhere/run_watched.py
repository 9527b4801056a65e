"""Measure graphs of a pack under the node profiler, on the ONNX Runtime of the environment that runs this file.

    PYTHONPATH=REPOSITORY python run_watched.py NETWORKS

Of the default pack's first and last networks. Prints one line of JSON: the runtime, and of every graph its direction,
how long it takes, how long its kernels take together in each sample, and how many nodes they have.
"""

import json
import sys
import time

import onnxruntime

from device_runtime.graph_runs import GraphRun, VisitPlan, time_graph, watch_graph
from device_runtime.kernel_table import GraphVisits, corrected_times
from device_runtime.measurement_pack import default_pack

PLAN = VisitPlan(visit_ms=10)


def main(num_networks: int) -> None:
    """Print what was found."""
    pack = default_pack()
    networks = pack.manifest.networks()
    graphs = []
    for entry in (entry for network in networks[:num_networks] + networks[-num_networks:] for entry in network):
        run = GraphRun(pack.graphs[entry.sha256], entry.direction, pack.manifest.kernels_of(entry), 1)
        visits = GraphVisits(run, entry.batch_size)
        visits.rounds.append(time_graph(run, PLAN, time.perf_counter))
        visits.watched.append(watch_graph(run, PLAN, time.perf_counter))
        graphs.append(visits)
    found = [
        [graph.direction, graph.quartile_ms(), times.sum(axis=1).tolist(), graph.num_nodes().sum()]
        for graph, times in zip(graphs, corrected_times(graphs, 0.0), strict=True)
    ]
    sys.stdout.write(json.dumps({"runtime": f"onnxruntime {onnxruntime.__version__}", "graphs": found}) + "\n")


if __name__ == "__main__":
    main(int(sys.argv[1]))
