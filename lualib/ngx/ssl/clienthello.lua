-- The client's first message, for ssl_client_hello_by_lua. See clienthello.md.

local ffi = require "ffi"
local bit = require "bit"
local base = require "resty.core.base"

local C = ffi.C
local ffi_string = ffi.string
local errmsg = base.get_errmsg_ptr()
local get_phase = ngx.get_phase
local get_request = base.get_request
local get_size_ptr = base.get_size_ptr
local FFI_OK = base.FFI_OK
local FFI_DECLINED = base.FFI_DECLINED
local error = error
local ipairs = ipairs
local tonumber = tonumber

ffi.cdef[[
int ngx_http_lua_ffi_ssl_get_client_hello_server_name(ngx_http_request_t *r, const char **name,
    size_t *namelen, char **err);
int ngx_http_lua_ffi_ssl_get_client_hello_ext(ngx_http_request_t *r, unsigned int type,
    const unsigned char **out, size_t *outlen, char **err);
int ngx_http_lua_ffi_ssl_get_client_hello_ext_present(ngx_http_request_t *r, int **extensions,
    size_t *extensions_len, char **err);
int ngx_http_lua_ffi_ssl_get_client_hello_ciphers(ngx_http_request_t *r, unsigned short *ciphers,
    size_t ciphers_len, char **err);
int ngx_http_lua_ffi_ssl_set_protocols(ngx_http_request_t *r, int protocols, char **err);
]]

local _M = { version = base.version }

local name_pointer = ffi.new("const char *[1]")
local bytes_pointer = ffi.new("const unsigned char *[1]")
local types_pointer = ffi.new("int *[1]")

-- The handshake whose hello is at hand; refuses at any other time.
local function current()
    local r = get_request() or error("no request found", 3)
    if get_phase() ~= "ssl_client_hello" then
        error("API disabled in the current context", 3)
    end
    return r
end

-- What a call answers that found nothing: nil when there is no such thing, else also why.
local function nothing(code)
    if code == FFI_DECLINED then
        return nil
    end
    return nil, ffi_string(errmsg[0])
end

function _M.get_client_hello_server_name()
    local size = get_size_ptr()
    local code = C.ngx_http_lua_ffi_ssl_get_client_hello_server_name(current(), name_pointer,
                                                                     size, errmsg)
    if code ~= FFI_OK then
        return nothing(code)
    end
    return ffi_string(name_pointer[0], size[0])
end

local function extension(r, ext_type)
    local size = get_size_ptr()
    local code = C.ngx_http_lua_ffi_ssl_get_client_hello_ext(r, ext_type, bytes_pointer, size,
                                                             errmsg)
    if code ~= FFI_OK then
        return nothing(code)
    end
    return ffi_string(bytes_pointer[0], size[0])
end

function _M.get_client_hello_ext(ext_type)
    return extension(current(), ext_type)
end

-- OpenSSL lists only extensions that it knows.
function _M.get_client_hello_ext_present()
    local size = get_size_ptr()
    local code = C.ngx_http_lua_ffi_ssl_get_client_hello_ext_present(current(), types_pointer,
                                                                     size, errmsg)
    if code ~= FFI_OK then
        return nothing(code)
    end
    local count = tonumber(size[0])
    local found = base.new_tab(count, 0)
    for i = 1, count do
        found[i] = types_pointer[0][i - 1]
    end
    return found
end

local ciphers_max = 128
local ciphers = ffi.new("unsigned short[?]", ciphers_max)

-- RFC 8701: values that mean nothing, sent so that servers do not get used to known ones only.
local function is_grease(cipher)
    return bit.band(cipher, 0x0f0f) == 0x0a0a and bit.rshift(cipher, 8) == bit.band(cipher, 0xff)
end

function _M.get_client_hello_ciphers()
    local count = C.ngx_http_lua_ffi_ssl_get_client_hello_ciphers(current(), ciphers, ciphers_max,
                                                                  errmsg)
    if count <= 0 then
        return nil, ffi_string(errmsg[0])
    end
    local found = base.new_tab(count, 0)
    for i = 0, count - 1 do
        if not is_grease(ciphers[i]) then
            found[#found + 1] = ciphers[i]
        end
    end
    return found
end

local supported_versions = 43          -- RFC 8446 4.2.1
local version_names = {
    [0x0002] = "SSLv2",
    [0x0300] = "SSLv3",
    [0x0301] = "TLSv1",
    [0x0302] = "TLSv1.1",
    [0x0303] = "TLSv1.2",
    [0x0304] = "TLSv1.3",
}

-- The client's last choice comes first.
function _M.get_supported_versions()
    local list, err = extension(current(), supported_versions)
    if not list then
        return nil, err
    end
    local bytes = #list - 1
    if bytes < 0 or list:byte() ~= bytes then
        return nil
    end
    local found = {}
    for at = bytes, 2, -2 do
        local high, low = list:byte(at, at + 1)
        local name = version_names[high * 256 + low]
        if name then
            found[#found + 1] = name
        end
    end
    return found
end

local protocol_bits = {
    ["SSLv2"] = 0x02,
    ["SSLv3"] = 0x04,
    ["TLSv1"] = 0x08,
    ["TLSv1.1"] = 0x10,
    ["TLSv1.2"] = 0x20,
    ["TLSv1.3"] = 0x40,
}

function _M.set_protocols(protocols)
    local r = current()
    local bits = 0
    for _, name in ipairs(protocols) do
        local known = protocol_bits[name]
        if not known then
            return nil, "invalid protocols failed"
        end
        bits = bit.bor(bits, known)
    end
    if C.ngx_http_lua_ffi_ssl_set_protocols(r, bits, errmsg) == FFI_OK then
        return true
    end
    return nil, ffi_string(errmsg[0])
end

return _M
