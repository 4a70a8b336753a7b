// The Lua scheduler without HTTP: worker-owned tasks, light threads, coroutines, waiting, killing,
// uncaught errors.
#include <gtest/gtest.h>

#include <string>

#include "core/clock.h"
#include "core/reactor.h"
#include "lua/thread.h"
#include "lua/traceback.h"
#include "lua/vm.h"
#include "tests/unit/lua/empty_configuration.h"

namespace lua {
namespace {

class Scheduler : public testing::Test {
  protected:
    void SetUp() override {
        core::Clock::update();
        ASSERT_TRUE(core::Reactor::open());
        configuration_ = empty_configuration();
        ASSERT_TRUE(configuration_);
        LuaVm::Options options;
        options.log = &core::process_log();
        auto made = LuaVm::create(options);
        ASSERT_TRUE(made) << made.error().what;
        vm_ = std::move(*made);
    }
    void TearDown() override {
        vm_.reset();
        configuration_.reset();
        core::Reactor::close();
    }

    // Runs a task of this code to its end; its first result, or how it ended.
    std::string run(const char* code) {
        LuaTask& task = create_task(*vm_, LuaPhase::timer, nullptr);
        EXPECT_EQ(luaL_loadstring(task.entry->L, code), 0);
        over_ = false;
        task.done = [](LuaTask& ended, void* self) {
            static_cast<Scheduler*>(self)->finish(ended);
        };
        task.argument = this;
        if (run_task(task) != TaskEnd::running) {
            finish(task);
            destroy_task(task);
        }
        for (int turn = 0; turn < 1000 && !over_; ++turn) core::Reactor::current().turn(20);
        EXPECT_TRUE(over_);
        return result_;
    }

    void finish(LuaTask& task) {
        over_ = true;
        result_ = task.end == TaskEnd::failed ? "failed" : "nothing";
        if (task.end == TaskEnd::exited) result_ = "exit " + std::to_string(task.exit_status);
        lua_State* L = task.entry->L;
        if (task.end == TaskEnd::returned && lua_gettop(L) && lua_isstring(L, 1))
            result_ = lua_tostring(L, 1);
    }

