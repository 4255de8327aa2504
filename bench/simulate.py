"""A fleet of 1 to 10,000 pods, simulated: hit rates, load of Redis and models, and money.

The hot tier is the real one; Redis is a model with costs that were measured on one machine. See
docs/fleet.md.

    python -m bench.simulate --plot docs/images/fleet.svg
    python -m bench.simulate --pods 40 --rate 25 --texts 2000000
    python -m bench.simulate --compare
    python -m bench.simulate --check
    python -m bench.simulate --measure
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import Field, asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args

from bench.plots import pyplot, save
from bench.report import add_json_option, markdown_table, print_table, write_json
from bench.simulate_costs import FILE, GIB, Node, Prices, read_costs
from bench.simulate_redis import Policy
from bench.simulate_study import Outcome, World, gives_out, study
from bench.simulate_traffic import Traffic
from sidecar.cache.hot import HotTier

if TYPE_CHECKING:
    from collections.abc import Sequence

T = TypeVar("T")

LOAD = (
    *("pods", "hot", "Redis", "model", "Redis ops", "Redis MB", "Redis CPU", "model texts"),
    *("after a new model", "Redis GiB"),
)
NODES = ("computed, one node", "nodes for CPU", "for network", "for memory", "separate fleets")
MONEY = (
    *("pods", "service, no cache", "service, cache", "encoders, no cache", "encoders, cache"),
    "Redis and sidecars",
)
PODS = [1, 3, 10, 30, 100, 300, 1000, 3000, 10_000]


def main() -> None:
    """Prints the tables."""
    options = _parse()
    if options.measure:
        from bench.simulate_measure import measure

        FILE.write_text(json.dumps(asdict(measure()), indent=2) + "\n")
        print(FILE.read_text())
        return
    if options.check:
        from bench.simulate_check import check

        check(read_costs(), fast_hot_tier(), options.json)
        return
    if options.compare:
        from bench.simulate_compare import compare

        compare(fast_hot_tier(), options.json)
        return
    world = World(
        traffic=_from(options, Traffic, ""),
        costs=read_costs(),
        node=_from(options, Node, "node_"),
        prices=_from(options, Prices, "price_"),
        hot_max_bytes=options.hot_max_bytes,
        redis_policy=options.maxmemory_policy,
        requests=options.requests,
        seed=options.seed,
        make_hot=fast_hot_tier(),
    )
    began = time.perf_counter()
    outcomes = [study(pods, world) for pods in sorted(options.pods)]
    _print(outcomes, world, markdown=options.markdown)
    print(f"simulated in {time.perf_counter() - began:.0f} s; costs: {world.costs.machine}")
    if options.plot:
        draw(outcomes, world.node.most, options.plot)
    write_json(options.json, {"outcomes": [asdict(each) for each in outcomes]})


def fast_hot_tier() -> type[HotTier[Any]]:
    """The hot tier of the native front door, which does the same, or that without it."""
    try:
        from embercache_native import HotTier as NativeTier
    except ImportError:
        return HotTier
    return NativeTier


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--pods", type=int, nargs="+", default=PODS, help="sizes of fleets")
    parser.add_argument("--requests", type=float, default=1e6, help="to simulate of each fleet")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--hot-max-bytes", type=int, default=256 * 2**20, help="of each pod")
    parser.add_argument(
        "--maxmemory-policy", choices=get_args(Policy), default="allkeys-lru", help="of Redis"
    )
    parser.add_argument("--plot", type=Path, help="also draw rates and loads into this SVG file")
    parser.add_argument("--markdown", action="store_true", help="print tables in Markdown")
    parser.add_argument("--compare", action="store_true", help="samples with whole fleets instead")
    parser.add_argument("--check", action="store_true", help="against real sidecars instead")
    parser.add_argument("--measure", action="store_true", help="the costs instead, anew")
    for kind, prefix in ((Traffic, ""), (Node, "node_"), (Prices, "price_")):
        group = parser.add_argument_group(kind.__name__, (kind.__doc__ or "").partition("\n")[0])
        for each in _options(kind):
            name = "--" + (prefix + each.name).replace("_", "-")
            about = f"default {each.default:,}"
            group.add_argument(
                name, type=type(each.default), default=each.default, help=about, metavar="NUMBER"
            )
    add_json_option(parser)
    return parser.parse_args()


def _options(kind: type[Any]) -> list[Field[Any]]:
    """All but what days are made of, for the second and third of them are what is looked at."""
    return [each for each in fields(kind) if each.name not in ("seconds", "version_at")]


def _from(options: argparse.Namespace, kind: type[T], prefix: str) -> T:
    return kind(**{each.name: getattr(options, prefix + each.name) for each in _options(kind)})


def _print(outcomes: Sequence[Outcome], world: World, *, markdown: bool) -> None:
    most = f"{world.node.most:.0%}"
    tables = {
        "texts of callers on the second day; rates a second at the worst five minutes": (
            LOAD,
            [_load_row(each) for each in outcomes],
        ),
        f"the share of one Redis that is used, above {most} too much; nodes that are needed": (
            ("pods", *outcomes[0].use, *NODES),
            [_node_row(each) for each in outcomes],
        ),
        "dollars a month": (MONEY, [_money_row(each) for each in outcomes]),
    }
    for title, (header, rows) in tables.items():
        if markdown:
            print(f"{title}:\n\n{markdown_table(header, rows)}\n")
        else:
            print_table(title, header, rows)
    for resource in outcomes[0].use:
        pods = gives_out([(each.pods, each.use[resource]) for each in outcomes], world.node.most)
        if pods is None:
            answer = "enough of it for all of these"
        elif pods <= outcomes[0].pods:
            answer = "too little of it for all of these"
        else:
            answer = f"enough of it up to {pods:,.0f} pods"
        print(f"{resource}: a single Redis has {answer}")


def _load_row(each: Outcome) -> tuple[object, ...]:
    shares = (f"{share:.1%}" for share in (each.hot, each.warm, each.model))
    loads = (each.operations, each.network / 1e6, f"{each.cpu:,.1%}")
    return (
        each.pods,
        *shares,
        *loads,
        each.model_texts,
        each.model_texts_release,
        each.redis_bytes / GIB,
    )


def _node_row(each: Outcome) -> tuple[object, ...]:
    nodes = each.nodes
    use = (f"{share:,.1%}" for share in each.use.values())
    asked = (nodes.cpu, nodes.network, nodes.memory, nodes.fleets)
    return each.pods, *use, f"{each.one_node_model_share:.1%}", *asked


def _money_row(each: Outcome) -> tuple[object, ...]:
    return each.pods, *each.service_money, *each.encoder_money, each.cache_money


def draw(outcomes: Sequence[Outcome], most: float, file: Path) -> None:
    """Draws who answers, and how much of one Redis is used, by the number of pods."""
    from matplotlib.ticker import PercentFormatter

    plt = pyplot("fleet")
    figure, (rates, uses) = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
    pods = [each.pods for each in outcomes]
    rates.stackplot(
        pods,
        [[each.hot for each in outcomes], [each.warm for each in outcomes]],
        labels=("memory", "Redis"),
        colors=("#d1495b", "#edae49"),
    )
    rates.set(ylim=(0, 1), ylabel="texts of callers answered from")
    for resource in outcomes[0].use:
        uses.plot(pods, [each.use[resource] for each in outcomes], marker="o", ms=3, label=resource)
    uses.axhline(most, color="#888888", lw=1, ls="--")
    uses.set(yscale="log", ylabel="share of one Redis at the peak")
    rates.yaxis.set_major_formatter(PercentFormatter(1))
    for panel in (rates, uses):
        panel.set(xscale="log", xlabel="pods", xlim=(pods[0], pods[-1]))
        panel.spines[["top", "right"]].set_visible(False)
        panel.legend(loc="upper left", frameon=False)
    save(figure, file)


if __name__ == "__main__":
    main()
