"""The generation loop: a full batch across shard borders, whole questions, and error rows instead of failures."""

from collections.abc import Iterator, Sequence
from itertools import takewhile
from pathlib import Path

import pytest

from tasks.errors import ConfigError
from tasks.generation.engine import EngineOutput, EngineRequest, EngineSpec
from tasks.generation.generation_spec import GenerationSpec, ShardWork
from tasks.generation.journal import JournalWriter, Key, read_journal
from tasks.generation.loop import GenerationLoop
from tasks.generation.recorder import Recorder
from tasks.generation.shard_feed import ShardFeed
from tasks.plan.prompts import Message, request_seed
from tests.support.fake_engines import FakeEngine
from tests.support.patience import SHORT_SECONDS, pause
from tests.support.replica_parts import ARMS, ENGINE_SPEC, ByteTokenizer, make_engine, make_shard, make_spec

BATCH = 4
CAPACITY = BATCH * len(ARMS)


class RecordingEngine(FakeEngine):
    """Records each step: the numbers of its requests by their seeds."""

    def __init__(self, spec: EngineSpec) -> None:
        super().__init__(spec)
        self.steps: list[dict[int, int]] = []

    def step(self) -> list[EngineOutput]:
        self.steps.append({request.seed: int(request.request_id) for request, _ in self.running.values()})
        return super().step()


RECORDERS: list[Recorder] = []


@pytest.fixture(autouse=True)
def _no_recorder_outlives_its_test() -> Iterator[None]:
    yield
    while RECORDERS:
        RECORDERS.pop().kill()


def make_loop(engine: FakeEngine, spec: GenerationSpec, tokenizer: ByteTokenizer | None = None) -> GenerationLoop:
    tokenizer = tokenizer or ByteTokenizer()
    recorder = Recorder(tokenizer, spec, max_unrecorded=100)
    RECORDERS.append(recorder)
    return GenerationLoop(engine, tokenizer, spec, recorder)  # type: ignore[arg-type]


def run(loop: GenerationLoop, max_steps: int = 10_000) -> list[int]:
    """Step until nothing is left; returns the shards' indices in the order in which they finished."""
    done: list[int] = []
    for _ in range(max_steps):
        if not loop.busy:
            return done
        done += [work.index for work in loop.step()]
    raise AssertionError("the loop does not end")


def keys_of(work: ShardWork, count: int) -> set[Key]:
    return {(f"s{work.index}-q{number}", arm.id, 0) for number in range(count) for arm in ARMS}


def test_the_batch_stays_full_across_shard_borders_and_never_overflows(tmp_path: Path) -> None:
    engine = RecordingEngine(ENGINE_SPEC)
    loop = make_loop(engine, make_spec(batch=BATCH))
    shards = [make_shard(tmp_path, index, ["two and two"] * 6) for index in range(5)]
    for work in shards:
        loop.add_shard(work)
    run(loop)
    last = 5 * 6 * len(ARMS)
    in_flight = [len(step) for step in takewhile(lambda step: last not in step.values(), engine.steps)]
    assert min(in_flight) >= CAPACITY
    assert max(in_flight) < CAPACITY + len(ARMS)
    for work in shards:
        assert set(read_journal(work.journal).finished) == keys_of(work, 6)


def test_a_few_more_sequences_than_run_wait_in_the_engine(tmp_path: Path) -> None:
    engine = RecordingEngine(ENGINE_SPEC)
    loop = make_loop(engine, make_spec(batch=32))
    loop.add_shard(make_shard(tmp_path, 0, ["two and two"] * 100))
    run(loop)
    running, last = 32 * len(ARMS), 100 * len(ARMS)
    in_flight = [len(step) for step in takewhile(lambda step: last not in step.values(), engine.steps)]
    assert running < min(in_flight)
    assert max(in_flight) < running * 17 / 16 + len(ARMS)


