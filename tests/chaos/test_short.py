"""A few seconds of chaos: every part of the harness at work, and nothing wrong."""

from __future__ import annotations

from tests.chaos.run import Options, run


async def test_a_few_seconds_of_chaos_leave_every_answer_right() -> None:
    options = Options(seconds=6, seed=8, clients=4, calm=0.5, texts=20, prompts=1, show=False)
    report = await run(options)
    report.show()
    assert not report.record.violations
    assert sum(report.faults.values()) >= 3
    assert len(report.record.calls) >= 8
