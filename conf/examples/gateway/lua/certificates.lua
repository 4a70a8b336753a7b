-- The certificate for the name a client asks for: certs/NAME.pem and certs/NAME.key, or those of
-- "_.PARENT" for all names below PARENT. Files may come and change while the server runs. Without
-- any, the handshake goes on with ssl_certificate of the configuration.

local lrucache = require "resty.lrucache"
local ssl = require "ngx.ssl"

local _M = {}
local folder = ngx.config.prefix() .. "certs/"
local cache = assert(lrucache.new(1000))      -- of each worker; false: there is none
local fresh, fresh_none = 60, 10              -- seconds

local function read(path)
    local file = io.open(path, "rb")
    if not file then
        return nil
    end
    local text = file:read("*a")
    file:close()
    return text
end

local function load(name)
    local pem, key_pem = read(folder .. name .. ".pem"), read(folder .. name .. ".key")
    if not pem or not key_pem then
        return nil
    end
    local chain, err = ssl.parse_pem_cert(pem)
    local key, key_err = ssl.parse_pem_priv_key(key_pem)
    if not chain or not key then
        ngx.log(ngx.ERR, "certificate ", name, ": ", err or key_err)
        return nil
    end
    return {chain = chain, key = key}
end

local function find(name)
    local found, before = cache:get(name)
    if found ~= nil then
        return found
    end
    -- Files that cannot be read now leave the pair before in use.
    found = load(name) or load((name:gsub("^[^.]+", "_", 1))) or before or false
    cache:set(name, found, found and fresh or fresh_none)
    return found
end

function _M.choose()
    local name = ssl.server_name()
    -- The name becomes part of a path.
    if not name or not name:find("^[%w.-]+$") then
        return
    end
    local pair = find(name:lower())
    if not pair then
        return
    end
    local ok = ssl.clear_certs() and ssl.set_cert(pair.chain) and ssl.set_priv_key(pair.key)
    if not ok then
        ngx.log(ngx.ERR, "certificate ", name, ": chain and key do not belong together")
        return ngx.exit(ngx.ERROR)
    end
end

return _M