def test_the_engine_holds_no_more_for_a_hundred_times_the_questions(tmp_path: Path) -> None:
    engine = make_engine()
    loop = make_loop(engine, make_spec(batch=1))
    loop.add_shard(make_shard(tmp_path, 0, ["?"] * 300))
    run(loop)
    assert engine.most_running < 2 * len(ARMS)


def test_a_chosen_batch_rises_with_the_room_and_each_rollout_says_what_was_in_force(tmp_path: Path) -> None:
    engine = RecordingEngine(ENGINE_SPEC)
    loop = make_loop(engine, make_spec(batch=32, first=4))
    work = make_shard(tmp_path, 0, ["two and two"] * 200)
    loop.add_shard(work)
    run(loop)
    assert max(len(step) for step in engine.steps[:2]) < 4 * len(ARMS) + len(ARMS)
    assert 32 * len(ARMS) < engine.most_running < 32 * len(ARMS) * 17 / 16 + len(ARMS)
    in_force = [record["question_batch_size"] for record in read_journal(work.journal).finished.values()]
    assert set(in_force) == {4, 8, 16, 32}


def test_a_chosen_batch_gives_the_rollouts_of_a_stated_one(tmp_path: Path) -> None:
    found = []
    for first in (None, 1):
        (tmp_path / str(first)).mkdir()
        loop = make_loop(make_engine(), make_spec(batch=8, first=first))
        work = make_shard(tmp_path / str(first), 0, [f"question {number}" for number in range(30)])
        loop.add_shard(work)
        run(loop)
        finished = read_journal(work.journal).finished
        found.append({key: record["completion_ids"] for key, record in finished.items()})
    assert found[0] == found[1]
    assert len(found[0]) == 30 * len(ARMS)


class FullEngine(FakeEngine):
    """Preempts a sequence in each step with more than 24 of them."""

    def step(self) -> list[EngineOutput]:
        self.stats.preemptions += len(self.running) > 24
        self.stats.kv_cache_usage = min(1.0, len(self.running) / 24)
        return super().step()


def test_a_chosen_batch_falls_when_sequences_are_preempted(tmp_path: Path) -> None:
    engine = FullEngine(ENGINE_SPEC)
    loop = make_loop(engine, make_spec(batch=32, first=16))
    loop.add_shard(make_shard(tmp_path, 0, ["two and two"] * 200))
    in_flight = []
    while loop.busy:
        loop.step()
        in_flight.append(loop.num_in_flight)
    assert max(in_flight) > 40
    # whole questions, and a few that wait
    assert max(in_flight[100:]) <= 24 + 2 * len(ARMS)
    assert engine.stats.preemptions < 100


def test_with_a_barrier_the_loop_waits_for_the_whole_batch(tmp_path: Path) -> None:
    engine = make_engine()
    loop = make_loop(engine, make_spec(batch=BATCH, batch_barrier=True))
    loop.add_shard(make_shard(tmp_path, 0, ["two and two"] * 10))
    before = 0
    starts = []
    while loop.busy:
        loop.step()
        if loop.num_in_flight > before:
            starts.append(before)
        before = loop.num_in_flight
    assert starts == [0, 0, 0]
    assert engine.most_running == CAPACITY


def test_a_loop_that_stops_anywhere_leaves_whole_questions_in_order(tmp_path: Path) -> None:
    questions, samples = 9, 3
    in_order = [
        request_seed(0, f"s{index}-q{number}", arm.id, sample)
        for index in range(2)
        for number in range(questions)
        for arm in ARMS
        for sample in range(samples)
    ]
    engine = RecordingEngine(ENGINE_SPEC)
    loop = make_loop(engine, make_spec(batch=2, samples=samples))
    for index in range(2):
        loop.add_shard(make_shard(tmp_path, index, ["two and two"] * questions))
    given: dict[int, int] = {}
    while loop.busy:
        loop.step()
        given |= {number: seed for seed, number in (engine.steps[-1] if engine.steps else {}).items()}
        # a loop that stops here leaves the first questions with all of their arms and samples, and no others
        assert len(given) % (len(ARMS) * samples) == 0
        assert [given[number] for number in sorted(given)] == in_order[: len(given)]
    assert len(given) == len(in_order)


