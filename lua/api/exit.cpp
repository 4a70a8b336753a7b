// ngx.exit: ends the task with a status. As FFI, so that the call compiles; the Lua side yields
// when told to, and the scheduler finds the task ended.
#include "lua/api/ffi.h"
#include "server/http/request.h"

namespace lua {
namespace {

constexpr PhaseMask in_exit = in_yieldable | in(LuaPhase::header_filter, LuaPhase::balancer,
                                                LuaPhase::ssl_session_store);
// Where the handler goes on after the call and its end is what counts.
constexpr PhaseMask in_no_yield = in(LuaPhase::header_filter, LuaPhase::balancer,
                                     LuaPhase::ssl_session_store);

constexpr int status_ok = 200;
constexpr int status_special = 300;
constexpr int status_request_timeout = 408;

bool is_abort(int status) {
    return status == status_request_timeout || status == server::status_close ||
           status == server::status_client_closed;
}

// Once the head is out, a status cannot be had any more; the response is simply over.
int possible_status(const LuaTask& task, int status) {
    const server::Request* request = task.request;
    if (!request || !request->header_sent() || status < status_special || is_abort(status)) {
        return status;
    }
    if (status != request->response.status) {
        LOG(task.log(), error, 0,
            "attempt to set status %d via ngx.exit after sending out the response status %d",
            status, int(request->response.status));
    }
    return status_ok;
}

}  // namespace
}  // namespace lua

LUA_FFI int ngx_http_lua_ffi_exit(ngx_http_request_t* r, int status, unsigned char* err,
                                  size_t* errlen) {
    if (status == lua::ffi_again || status == lua::ffi_done) {
        return lua::ffi_fail("bad argument to 'ngx.exit': does not accept NGX_AGAIN or NGX_DONE",
                             err, errlen);
    }
    if (!lua::allowed(*r, lua::in_exit)) return lua::ffi_refuse(*r, err, errlen);
    if (r->abort_refused && status != lua::ffi_error && !lua::is_abort(status)) {
        return lua::ffi_fail("attempt to abort with pending subrequests", err, errlen);
    }
    LOG(r->log(), debug, 0, "lua exit with code %d", status);
    r->stop(lua::TaskEnd::exited, lua::possible_status(*r, status));
    return r->phase_bit() & lua::in_no_yield ? lua::ffi_done : lua::ffi_ok;
}
