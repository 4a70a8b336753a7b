-- connect() of resty.http with a table of options: the TCP connection, the tunnel through a proxy
-- and the TLS handshake, under a pool name that keeps apart what must not be mixed.

local client_cert = require "resty.client_cert"
local proxy = require "resty.http.proxy"

local concat = table.concat
local find, gsub = string.find, string.gsub
local tostring = tostring
local log = ngx.log
local DEBUG = ngx.DEBUG

local default_ports = { http = 80, https = 443 }

-- What is asked for, checked: scheme, host, port, tls, identity, and of the proxy uri, host, port
-- and authorization. Or nil and an error.
local function plan(self, options)
    local scheme, host, port = options.scheme, options.host, options.port
    if port and not scheme then
        return nil, "'scheme' is required when providing a port"
    end
    if not host then
        return nil, "'host' is required"
    end
    local unix = find(host, "^unix:") ~= nil
    local way = { scheme = scheme, host = host, tls = scheme == "https", identity = "",
                  port = not unix and (port or default_ports[scheme]) or nil }

    if way.tls and options.ssl_client_cert and options.ssl_client_priv_key then
        local identity, err = client_cert.identity(options.ssl_client_cert,
                                                   options.ssl_client_priv_key, "ssl_client_")
        if not identity then
            return nil, err
        end
        way.identity = identity
    end
    if unix then
        return way
    end

    local uri, authorization = proxy.choose(options.proxy_opts or self.proxy_opts, scheme, host)
    if uri then
        local parts, err = self:parse_uri(uri, false)
        if not parts then
            return nil, "uri parse error: " .. err
        end
        if parts[1] ~= "http" then
            return nil, "protocol " .. tostring(parts[1]) .. " not supported for proxy connections"
        end
        way.proxy, way.proxy_host, way.proxy_port = uri, parts[2], parts[3]
        way.authorization = authorization
    end
    return way
end

-- The name TLS asks for: an address in brackets without them.
local function server_name(options)
    local name = options.ssl_server_name
    return name and gsub(name, "^%[(.*)%]$", "%1") or nil
end

-- With a proxy, the authorization is part of a tunnel, but not of a plain connection: there it goes
-- with each request.
local function pool_name(way, options)
    local parts = { way.scheme or "", way.host, tostring(way.port), way.proxy or "" }
    if way.tls then
        parts[5] = options.ssl_server_name or ""
        parts[6] = tostring(options.ssl_verify ~= false)
        parts[7] = way.authorization or ""
        parts[8] = way.identity
    end
    return concat(parts, ":")
end

local function open_tunnel(self, way)
    local destination = way.host .. ":" .. way.port
    local res, err = self:request({
        method = "CONNECT",
        path = destination,
        headers = {
            ["Host"] = destination,
            ["Proxy-Authorization"] = way.authorization,
        },
    })
    if not res then
        return nil, "failed to issue CONNECT to proxy: " .. err
    end
    if res.status < 200 or res.status > 299 then
        return nil, "failed to establish a tunnel through a proxy: " .. res.status
    end
    return true
end

local function start_tls(self, way, options)
    local sock = self.sock
    if way.identity ~= "" then
        local ok, err = sock:setclientcert(options.ssl_client_cert, options.ssl_client_priv_key)
        if not ok then
            return nil, "could not set client certificate: " .. err
        end
    end
    return sock:sslhandshake(options.ssl_reused_session, server_name(options),
                             options.ssl_verify ~= false, options.ssl_send_status_req)
end

local function open_socket(sock, way, socket_options)
    if way.proxy then
        local ok, err = sock:connect(way.proxy_host, way.proxy_port, socket_options)
        if not ok then
            return nil, "failed to connect to: " .. way.proxy_host .. ":" .. way.proxy_port
                        .. ": " .. err
        end
        return true
    end
    if way.port then
        return sock:connect(way.host, way.port, socket_options)
    end
    return sock:connect(way.host, socket_options)
end

-- What a connection that is new in this pool needs before the first request: the TLS session, if
-- there is one, or true; or nil and an error.
local function prepare(self, way, options)
    if way.proxy then
        local ok, err = open_tunnel(self, way)
        if not ok then
            return nil, err
        end
    end
    return start_tls(self, way, options)
end

-- true, nil and the TLS session of a new TLS connection; or nil and an error.
return function(self, options)
    local sock = self.sock
    if not sock then
        return nil, "not initialized"
    end
    local way, err = plan(self, options)
    if not way then
        return nil, err
    end
    local name = options.pool or pool_name(way, options)
    if options.pool_debug == true then
        log(DEBUG, "poolname: ", name)
    end

    self:reset(way.host, way.port, way.tls)
    local ok
    ok, err = open_socket(sock, way, { pool = name, pool_size = options.pool_size,
                                       backlog = options.backlog })
    if not ok then
        return nil, err
    end

    local session
    if way.tls and sock:getreusedtimes() == 0 then
        session, err = prepare(self, way, options)
        if not session then
            sock:close()
            return nil, err
        end
        self:reset(way.host, way.port, way.tls)
    end
    if way.proxy and not way.tls then
        -- A proxy is asked for the whole URI (RFC 9112, section 3.2.2).
        self.path_prefix = "http://" .. way.host .. (way.port == 80 and "" or ":" .. way.port)
        self.http_proxy_auth = way.authorization
    end
    return true, nil, session
end