class RefusingEngine(FakeEngine):
    """Refuses the first request."""

    def add(self, request: EngineRequest) -> None:
        if request.request_id == "1":
            raise ValueError("no such token")
        super().add(request)


@pytest.mark.parametrize(
    ("question", "error"),
    [
        pytest.param("", "the question is empty", id="empty"),
        pytest.param("x" * 200, "with max_tokens 16 it exceeds max_model_len 128", id="over-long"),
    ],
)
def test_a_question_that_cannot_be_asked_becomes_error_rows(tmp_path: Path, question: str, error: str) -> None:
    work = make_shard(tmp_path, 0, ["fine", question, "fine too"])
    loop = make_loop(make_engine(), make_spec())
    loop.add_shard(work)
    assert run(loop) == [0]
    finished = read_journal(work.journal).finished
    assert set(finished) == keys_of(work, 3)
    assert loop.num_finished == 9
    for (example_id, _, _), record in finished.items():
        assert (error in record.get("error", "")) == (example_id == "s0-q1")


class StrictTokenizer(ByteTokenizer):
    """Refuses the word "secret" under one arm, as a chat template may."""

    def encode_all(self, prompts: Sequence[list[Message]], template_kwargs: object = None) -> list[list[int]]:
        texts = [message["content"] for messages in prompts for message in messages]
        if "a secret" in texts and "Answer short." in texts:
            raise ConfigError("the chat template does not take this prompt: no secrets")
        return super().encode_all(prompts)


def test_a_prompt_that_the_chat_template_refuses_becomes_an_error_row(tmp_path: Path) -> None:
    work = make_shard(tmp_path, 0, ["fine", "a secret", "fine too"])
    loop = make_loop(make_engine(), make_spec(), StrictTokenizer())
    loop.add_shard(work)
    assert run(loop) == [0]
    finished = read_journal(work.journal).finished
    assert set(finished) == keys_of(work, 3)
    errors = {key: record["error"] for key, record in finished.items() if "error" in record}
    assert errors == {("s0-q1", "short", 0): "the chat template does not take this prompt: no secrets"}


def test_an_over_long_question_says_by_how_much(tmp_path: Path) -> None:
    work = make_shard(tmp_path, 0, ["x" * 100])
    loop = make_loop(make_engine(), make_spec(max_tokens=16, max_model_len=129))
    loop.add_shard(work)
    run(loop)
    prompt_lengths = {arm.id: len(arm.system_prompt) + 100 for arm in ARMS}
    for (_, arm_id, _), record in read_journal(work.journal).finished.items():
        told = record.get("error")
        fits = prompt_lengths[arm_id] + 16 <= 129
        assert (told is None) == fits
        assert fits or f"the prompt has {prompt_lengths[arm_id]} tokens" in told


def test_a_request_that_the_engine_refuses_becomes_an_error_row(tmp_path: Path) -> None:
    work = make_shard(tmp_path, 0, ["one", "two"])
    loop = make_loop(RefusingEngine(ENGINE_SPEC), make_spec())
    loop.add_shard(work)
    run(loop)
    errors = [record["error"] for record in read_journal(work.journal).finished.values() if "error" in record]
    assert errors == ["the engine refused the request: no such token"]


def crash(feed: ShardFeed, loop: GenerationLoop, steps: int) -> None:
    """Step, end the loop, then record a crash of the engine as the parent does."""
    for _ in range(steps):
        loop.step()
    loop.drain()
    feed.journal.close()
    with JournalWriter(feed.work.journal) as journal:
        journal.append({"kind": "crash"})