    std::unique_ptr<server::Configuration> configuration_;
    std::unique_ptr<LuaVm> vm_;
    bool over_ = false;
    std::string result_;
};

TEST_F(Scheduler, ReturnsWithoutTouchingTheQueue) {
    LuaTask& task = create_task(*vm_, LuaPhase::timer, nullptr);
    ASSERT_EQ(luaL_loadstring(task.entry->L, "return 1 + 2"), 0);
    EXPECT_EQ(run_task(task), TaskEnd::returned);
    EXPECT_EQ(lua_tointeger(task.entry->L, 1), 3);
    destroy_task(task);
}

TEST_F(Scheduler, ReusesCoroutines) {
    LuaTask& first = create_task(*vm_, LuaPhase::timer, nullptr);
    lua_State* used = first.entry->L;
    destroy_task(first);
    LuaTask& second = create_task(*vm_, LuaPhase::timer, nullptr);
    EXPECT_EQ(second.entry->L, used);
    destroy_task(second);
}

TEST_F(Scheduler, Sleeps) { EXPECT_EQ(run("ngx.sleep(0.001) return 'woken'"), "woken"); }

TEST_F(Scheduler, WaitsForLightThreads) {
    EXPECT_EQ(run(R"(
        local slow = ngx.thread.spawn(function(a) ngx.sleep(0.002) return a .. "!" end, "slow")
        local quick = ngx.thread.spawn(function() return "quick" end)
        local _, a = ngx.thread.wait(quick)
        local _, b = ngx.thread.wait(slow)
        local none, why = ngx.thread.wait(slow)
        return a .. " " .. b .. " " .. tostring(none) .. " " .. why)"),
              "quick slow! nil already waited or killed");
}

TEST_F(Scheduler, WaitsForTheFirstOfSeveral) {
    EXPECT_EQ(run(R"(
        local function after(delay, what)
            return ngx.thread.spawn(function() ngx.sleep(delay) return what end)
        end
        local a, b = after(0.02, "later"), after(0.001, "sooner")
        local _, first = ngx.thread.wait(a, b)
        local _, second = ngx.thread.wait(a)
        return first .. " " .. second)"),
              "sooner later");
}

TEST_F(Scheduler, KillsLightThreads) {
    EXPECT_EQ(run(R"(
        local touched = "untouched"
        local t = ngx.thread.spawn(function()
            local co = coroutine.wrap(function() ngx.sleep(0.005) touched = "touched" end)
            co()
        end)
        local ok = ngx.thread.kill(t)
        ngx.sleep(0.02)
        local again, why = ngx.thread.kill(t)
        return tostring(ok) .. " " .. touched .. " " .. why)"),
              "1 untouched already waited or killed");
}

TEST_F(Scheduler, OutlivesItsEntryThread) {
    EXPECT_EQ(run(R"(
        ngx.thread.spawn(function() ngx.sleep(0.002) over = true end)
        return "entry")"),
              "entry");
    EXPECT_EQ(run("return tostring(over)"), "true");
}

TEST_F(Scheduler, CoroutinesWaitAndYield) {
    EXPECT_EQ(run(R"(
        local co = coroutine.create(function(a)
            ngx.sleep(0.001)
            local b = coroutine.yield(a + 1)
            ngx.sleep(0.001)
            return b * 2
        end)
        local _, x = coroutine.resume(co, 1)
        local _, y = coroutine.resume(co, 21)
        return x .. " " .. y .. " " .. coroutine.status(co) .. " " ..
               select(2, coroutine.resume(co)))"),
              "2 42 dead cannot resume dead coroutine");
}

TEST_F(Scheduler, CoroutinesRunInsideCallbacks) {
    EXPECT_EQ(run(R"(
        local next_digit = coroutine.wrap(function()
            for digit = 1, 3 do coroutine.yield(tostring(digit)) end
        end)
        return (string.gsub("xxx", "x", function() return next_digit() end)))"),
              "123");
}

TEST_F(Scheduler, WaitingInsideCallbacksOfCIsRefused) {
    EXPECT_EQ(run(R"(
        local chunk, why = load(function() ngx.sleep(0.001) end)
        return why)"),
              "attempt to yield across C-call boundary");
    EXPECT_EQ(run(R"(
        return (string.gsub("x", "x", function() ngx.sleep(0.001) return "waited" end)))"),
              "waited");
}

TEST_F(Scheduler, ErrorsOfWrappedCoroutinesAreCaught) {
    EXPECT_EQ(run(R"(
        local ok, why = pcall(coroutine.wrap(function() ngx.sleep(0.001) error("oops", 0) end))
        return tostring(ok) .. " " .. why)"),
              "false oops");
}

TEST_F(Scheduler, ErrorsOfLightThreadsReachTheWaiter) {
    EXPECT_EQ(run(R"(
        local ok, why = ngx.thread.wait(ngx.thread.spawn(function() error("oops", 0) end))
        return tostring(ok) .. " " .. why)"),
              "false oops");
}

TEST_F(Scheduler, FailsWithItsEntryThread) {
    EXPECT_EQ(run("ngx.thread.spawn(function() ngx.sleep(1) end) error('oops')"), "failed");
}

TEST_F(Scheduler, ExitsFromALightThread) {
    EXPECT_EQ(run(R"(
        ngx.thread.spawn(function() ngx.sleep(0.001) ngx.exit(7) end)
        ngx.sleep(5))"),
              "exit 7");
}

TEST_F(Scheduler, YieldGivesWayToOthers) {
    EXPECT_EQ(run(R"(
        local log = {}
        local t = ngx.thread.spawn(function()
            log[#log + 1] = "a"
            coroutine.yield()
            log[#log + 1] = "b"
        end)
        log[#log + 1] = "main"
        coroutine.yield()
        ngx.thread.wait(t)
        return table.concat(log, " "))"),
              "a main b");
}

TEST_F(Scheduler, DestroyingATaskCancelsEverything) {
    LuaTask& task = create_task(*vm_, LuaPhase::timer, nullptr);
    ASSERT_EQ(luaL_loadstring(task.entry->L, R"(
        for i = 1, 10 do ngx.thread.spawn(function() ngx.sleep(10) end) end
        coroutine.wrap(function() ngx.sleep(10) end)())"), 0);
    EXPECT_EQ(run_task(task), TaskEnd::running);
    uint64_t before = core::Reactor::current().timers().pending();
    destroy_task(task);
    EXPECT_EQ(before - core::Reactor::current().timers().pending(), 11u);
}

TEST_F(Scheduler, TenThousandLightThreads) {
    EXPECT_EQ(run(R"(
        local count, threads = 0, {}
        for i = 1, 10000 do
            threads[i] = ngx.thread.spawn(function() ngx.sleep(0.001) count = count + 1 end)
        end
        for i = 1, 10000 do ngx.thread.wait(threads[i]) end
        return count)"),
              "10000");
}

TEST(LuaVmTest, ErrorsUnwind) { EXPECT_TRUE(errors_unwind()); }

TEST(LuaTraceback, NamesOfContexts) {
    EXPECT_STREQ(context_name(LuaPhase::rewrite), "rewrite_by_lua*");
    EXPECT_EQ(failure_prefix(LuaPhase::log), "failed to run log_by_lua*: ");
    EXPECT_EQ(failure_prefix(LuaPhase::content), "lua entry thread aborted: ");
}

}  // namespace
}  // namespace lua
