"""The threads of a model outlive what should not happen."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from sidecar.models.batcher import BatchLimits
from sidecar.models.input_queue import Job
from sidecar.models.tokenise import Tokens
from sidecar.models.types import ModelError
from sidecar.models.worker import ModelWorker

if TYPE_CHECKING:
    from collections.abc import Sequence


@pytest.mark.parametrize("broken", ["tokenise", "run"])
async def test_too_few_results_fail_their_batch_and_the_next_one_is_computed(
    broken: str, caplog: pytest.LogCaptureFixture
) -> None:
    breaks = [broken]

    def tokenise(texts: Sequence[str]) -> list[Tokens]:
        return [Tokens([1], truncated=False) for _ in (() if "tokenise" in breaks else texts)]

    def run(items: Sequence[object], _: object) -> list[str]:
        return ["done" for _ in (() if "run" in breaks else items)]

    worker: ModelWorker[str, str] = ModelWorker(
        "mine",
        tokenise=tokenise,
        run=run,
        result="answer",
        max_tokens=8,
        limits=BatchLimits(tokens=64, rows=8, run_cost=12),
        queue_inputs=8,
    )

    async def ask() -> str:
        job: Job[str, str] = Job("secret", asyncio.get_running_loop().create_future())
        worker.submit([job])
        return await asyncio.wait_for(job.future, 30)

    with pytest.raises(ModelError, match=r"model mine gave no answer \(ValueError\)"):
        await ask()
    assert "secret" not in caplog.text
    breaks.clear()
    assert await ask() == "done"
    assert worker.queued == 0
    await worker.close()
