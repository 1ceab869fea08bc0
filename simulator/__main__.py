"""``make simulate``: a day under every autoscaling policy of the manifests, and the same day with all replicas at work.

Writes ``var/simulator/simulation.json`` and ``.html`` with replicas, queue delay and cost. Prices are assumptions.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from loadtests import page
from loadtests.page import Line
from simulator.basis import SUITE, Basis, load_basis
from simulator.cost import Prices, Requests, load_requests
from simulator.demand import DAY_SECONDS, Day
from simulator.policies import Policy, PolicyError, load_policies
from simulator.replay import LATE_SECONDS, POD_SECONDS, Outcome, replay

# The top of the curve takes this share of what the most replicas can do; the spike comes on top.
PEAK_SHARE = 0.5
PLOT_POINTS = 480


def simulate(policy: Policy, basis: Basis, options: argparse.Namespace) -> list[Outcome]:
    """Return the day under the policy, and with all its replicas all day."""
    peak = options.peak or PEAK_SHARE * policy.most * basis.calls_per_second
    day = Day(peak, options.seed)
    seconds = options.hours * 3600.0
    return [
        replay(policy, basis, day, seconds=seconds),
        replay(policy, basis, day, fixed=policy.most, seconds=seconds),
    ]


def figures(outcome: Outcome, requests: Requests, prices: Prices) -> dict[str, object]:
    """Return what a day came to."""
    tops = sorted(moment.p99_ms for moment in outcome.moments)
    return {
        "name": outcome.name,
        "calls": outcome.calls,
        "late_or_refused_percent": outcome.missed_percent,
        "refused": outcome.refused,
        "median_p99_delay_ms": tops[len(tops) // 2],
        "worst_p99_delay_ms": tops[-1],
        "replica_hours": outcome.replica_hours,
        "most_replicas": max(moment.replicas for moment in outcome.moments),
        "changes": outcome.changes,
        "cost": prices.cost(requests, outcome.replica_hours),
    }


def charts(outcome: Outcome) -> list[str]:
    """Return the plots of one day."""
    width = max(1, len(outcome.moments) // PLOT_POINTS)
    groups = [outcome.moments[start : start + width] for start in range(0, len(outcome.moments), width)]

    def line(name: str, values: Sequence[float], *, steps: bool = False) -> Line:
        times = [group[0].time / 3600.0 for group in groups]
        return Line(name, list(zip(times, values, strict=True)), steps)

    replicas = [
        line("wanted", [float(max(m.replicas for m in group)) for group in groups], steps=True),
        line("serving", [float(min(m.ready for m in group)) for group in groups], steps=True),
    ]
    delay = [line("p99", [max(m.p99_ms for m in group) for group in groups])]
    load = [line("calls a second", [max(m.rate for m in group) for group in groups])]
    return [
        page.chart(f"{outcome.name}: load", "hour", "", load),
        page.chart(f"{outcome.name}: replicas", "hour", "", replicas),
        page.chart(f"{outcome.name}: delay in the queue, ms", "hour", "", delay, limit=LATE_SECONDS * 1000),
    ]


def main() -> int:
    """Read the arguments and run; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m simulator", description=__doc__.partition("\n")[0])
    parser.add_argument("--report", type=Path, default=Path("var/simulator"), help="folder for the report")
    parser.add_argument("--basis", type=Path, default=SUITE, help="figures of `make bench-suite`")
    parser.add_argument("--peak", type=float, default=0.0, help="calls a second at the top of the day (by the basis)")
    parser.add_argument("--seed", type=int, default=7, help="which day")
    parser.add_argument("--hours", type=float, default=DAY_SECONDS / 3600, help="how much of the day (24)")
    parser.add_argument("--cpu-price", type=float, default=0.04, help="of a CPU for an hour (0.04, an assumption)")
    parser.add_argument("--gib-price", type=float, default=0.005, help="of a GiB for an hour (0.005, an assumption)")
    options = parser.parse_args()
    prices = Prices(options.cpu_price, options.gib_price)
    content, parts = [], []
    try:
        for policy in load_policies():
            basis, requests = load_basis(policy.service, options.basis), load_requests(policy.service)
            days = simulate(policy, basis, options)
            rows = [figures(outcome, requests, prices) for outcome in days]
            content.append({"policy": policy.name, "basis": vars(basis), "days": rows})
            note = f"One replica does {basis.calls_per_second:,.0f} calls a second. Basis: {basis.provenance}."
            parts += [page.heading(policy.name, note), page.table(list(rows[0]), [list(row.values()) for row in rows])]
            parts += charts(days[0])
            print(
                f"{policy.name:16} cost {rows[0]['cost']:8.2f} against {rows[1]['cost']:8.2f} with all replicas, "
                f"{rows[0]['late_or_refused_percent']:.3f} % late or refused",
                flush=True,
            )
    except (PolicyError, KeyError, ValueError) as error:
        print(f"the simulation did not run: {error}", file=sys.stderr)
        return 2
    options.report.mkdir(parents=True, exist_ok=True)
    figures_file, html = options.report / "simulation.json", options.report / "simulation.html"
    figures_file.write_text(json.dumps({"seed": options.seed, "policies": content}, indent=2) + "\n")
    lead = (
        f"Simulated, call by call: exponential work with the measured mean, round robin, a pod in {POD_SECONDS:.0f} s plus "
        f"its measured start, prices assumed. Late is a wait of more than {LATE_SECONDS:.0f} s."
    )
    html.write_text(page.page("A day under the autoscaling policies", lead, parts), encoding="utf-8")
    print(f"wrote {figures_file}\nwrote {html}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
