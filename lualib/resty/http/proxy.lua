-- Which proxy a request goes through. resty.http and resty.http_connect are the callers.

local find, gmatch, lower, sub = string.find, string.gmatch, string.lower, string.sub

local _M = {}

-- Whether a no_proxy list ("*", or hosts and domains with commas between them) names the host.
-- A domain names its subdomains too; a leading dot does not count.
function _M.excludes(no_proxy, host)
    if not no_proxy then
        return false
    end
    host = lower(host)
    for entry in gmatch(lower(no_proxy), "[^,%s]+") do
        if sub(entry, 1, 1) == "." then
            entry = sub(entry, 2)
        end
        if entry == "*" or entry == host then
            return true
        end
        local tail = "." .. entry
        if entry ~= "" and #host > #tail and find(host, tail, -#tail, true) then
            return true
        end
    end
    return false
end

-- URI and authorization of the proxy for a scheme and host; nil: none.
function _M.choose(options, scheme, host)
    if not options or _M.excludes(options.no_proxy, host) then
        return nil
    end
    if scheme == "https" then
        return options.https_proxy, options.https_proxy_authorization
    end
    if scheme == "http" then
        return options.http_proxy, options.http_proxy_authorization
    end
    return nil
end

return _M