def test_suspects_have_the_engine_alone_and_after_all_others_of_every_shard(tmp_path: Path) -> None:
    crashed, fresh = make_shard(tmp_path, 0, ["a", "b", "c", "d", "e"]), make_shard(tmp_path, 1, ["f", "g", "h"])
    spec = make_spec(batch=2)
    first = make_loop(make_engine(), spec)
    crash(first.add_shard(crashed), first, steps=1)
    engine = RecordingEngine(ENGINE_SPEC)
    second = make_loop(engine, spec)
    second.add_shard(crashed)
    second.add_shard(fresh)
    run(second)
    suspects = [question_seeds("s0-q0"), question_seeds("s0-q1")]
    steps = [set(step) for step in engine.steps]
    with_suspects = [step for step in steps if any(step & suspect for suspect in suspects)]
    assert with_suspects == steps[-len(with_suspects) :]
    assert all(any(step <= suspect for suspect in suspects) for step in with_suspects)
    assert set(read_journal(crashed.journal).finished) == keys_of(crashed, 5)
    assert set(read_journal(fresh.journal).finished) == keys_of(fresh, 3)


class SlowTokenizer(ByteTokenizer):
    """Decodes more slowly than the engine crashes with the next request."""

    def decode(self, completion_ids: list[int], stop: Sequence[str] = ()) -> str:
        pause(SHORT_SECONDS / 2)
        return super().decode(completion_ids, stop)


class BlamingEngine(FakeEngine):
    """Records at each step which questions a crash in that step would make suspects."""

    def __init__(self, spec: EngineSpec, journal: Path) -> None:
        super().__init__(spec)
        self.blamed: list[set[str]] = []
        self._journal = journal

    def step(self) -> list[EngineOutput]:
        self.blamed.append({example_id for example_id, _, _ in read_journal(self._journal).in_flight})
        return super().step()


def test_no_finished_question_is_blamed_with_a_suspect(tmp_path: Path) -> None:
    work, spec = make_shard(tmp_path, 0, ["a", "b", "c"]), make_spec(batch=3)
    first = make_loop(make_engine(), spec)
    crash(first.add_shard(work), first, steps=1)
    engine = BlamingEngine(ENGINE_SPEC, work.journal)
    second = make_loop(engine, spec, SlowTokenizer())
    second.add_shard(work)
    run(second)
    assert {len(blamed) for blamed in engine.blamed} == {1}


def test_a_request_that_kills_the_engine_alone_is_quarantined_and_the_rest_complete(tmp_path: Path) -> None:
    work = make_shard(tmp_path, 0, ["a", "b", "c"])
    spec = make_spec(batch=3)
    poison = request_seed(0, "s0-q1", ARMS[1].id, 0)
    deaths = 0
    while True:
        engine = make_engine()
        loop = make_loop(engine, spec)
        feed = loop.add_shard(work)
        while loop.busy and not any(request.seed == poison for request, _ in engine.running.values()):
            loop.step()
        if not loop.busy:
            break
        deaths += 1
        crash(feed, loop, steps=0)
    finished = read_journal(work.journal).finished
    assert set(finished) == keys_of(work, 3)
    assert [key for key, record in finished.items() if "error" in record] == [("s0-q1", ARMS[1].id, 0)]
    # among all, with its question, alone
    assert deaths == 3


def test_an_interrupted_shard_generates_only_what_is_missing(tmp_path: Path) -> None:
    work, spec = make_shard(tmp_path, 0, ["a", "b", "c", "d"]), make_spec(batch=2)
    first = make_loop(make_engine(), spec)
    interrupted = first.add_shard(work)
    while first.num_finished < 5:
        first.step()
    first.drain()
    interrupted.journal.close()
    before = read_journal(work.journal).finished
    engine = make_engine()
    second = make_loop(engine, spec)
    feed: ShardFeed = second.add_shard(work)
    assert feed.num_resumed == len(before)
    run(second)
    assert second.num_finished == 4 * len(ARMS) - len(before)
    after = read_journal(work.journal).finished
    assert {key: after[key] for key in before} == before
    assert set(after) == keys_of(work, 4)


def question_seeds(example_id: str) -> set[int]:
    return {request_seed(0, example_id, arm.id, 0) for arm in ARMS}
