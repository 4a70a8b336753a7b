// ngx.pipe: child processes of a request (or a timer), which end with it. lualib/ngx/pipe.lua calls
// these functions, and yields when one answers ffi_again; the results are fetched when it goes on.
#include <signal.h>
#include <sys/types.h>

#include <cerrno>
#include <cstring>

#include "core/child.h"
#include "core/timer.h"
#include "lua/api/ffi.h"
#include "lua/api/pipe_stream.h"
#include "lua/op.h"

struct ngx_http_lua_pipe_s;

// What Lua holds; upstream's layout.
struct ngx_http_lua_ffi_pipe_proc_t {
    int _pid;
    uintptr_t write_timeout, stdout_read_timeout, stderr_read_timeout, wait_timeout;
    ngx_http_lua_pipe_s* pipe;
};

namespace lua {
namespace {

using State = PipeStream::State;
using Failure = PipeStream::Failure;
using Process = ngx_http_lua_pipe_s;

// A light thread waits until a stream is through, or has been silent for too long.
class StreamWait final : public Op, public PipeStream::Waiter {
  public:
    StreamWait(LuaThread& thread, PipeStream& stream, int64_t timeout_ms)
        : Op(thread), stream_(&stream), timeout_ms_(timeout_ms),
          timer_([](void* self) { static_cast<StreamWait*>(self)->give_up(Failure::timeout); },
                 this) {
        stream.waiter = this;
        if (timeout_ms > 0) timer_.set(timeout_ms);
    }
    ~StreamWait() override { stop(); }

    void go_on() override {
        if (stream_->advance() == State::again) {
            if (timeout_ms_ > 0) timer_.set(timeout_ms_);
            return;
        }
        finish();
    }
    void give_up(Failure why) override {
        stream_->fail(why);
        finish();
    }
    int push_results(lua_State*) override { return 0; }      // they are fetched
    const char* name() const override { return "pipe"; }

  private:
    void stop() {
        if (stream_) stream_->waiter = nullptr;
        stream_ = nullptr;
        timer_.cancel();
    }
    void finish() {
        stop();
        complete();
    }

    PipeStream* stream_;                 // null: it is through
    int64_t timeout_ms_;
    core::Timer timer_;
};

class EndWait final : public Op {
  public:
    EndWait(LuaThread& thread, Process& process, int64_t timeout_ms);
    ~EndWait() override;
    void ended() {
        timer_.cancel();
        complete();
    }
    void abandon() {                     // the process is no more
        process_ = nullptr;
        ended();
    }
    int push_results(lua_State* L) override;
    const char* name() const override { return "process"; }

  private:
    static void time_out(void* self) { static_cast<EndWait*>(self)->complete(); }
    Process* process_;
    core::Timer timer_;
};

// Yields the running thread with an O.
template <class O, class... Args>
int wait_with(LuaTask& task, Args&&... args) {
    LuaThread& thread = *task.running;
    thread.pending = new (thread.op_room(sizeof(O))) O(thread, args...);
    return ffi_again;
}

}  // namespace
}  // namespace lua

// A child process, its streams, and who waits for its end. Destroying it closes the streams; waits
// that are pending have ended before.
struct ngx_http_lua_pipe_s final : lua::Owned {
    ngx_http_lua_ffi_pipe_proc_t& proc;
    core::Child child{on_end, this};
    lua::PipeWriter input;
    lua::PipeReader output, error;
    lua::EndWait* end_wait = nullptr;
    bool merged = false;                 // stderr goes to stdout
    bool closed = false;                 // its end was waited for

