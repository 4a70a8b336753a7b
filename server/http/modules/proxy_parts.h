// The parts of the proxy module that know no connection: its settings, what proxy_pass names, the
// request that goes upstream, and what of the response goes on to the client.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "conf/values.h"
#include "core/buffer.h"
#include "server/http/request.h"
#include "server/http/variables.h"
#include "server/upstream/http_exchange.h"

namespace server {

enum class ProxyVersion : uint8_t { http_1_0, http_1_1 };
inline constexpr conf::Choice<ProxyVersion> proxy_versions[] = {
    {"1.0", ProxyVersion::http_1_0}, {"1.1", ProxyVersion::http_1_1}};
constexpr const auto& choices(ProxyVersion) { return proxy_versions; }

// Where a request goes.
struct ProxyUrl {
    UpstreamTarget target;
    std::string host_port;       // "example.com:8080", as $proxy_host: without the default port
    std::string path;            // the URI part as written; empty when there is none
    core::Slice uri;             // what is asked for there
};

// The argument of proxy_pass.
struct ProxyTarget {
    ComplexValue text;
    std::shared_ptr<const ProxyUrl> fixed;     // when the text has no variables
    std::string location;                      // the prefix that a URI part replaces
    bool is_set = false;

    core::Result<ProxyUrl> resolve(Request& request) const;
};
core::Result<ProxyUrl> parse_proxy_url(core::Slice text);

struct ProxyField {
    std::string name;
    ComplexValue value;
};
struct ProxyRedirect {
    ComplexValue from, to;
};

struct ProxyConf {
    template <class T> using Setting = conf::Setting<T>;
    using Ms = conf::Milliseconds;

    ProxyTarget target;                                    // not inherited
    Setting<ComplexValue> method;
    Setting<ComplexValue> body;
    Setting<ProxyVersion> http_version{ProxyVersion::http_1_1};
    Setting<bool> pass_request_headers{true};
    Setting<bool> pass_request_body{true};
    Setting<Ms> connect_timeout{Ms{60000}};
    Setting<Ms> send_timeout{Ms{60000}};
    Setting<Ms> read_timeout{Ms{60000}};
    Setting<conf::Bytes> buffer_size{conf::Bytes{4096}};
    Setting<bool> buffering{true};
    Setting<bool> intercept_errors{false};
    Setting<bool> ignore_client_abort{false};
    std::vector<ProxyField> set_fields;                    // inherited when there is none here
    std::vector<std::string> hide_fields, pass_fields;     // likewise
    std::vector<ProxyRedirect> redirects;
    bool redirect_off = false, redirect_set = false;
};

// Request line, fields and body for the upstream server.
core::Chain make_proxy_request(Request& request, const ProxyConf& conf, const ProxyUrl& url);

// Makes the upstream's fields the response's: hidden ones stay behind, redirects are rewritten.
void take_response_fields(Request& request, const ProxyConf& conf, const HeaderList& fields,
                          const ProxyUrl& url);

bool has_error_page(const Request& request, int status);

}  // namespace server
