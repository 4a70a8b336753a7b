-- TLS sessions to be resumed, for ssl_session_fetch_by_lua and ssl_session_store_by_lua. See
-- session.md.

local ffi = require "ffi"
local base = require "resty.core.base"

local C = ffi.C
local ffi_string = ffi.string
local errmsg = base.get_errmsg_ptr()
local get_request = base.get_request
local get_string_buf = base.get_string_buf
local FFI_OK = base.FFI_OK
local error = error

ffi.cdef[[
int ngx_http_lua_ffi_ssl_set_serialized_session(ngx_http_request_t *r, const unsigned char *buf,
    int len, char **err);
int ngx_http_lua_ffi_ssl_get_serialized_session(ngx_http_request_t *r, char *buf, char **err);
int ngx_http_lua_ffi_ssl_get_session_id(ngx_http_request_t *r, char *buf, char **err);
int ngx_http_lua_ffi_ssl_get_serialized_session_size(ngx_http_request_t *r, char **err);
int ngx_http_lua_ffi_ssl_get_session_id_size(ngx_http_request_t *r, char **err);
]]

local _M = { version = base.version }

local session_bytes_max = 4096

local function current()
    return get_request() or error("no request found", 3)
end

local function failure()
    return nil, ffi_string(errmsg[0])
end

-- text(size_of, write): what the one measures and the other writes into a buffer.
local function text(size_of, write, bytes_max, too_big)
    return function()
        local r = current()
        local size = size_of(r, errmsg)
        if size < 0 then
            return failure()
        end
        if size > bytes_max then
            return nil, too_big
        end
        local buffer = get_string_buf(size)
        if write(r, buffer, errmsg) ~= FFI_OK then
            return failure()
        end
        return ffi_string(buffer, size)
    end
end

_M.get_serialized_session = text(C.ngx_http_lua_ffi_ssl_get_serialized_session_size,
                                 C.ngx_http_lua_ffi_ssl_get_serialized_session,
                                 session_bytes_max, "session too big to serialize")
_M.get_session_id = text(C.ngx_http_lua_ffi_ssl_get_session_id_size,
                         C.ngx_http_lua_ffi_ssl_get_session_id, session_bytes_max)

function _M.set_serialized_session(session)
    if C.ngx_http_lua_ffi_ssl_set_serialized_session(current(), session, #session,
                                                     errmsg) == FFI_OK then
        return true
    end
    return failure()
end

return _M