    explicit ngx_http_lua_pipe_s(ngx_http_lua_ffi_pipe_proc_t& p) : proc(p) {}
    static void on_end(void* self);
    void owner_ended() override { end(); }
    // Kills it if need be; this object is gone afterwards.
    void end();
    // Whoever still reads or writes is told so.
    void shut(lua::PipeStream& stream) {
        if (lua::PipeStream::Waiter* waiter = stream.waiter) {
            waiter->give_up(child.running() ? lua::Failure::aborted : lua::Failure::closed);
        }
        stream.close();
    }
    void close_all() {
        // What it said last is there to be read.
        for (auto* stream : {&output, &error}) {
            if (stream->waiter) stream->advance();
        }
        for (lua::PipeStream* stream : {static_cast<lua::PipeStream*>(&input),
                                        static_cast<lua::PipeStream*>(&output),
                                        static_cast<lua::PipeStream*>(&error)}) {
            shut(*stream);
        }
        closed = true;
    }
};

namespace lua {
namespace {

}  // namespace
}  // namespace lua

void ngx_http_lua_pipe_s::on_end(void* self) {
    auto* process = static_cast<ngx_http_lua_pipe_s*>(self);
    if (process->end_wait) process->end_wait->ended();
}

void ngx_http_lua_pipe_s::end() {
    if (child.running()) kill(child.pid(), SIGKILL);
    if (end_wait) end_wait->abandon();
    close_all();
    proc.pipe = nullptr;
    delete this;
}

namespace lua {
namespace {

EndWait::EndWait(LuaThread& thread, Process& process, int64_t timeout_ms)
    : Op(thread), process_(&process), timer_(time_out, this) {
    process.end_wait = this;
    if (timeout_ms > 0) timer_.set(timeout_ms);
}

EndWait::~EndWait() {
    if (process_) process_->end_wait = nullptr;
}

const char* reason_of(const core::Child& child) {
    switch (child.end()) {
    case core::Child::End::exited: return "exit";
    case core::Child::End::signalled: return "signal";
    default: return "unknown";
    }
}

int EndWait::push_results(lua_State* L) {
    if (!process_ || process_->child.running()) {
        lua_pushnil(L);
        lua_pushstring(L, process_ ? "timeout" : "exited");
        return 2;
    }
    const core::Child& child = process_->child;
    lua_pushboolean(L, child.status() == 0);
    lua_pushstring(L, reason_of(child));
    lua_pushinteger(L, child.status());
    process_->close_all();
    return 3;
}

// Writes an error text for Lua; *size is the room, then the length.
int explain(unsigned char* text, size_t* size, core::Slice why, int result = ffi_error) {
    *size = std::min(*size, why.size());
    std::memcpy(text, why.data(), *size);
    return result;
}

// ffi_ok: the call may be made here.
int check_context(LuaTask& task, unsigned char* text, size_t* size) {
    if (allowed(task, in_yieldable) && task.running) return ffi_ok;
    ffi_refuse(task, text, size);
    return ffi_bad_context;
}

bool gone(const Process* process) { return !process || process->closed; }

// Gives Lua what was read: into its buffer, or (null) how much room is needed for another try.
void give_taken(PipeReader& reader, unsigned char** buf, size_t* buf_size) {
    size_t size = reader.taken.size();
    if (*buf_size < size) {
        *buf = nullptr;
    } else {
        std::memcpy(*buf, reader.taken.data(), size);
        reader.taken.clear();
        if (reader.taken.capacity() > size_t(64) * 1024) reader.taken.shrink_to_fit();
    }
    *buf_size = size;
}

int read_result(PipeReader& reader, unsigned char** buf, size_t* buf_size, unsigned char* errbuf,
                size_t* errbuf_size) {
    give_taken(reader, buf, buf_size);
    if (reader.failure == Failure::none) return ffi_ok;
    return explain(errbuf, errbuf_size, reader.failure_text(), ffi_declined);
}

}  // namespace
}  // namespace lua

using lua::explain;
using lua::ffi_again;
using lua::ffi_error;
using lua::ffi_ok;

