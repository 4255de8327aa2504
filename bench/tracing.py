"""What traces cost a hot hit: sidecars that trace no call, one in a hundred, and every call.

Each answers the same calls of Embed from memory, to the same client, in turns within one run. Their
spans go to a collector that throws them away. The figures are medians over the rounds; of the
processor's time a call, with all threads of the sidecar, the sum.

    python -m bench.tracing
"""

from __future__ import annotations

import contextlib

import psutil

from bench.hot_hits import HotHits, make_hot, read_options, report
from bench.processes import echo, sidecar

COLLECTOR = "127.0.0.1:50770"
SHARES = {"no traces": None, "none traced": 0.0, "1 in 100 traced": 0.01, "all traced": 1.0}


def main() -> None:
    """Prints the table."""
    options = read_options(__doc__)
    report(_measure(options.rounds, options.calls), "tracing", options.json)


def _measure(rounds: int, calls: int) -> dict[str, HotHits]:
    with contextlib.ExitStack() as exits:
        # No bytes are what a collector answers when it has taken everything.
        exits.enter_context(echo(COLLECTOR, b""))
        found, addresses = {}, {}
        for number, (name, share) in enumerate(SHARES.items(), 1):
            address = addresses[name] = f"127.0.0.1:{50770 + number}"
            flags = ["--server-address", address]
            if share is not None:
                flags += ["--tracing-endpoint", f"http://{COLLECTOR}"]
                flags += ["--tracing-sample", str(share)]
            found[name] = HotHits(psutil.Process(exits.enter_context(sidecar(*flags)).pid))
            make_hot(address)
        for _ in range(rounds):
            for name, each in found.items():
                each.measure(addresses[name], calls, calls // 5)
    return found


if __name__ == "__main__":
    main()
