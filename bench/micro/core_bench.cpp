// The engine's hot paths one by one: timers, shared memory, arenas, chains, the log, expressions.
#include <benchmark/benchmark.h>
#include <fcntl.h>

#include <memory>
#include <vector>

#include "core/arena.h"
#include "core/buffer.h"
#include "core/clock.h"
#include "core/log.h"
#include "core/reactor.h"
#include "core/regex.h"
#include "core/shm.h"
#include "core/timer.h"

namespace {

using namespace core;

struct Loop {
    Loop() { (void)Reactor::open(); }
    ~Loop() { Reactor::close(); }
};

void nothing(void*) {}

// A timeout that is set and cancelled, with `range` others pending.
void timer_set_cancel(benchmark::State& state) {
    Loop loop;
    std::vector<std::unique_ptr<Timer>> others;
    for (int64_t i = 0; i < state.range(0); ++i) {
        others.push_back(std::make_unique<Timer>(nothing, nullptr));
        others.back()->set(1000 + i % 60000);
    }
    Timer timer(nothing, nullptr);
    int64_t delay = 0;
    for (auto _ : state) {
        timer.set(1000 + (delay += 37) % 60000);
        timer.cancel();
    }
}
BENCHMARK(timer_set_cancel)->Arg(0)->Arg(10000)->Arg(1000000);

// A keep-alive timeout pushed back by every request.
void timer_push_back(benchmark::State& state) {
    Loop loop;
    Timer timer(nothing, nullptr);
    timer.set(65000);
    for (auto _ : state) timer.set(65000);
}
BENCHMARK(timer_push_back);

// A turn's look at the wheel with `range` timers pending.
void timer_wait(benchmark::State& state) {
    Loop loop;
    std::vector<std::unique_ptr<Timer>> others;
    for (int64_t i = 0; i < state.range(0); ++i) {
        others.push_back(std::make_unique<Timer>(nothing, nullptr));
        others.back()->set(50000 + i % 60000);
    }
    int64_t now = Clock::monotonic_ms();
    for (auto _ : state) {
        TimerWheel::current().advance(now);
        benchmark::DoNotOptimize(TimerWheel::current().wait_ms(now));
    }
}
BENCHMARK(timer_wait)->Arg(1)->Arg(1000000);

void slab_pair(benchmark::State& state) {
    static char tag;
    auto zone = *ShmZone::find_or_create("bench", 8 << 20, &tag);
    // A page that never empties, as in a zone in use.
    void* kept = zone->allocate_locked(size_t(state.range(0)));
    for (auto _ : state) {
        void* it = zone->allocate_locked(size_t(state.range(0)));
        benchmark::DoNotOptimize(it);
        zone->free_locked(it);
    }
    zone->free_locked(kept);
}
BENCHMARK(slab_pair)->Arg(8)->Arg(100)->Arg(2000)->Arg(20000);

void slab_pair_with_lock(benchmark::State& state) {
    static char tag;
    auto zone = *ShmZone::find_or_create("bench", 8 << 20, &tag);
    void* kept = zone->allocate_locked(100);
    for (auto _ : state) {
        ShmLock lock(*zone);
        void* it = zone->allocate_locked(100);
        benchmark::DoNotOptimize(it);
        zone->free_locked(it);
    }
    zone->free_locked(kept);
}
BENCHMARK(slab_pair_with_lock);

void arena_of_a_request(benchmark::State& state) {
    for (auto _ : state) {
        Arena arena;
        for (int i = 0; i < 20; ++i) benchmark::DoNotOptimize(arena.allocate(64));
    }
}
BENCHMARK(arena_of_a_request);

void chain_of_a_response(benchmark::State& state) {
    for (auto _ : state) {
        Chain chain;
        chain.add("HTTP/1.1 200 OK\r\n\r\n");
        chain.add_copy("hello world");
        chain.add_mark(Buffer::last);
        chain.consume(30);
    }
}
BENCHMARK(chain_of_a_response);

void log_line(benchmark::State& state) {
    LogSinkError error;
    Log log;
    log.add(open_log_sink("/dev/null", "", error), Level::info);
    LogContext where{.log = &log, .connection = 12};
    for (auto _ : state) log_write(where, Level::error, 2, "open() \"%s\" failed", "/x/y");
}
BENCHMARK(log_line);

void log_level_off(benchmark::State& state) {
    for (auto _ : state) LOG(process_log(), debug, 0, "open() \"%s\" failed", "/x/y");
}
BENCHMARK(log_level_off);

void regex_match(benchmark::State& state) {
    auto re = *Regex::compile("^/(\\w+)/(\\d+)$", 0);
    uint32_t offsets[6];
    for (auto _ : state) benchmark::DoNotOptimize(re->match("/users/12345", 0, offsets, 3));
}
BENCHMARK(regex_match);

void date_parse(benchmark::State& state) {
    for (auto _ : state) {
        benchmark::DoNotOptimize(parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT"));
    }
}
BENCHMARK(date_parse);

void idle_turn(benchmark::State& state) {
    Loop loop;
    for (auto _ : state) Reactor::current().turn(0);
}
BENCHMARK(idle_turn);

}  // namespace
