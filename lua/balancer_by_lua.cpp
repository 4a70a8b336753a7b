// Runs balancer_by_lua for each try of a request to its group. The handler may wait; the request's
// upstream session goes on when it is done.
#include "lua/balancer_by_lua.h"

#include "core/text.h"
#include "lua/by_lua.h"
#include "lua/code_cache.h"
#include "lua/conf.h"
#include "lua/thread.h"
#include "lua/vm.h"
#include "server/upstream/balancer.h"

namespace lua {

namespace {

using server::Request;
using server::Verdict;

constexpr int exit_busy = -3;          // ngx.BUSY: no server is to be had

// What the handler's end means for the try.
Verdict verdict_of(const LuaTask& task) {
    if (task.end == TaskEnd::failed) return Verdict::reject(500);
    if (task.end != TaskEnd::exited || task.exit_status == 0) return Verdict::pass();
    if (task.exit_status >= 300) return Verdict::reject(task.exit_status);
    if (task.exit_status == exit_busy) return Verdict::decline();
    return Verdict::reject(500);
}

void balancer_done(LuaTask& task, void*) {
    server::choice_made(*task.request, verdict_of(task));
}

class ScriptChooser final : public server::PeerChooser {
  public:
    explicit ScriptChooser(std::shared_ptr<LuaChunk> chunk) : chunk_(std::move(chunk)) {}

    Verdict choose(Request& request, server::PeerDecision&) override {
        const LuaConf& conf = request.conf<LuaConf>(lua_module);
        LuaVm* vm = vm_for(request, conf);
        if (!vm) return Verdict::reject(500);
        LuaTask& task = create_task(*vm, LuaPhase::balancer, &request);
        int status = chunk_->push(*vm, task.entry->L, &request, request.log);
        if (status != 0) {
            task.end = TaskEnd::failed;
            destroy_task(task);
            return Verdict::reject(500);
        }
        if (run_task(task) == TaskEnd::running) {
            task.done = balancer_done;
            return Verdict::suspend();
        }
        Verdict verdict = verdict_of(task);
        destroy_task(task);
        return verdict;
    }

  private:
    std::shared_ptr<LuaChunk> chunk_;
};

}  // namespace

conf::Result<void> add_balancer(std::shared_ptr<LuaChunk> chunk, const conf::Line& line) {
    return server::set_binding_chooser(std::make_shared<ScriptChooser>(std::move(chunk)), line);
}

conf::Result<void> set_balancer_keepalive(const conf::Line& line) {
    auto count = core::parse_number(line.arg(0), INT32_MAX);
    if (!count || *count == 0) return conf::invalid_value(line, line.arg(0));
    return server::set_binding_pool(uint32_t(*count));
}

}  // namespace lua
