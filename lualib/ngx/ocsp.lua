-- OCSP (RFC 6960) for certificates that scripts choose: where to ask, what to ask, what the answer
-- says, and handing it to the client with the certificate. See ocsp.md.

local ffi = require "ffi"
local base = require "resty.core.base"

base.allows_subsystem("http")

local C = ffi.C
local ffi_string = ffi.string
local errmsg = base.get_errmsg_ptr()
local get_request = base.get_request
local get_size_ptr = base.get_size_ptr
local get_string_buf = base.get_string_buf
local get_string_buf_size = base.get_string_buf_size
local FFI_OK = base.FFI_OK
local FFI_BUSY = base.FFI_BUSY
local FFI_DECLINED = base.FFI_DECLINED
local error = error
local tonumber = tonumber

ffi.cdef[[
int ngx_http_lua_ffi_ssl_get_ocsp_responder_from_der_chain(const char *chain_data,
    size_t chain_len, char *out, size_t *out_size, char **err);
int ngx_http_lua_ffi_ssl_create_ocsp_request(const char *chain_data, size_t chain_len,
    unsigned char *out, size_t *out_size, char **err);
int ngx_http_lua_ffi_ssl_validate_ocsp_response(const unsigned char *resp, size_t resp_len,
    const char *chain_data, size_t chain_len, unsigned char *errbuf, size_t *errbuf_size,
    long *valid);
int ngx_http_lua_ffi_ssl_set_ocsp_status_resp(ngx_http_request_t *r, const unsigned char *resp,
    size_t resp_len, char **err);
]]

local _M = { version = base.version }

-- A buffer of so many bytes, and where its length is noted.
local function room(wanted)
    local bytes = wanted or get_string_buf_size()
    local size = get_size_ptr()
    size[0] = bytes
    return get_string_buf(bytes), size, bytes
end

function _M.get_ocsp_responder_from_der_chain(chain, maxlen)
    local buffer, size = room(maxlen)
    local code = C.ngx_http_lua_ffi_ssl_get_ocsp_responder_from_der_chain(chain, #chain, buffer,
                                                                          size, errmsg)
    if code == FFI_OK then
        return ffi_string(buffer, size[0])
    elseif code == FFI_BUSY then
        return ffi_string(buffer, size[0]), "truncated"
    elseif code == FFI_DECLINED then
        return nil
    end
    return nil, ffi_string(errmsg[0])
end

function _M.create_ocsp_request(chain, maxlen)
    local buffer, size, bytes = room(maxlen)
    local code = C.ngx_http_lua_ffi_ssl_create_ocsp_request(chain, #chain, buffer, size, errmsg)
    if code == FFI_OK then
        return ffi_string(buffer, size[0])
    elseif code == FFI_BUSY then
        return nil, ffi_string(errmsg[0]) .. ": " .. tonumber(size[0]) .. " > " .. bytes
    end
    return nil, ffi_string(errmsg[0])
end

local next_update = ffi.new("long[1]")

function _M.validate_ocsp_response(response, chain, max_errmsg_len)
    local buffer, size = room(max_errmsg_len)
    next_update[0] = 0
    local code = C.ngx_http_lua_ffi_ssl_validate_ocsp_response(response, #response, chain, #chain,
                                                               buffer, size, next_update)
    if code ~= FFI_OK then
        return nil, ffi_string(buffer, size[0])
    end
    local valid_until = tonumber(next_update[0])
    if valid_until == 0 then
        return true
    end
    return true, valid_until
end

function _M.set_ocsp_status_resp(response)
    local request = get_request() or error("no request found")
    local code = C.ngx_http_lua_ffi_ssl_set_ocsp_status_resp(request, response, #response, errmsg)
    if code == FFI_OK then
        return true
    elseif code == FFI_DECLINED then
        return true, "no status req"
    end
    return nil, ffi_string(errmsg[0])
end

return _M
