"""What TLS costs a hot hit: the same sidecar with and without it, over connections that are kept.

Both answer the same calls of Embed from memory, to the same client, in turns within one run. The
figures are medians over the rounds; of the processor's time a call, with all threads of the
sidecar, the sum.

    python -m bench.tls
"""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path

import psutil

from bench.answered import all_whole_hits
from bench.certificates import Authority, MountedPair
from bench.hot_hits import HotHits, make_hot, read_options, report
from bench.processes import sidecar

ADDRESSES = {"http": "127.0.0.1:50781", "https": "127.0.0.1:50782"}
NAMES = {"http": "no TLS", "https": "TLS 1.3"}


def main() -> None:
    """Prints the table."""
    options = read_options(__doc__)
    report(_measure(options.rounds, options.calls), "tls", options.json)


def _measure(rounds: int, calls: int) -> dict[str, HotHits]:
    few = calls // 5
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as exits:
        folder = Path(name)
        pair = MountedPair(folder)
        pair.put(*Authority().issue())
        files = [f"--tls-cert-file={pair.certificate}", f"--tls-key-file={pair.key}"]
        found = {}
        for scheme, address in ADDRESSES.items():
            # The socket, which is not encrypted, is what tells that it serves.
            flags = ["--server-address", address, "--server-socket", str(folder / scheme)]
            process = exits.enter_context(sidecar(*flags, *(files if scheme == "https" else [])))
            found[scheme] = HotHits(psutil.Process(process.pid))
            make_hot(f"unix:{folder / scheme}")
        for _ in range(rounds):
            for scheme, each in found.items():
                with all_whole_hits(f"unix:{folder / scheme}", calls + few):
                    each.measure(ADDRESSES[scheme], calls, few, scheme=scheme)
    return {NAMES[scheme]: each for scheme, each in found.items()}


if __name__ == "__main__":
    main()