LUA_FFI int ngx_http_lua_ffi_pipe_spawn(ngx_http_request_t* r, ngx_http_lua_ffi_pipe_proc_t* proc,
                                        const char* file, const char** argv, int merge_stderr,
                                        size_t buffer_size, const char** environment,
                                        unsigned char* errbuf, size_t* errbuf_size) {
    auto process = std::make_unique<ngx_http_lua_pipe_s>(*proc);
    auto started = process->child.start({file, argv, environment, merge_stderr != 0});
    if (!started) return explain(errbuf, errbuf_size, started.error().what);
    process->merged = merge_stderr != 0;
    process->input.open(std::move(process->child.input));
    process->output.open(std::move(process->child.output));
    process->error.open(std::move(process->child.error));
    process->output.set_buffer_size(buffer_size);
    process->error.set_buffer_size(buffer_size);
    proc->_pid = process->child.pid();
    proc->pipe = process.get();
    lua::owned_by(*r).push_back(*process.release());
    return ffi_ok;
}

LUA_FFI int ngx_http_lua_ffi_pipe_proc_read(ngx_http_request_t* r,
                                            ngx_http_lua_ffi_pipe_proc_t* proc, int from_stderr,
                                            int reader_type, size_t length, unsigned char** buf,
                                            size_t* buf_size, unsigned char* errbuf,
                                            size_t* errbuf_size) {
    int rc = lua::check_context(*r, errbuf, errbuf_size);
    if (rc != ffi_ok) return rc;
    lua::Process* process = proc->pipe;
    if (lua::gone(process)) return explain(errbuf, errbuf_size, "closed");
    if (process->merged && from_stderr) return explain(errbuf, errbuf_size, "merged to stdout");
    lua::PipeReader& reader = from_stderr ? process->error : process->output;
    if (!reader.is_open()) return explain(errbuf, errbuf_size, "closed");
    if (reader.waiter) return explain(errbuf, errbuf_size, "pipe busy reading");
    reader.begin(lua::PipeReader::Until(reader_type), length);
    if (reader.advance() != lua::State::again) {
        return lua::read_result(reader, buf, buf_size, errbuf, errbuf_size);
    }
    if (!reader.watch()) return explain(errbuf, errbuf_size, "failed to add read event");
    uintptr_t timeout = from_stderr ? proc->stderr_read_timeout : proc->stdout_read_timeout;
    return lua::wait_with<lua::StreamWait>(*r, reader, int64_t(timeout));
}

LUA_FFI int ngx_http_lua_ffi_pipe_get_read_result(ngx_http_request_t*,
                                                  ngx_http_lua_ffi_pipe_proc_t* proc,
                                                  int from_stderr, unsigned char** buf,
                                                  size_t* buf_size, unsigned char* errbuf,
                                                  size_t* errbuf_size) {
    lua::Process* process = proc->pipe;
    if (!process) return explain(errbuf, errbuf_size, "closed");
    lua::PipeReader& reader = from_stderr ? process->error : process->output;
    return lua::read_result(reader, buf, buf_size, errbuf, errbuf_size);
}

LUA_FFI ssize_t ngx_http_lua_ffi_pipe_proc_write(ngx_http_request_t* r,
                                                 ngx_http_lua_ffi_pipe_proc_t* proc,
                                                 const unsigned char* data, size_t len,
                                                 unsigned char* errbuf, size_t* errbuf_size) {
    int rc = lua::check_context(*r, errbuf, errbuf_size);
    if (rc != ffi_ok) return rc;
    lua::Process* process = proc->pipe;
    if (lua::gone(process)) return explain(errbuf, errbuf_size, "closed");
    lua::PipeWriter& writer = process->input;
    if (!writer.is_open()) return explain(errbuf, errbuf_size, "closed");
    if (writer.waiter) return explain(errbuf, errbuf_size, "pipe busy writing");
    writer.begin({reinterpret_cast<const char*>(data), len});
    switch (writer.advance()) {
    case lua::State::done: return ssize_t(len);
    case lua::State::failed: return explain(errbuf, errbuf_size, writer.failure_text());
    case lua::State::again: break;
    }
    if (!writer.watch()) return explain(errbuf, errbuf_size, "failed to add write event");
    return lua::wait_with<lua::StreamWait>(*r, writer, int64_t(proc->write_timeout));
}

