"""procrastinate's side: jobs that do nothing, taken by one worker, finished jobs kept as we keep events."""

import asyncio
import logging
import time

from django.conf import settings
from procrastinate import App, PsycopgConnector

BATCH = 1000
FINISHED = "SELECT count(*) AS jobs FROM procrastinate_jobs WHERE status = 'succeeded'"
EMPTY = "TRUNCATE procrastinate_jobs, procrastinate_events RESTART IDENTITY CASCADE"

logging.getLogger("procrastinate").setLevel(logging.WARNING)  # a line for each job would cost it a third


def _app() -> App:
    owner, database = settings.DATABASE_OWNER, settings.DATABASES["default"]["NAME"]
    address = {"host": owner["HOST"], "port": owner["PORT"], "user": owner["USER"], "dbname": database}
    return App(connector=PsycopgConnector(kwargs=address, min_size=4, max_size=50))


app = _app()


@app.task(name="nothing")
async def nothing(number: int) -> None:
    pass


def migrate() -> None:
    asyncio.run(_migrate())


async def _migrate() -> None:
    async with app.open_async():
        await app.schema_manager.apply_schema_async()


def drain(jobs: int, concurrency: int) -> float:
    """Jobs per second, from the start of a worker until none is left."""
    return asyncio.run(_drain(jobs, concurrency))


async def _drain(jobs: int, concurrency: int) -> float:
    async with app.open_async():
        await app.connector.execute_query_async(EMPTY)
        for start in range(0, jobs, BATCH):
            numbers = range(start, min(start + BATCH, jobs))
            await nothing.batch_defer_async(*({"number": number} for number in numbers))
        await app.connector.execute_query_async("ANALYZE")
        began = time.perf_counter()
        await app.run_worker_async(
            concurrency=concurrency,
            wait=False,
            listen_notify=False,
            delete_jobs="never",
            install_signal_handlers=False,
        )
        passed = time.perf_counter() - began
        done = (await app.connector.execute_query_one_async(FINISHED))["jobs"]
    if done != jobs:
        raise RuntimeError(f"{done:,} of {jobs:,} jobs were done.")
    return jobs / passed