LUA_FFI ssize_t ngx_http_lua_ffi_pipe_get_write_result(ngx_http_request_t*,
                                                       ngx_http_lua_ffi_pipe_proc_t* proc,
                                                       unsigned char* errbuf,
                                                       size_t* errbuf_size) {
    lua::Process* process = proc->pipe;
    if (!process) return explain(errbuf, errbuf_size, "closed");
    const lua::PipeWriter& writer = process->input;
    if (writer.failure == lua::Failure::none) return ssize_t(writer.size());
    return explain(errbuf, errbuf_size, writer.failure_text());
}

LUA_FFI int ngx_http_lua_ffi_pipe_proc_shutdown_stdin(ngx_http_lua_ffi_pipe_proc_t* proc,
                                                      unsigned char* errbuf, size_t* errbuf_size) {
    if (lua::gone(proc->pipe)) return explain(errbuf, errbuf_size, "closed");
    proc->pipe->shut(proc->pipe->input);
    return ffi_ok;
}

LUA_FFI int ngx_http_lua_ffi_pipe_proc_shutdown_stdout(ngx_http_lua_ffi_pipe_proc_t* proc,
                                                       unsigned char* errbuf,
                                                       size_t* errbuf_size) {
    if (lua::gone(proc->pipe)) return explain(errbuf, errbuf_size, "closed");
    proc->pipe->shut(proc->pipe->output);
    return ffi_ok;
}

LUA_FFI int ngx_http_lua_ffi_pipe_proc_shutdown_stderr(ngx_http_lua_ffi_pipe_proc_t* proc,
                                                       unsigned char* errbuf,
                                                       size_t* errbuf_size) {
    if (lua::gone(proc->pipe)) return explain(errbuf, errbuf_size, "closed");
    if (proc->pipe->merged) return explain(errbuf, errbuf_size, "merged to stdout");
    proc->pipe->shut(proc->pipe->error);
    return ffi_ok;
}

LUA_FFI int ngx_http_lua_ffi_pipe_proc_wait(ngx_http_request_t* r,
                                            ngx_http_lua_ffi_pipe_proc_t* proc, char** reason,
                                            int* status, unsigned char* errbuf,
                                            size_t* errbuf_size) {
    int rc = lua::check_context(*r, errbuf, errbuf_size);
    if (rc != ffi_ok) return rc;
    lua::Process* process = proc->pipe;
    if (lua::gone(process)) return explain(errbuf, errbuf_size, "exited");
    if (process->end_wait) return explain(errbuf, errbuf_size, "pipe busy waiting");
    if (process->child.running()) {
        return lua::wait_with<lua::EndWait>(*r, *process, int64_t(proc->wait_timeout));
    }
    *status = process->child.status();
    *reason = const_cast<char*>(lua::reason_of(process->child));
    process->close_all();
    return *status == 0 ? ffi_ok : lua::ffi_declined;
}

LUA_FFI int ngx_http_lua_ffi_pipe_proc_kill(ngx_http_lua_ffi_pipe_proc_t* proc, int signal,
                                            unsigned char* errbuf, size_t* errbuf_size) {
    lua::Process* process = proc->pipe;
    if (!process || !process->child.running()) return explain(errbuf, errbuf_size, "exited");
    if (kill(process->child.pid(), signal) == 0) return ffi_ok;
    switch (errno) {
    case EINVAL: return explain(errbuf, errbuf_size, "invalid signal");
    case ESRCH: return explain(errbuf, errbuf_size, "exited");
    default: return explain(errbuf, errbuf_size, core::error_name(errno));
    }
}

LUA_FFI void ngx_http_lua_ffi_pipe_proc_destroy(ngx_http_lua_ffi_pipe_proc_t* proc) {
    if (proc->pipe) proc->pipe->end();
}
