// Certificate status: ssl_stapling and its kin (of our own certificates), ssl_ocsp and its kin (of
// the clients'). Adds to the contexts that modules/ssl.cpp has made; asking is http/stapling's and
// http/client_status's.
#include <openssl/ssl.h>

#include "conf/binder.h"
#include "conf/values.h"
#include "core/tls.h"
#include "server/config.h"
#include "server/http/client_status.h"
#include "server/http/core_conf.h"
#include "server/http/server_tls.h"
#include "server/http/stapling.h"
#include "server/http/tls_sessions.h"
#include "server/stream/blocks.h"
#include "server/worker.h"

namespace server {

namespace {

using conf::Line;
using conf::Result;
using core::Error;
using core::Slice;

enum class Clients : uint8_t { off, on, leaf };
constexpr auto choices(Clients) {
    return std::to_array<conf::Choice<Clients>>(
        {{"off", Clients::off}, {"on", Clients::on}, {"leaf", Clients::leaf}});
}

struct Conf {
    conf::Setting<bool> stapling{false}, stapling_verify{false};
    conf::Setting<std::string> stapling_file, stapling_responder;
    conf::Setting<Clients> clients{Clients::off};
    conf::Setting<std::string> responder;
    std::shared_ptr<TlsSessionCache> cache;
    bool cache_given = false;
};

// The caches of the configuration being loaded, by name.
std::vector<std::shared_ptr<TlsSessionCache>> caches;

Error invalid_cache(Slice text) {
    return Error{"invalid OCSP cache \"" + std::string(text) + "\""};
}

// "shared:NAME:SIZE"
Result<void> set_cache(Conf& conf, const Line& line) {
    Slice text = line.arg(0);
    if (conf.cache_given) return conf::detail::duplicate();
    conf.cache_given = true;
    if (text == "off") return {};
    if (!text.starts_with("shared:")) return invalid_cache(text);
    Slice rest = text.substr(7);
    size_t colon = rest.find(':');
    if (colon == Slice::npos || colon == 0) return invalid_cache(text);
    auto bytes = conf::parse_size(rest.substr(colon + 1));
    if (!bytes) return invalid_cache(text);
    constexpr int64_t bytes_least = 8 * 4096;
    if (*bytes < bytes_least) {
        return Error{"OCSP cache \"" + std::string(text) + "\" is too small"};
    }
    std::string name = "ocsp:" + std::string(rest.substr(0, colon));
    for (auto& known : caches) {
        if (known->name() != name) continue;
        if (known->bytes() != size_t(*bytes)) {
            return Error{"the size of OCSP cache \"" + std::string(text) +
                         "\" differs from before"};
        }
        conf.cache = known;
        return {};
    }
    conf.cache = caches.emplace_back(std::make_shared<TlsSessionCache>(name, size_t(*bytes)));
    return {};
}

constexpr uint32_t where = conf::in_http | conf::in_server;
constexpr uint32_t anywhere = where | conf::in_stream | conf::in_stream_server;
constexpr conf::Directive directives[] = {
    {"ssl_stapling", anywhere, conf::takes_flag(), conf::field<&Conf::stapling>},
    {"ssl_stapling_file", anywhere, conf::takes(1), conf::field<&Conf::stapling_file>},
    {"ssl_stapling_responder", anywhere, conf::takes(1), conf::field<&Conf::stapling_responder>},
    {"ssl_stapling_verify", anywhere, conf::takes_flag(), conf::field<&Conf::stapling_verify>},
    {"ssl_ocsp", where, conf::takes(1), conf::field<&Conf::clients>},
    {"ssl_ocsp_responder", where, conf::takes(1), conf::field<&Conf::responder>},
    {"ssl_ocsp_cache", where, conf::takes(1), conf::call<set_cache>},
};

Result<void> merge(Conf& conf, const Conf* outer, conf::Binder&) {
    if (outer && !conf.cache_given) conf.cache = outer->cache;
    return {};
}

// ---- while the configuration is loaded ----

Result<void> staple(const Conf& conf, const ServerTls& tls, const conf::Place& place) {
    if (!conf.stapling) return {};
    conf::Binder& binder = Configuration::current().binder();
    Stapling::Settings settings;
    settings.responder = *conf.stapling_responder;
    settings.verify = conf.stapling_verify;
    if (!conf.stapling_file->empty()) {
        settings.file = binder.full_path(*conf.stapling_file, true);
    }
    std::vector<std::string> warnings;
    auto attached = Stapling::attach(tls.context->native(), settings, warnings);
    for (const std::string& warning : warnings) binder.warn(place, warning);
    return attached;
}

Result<void> check_clients(const Conf& conf, const ServerTls& tls) {
    SSL_CTX* context = tls.context->native();
    if (conf.clients == Clients::off) return {};
    bool asks = SSL_CTX_get_verify_mode(context) != SSL_VERIFY_NONE;
    if (asks && !tls.needs_valid) {
        return Error{"\"ssl_ocsp\" is incompatible with \"ssl_verify_client optional_no_ca\""};
    }
    auto rule = std::make_unique<ClientStatusRule>();
    rule->leaf_only = conf.clients == Clients::leaf;
    rule->cache = conf.cache;
    if (!conf.responder->empty()) {
        auto parsed = OcspResponder::parse(*conf.responder);
        if (!parsed) return Error{parsed.error().what + " in \"ssl_ocsp_responder\""};
        rule->responder = std::move(*parsed);
    }
    use_client_status(context, std::move(rule));
    return {};
}

extern const Module module_ssl_ocsp;

// The contexts are there: their module's name sorts before this one's.
Result<void> prepare(Configuration& configuration) {
    for (auto& cache : caches) {
        if (auto opened = cache->open(); !opened) return opened;
    }
    for (auto& server : configuration.servers) {
        if (!server->tls || !server->tls->context) continue;
        const Conf& conf = server->root.conf<Conf>(module_ssl_ocsp);
        if (auto done = staple(conf, *server->tls, server->place); !done) return done;
        if (auto done = check_clients(conf, *server->tls); !done) return done;
    }
    if (!configuration.stream) return {};
    for (auto& server : configuration.stream->servers) {
        if (!server->tls || !server->tls->context) continue;
        const Conf& conf = *static_cast<const Conf*>(server->level->get(module_ssl_ocsp.index));
        if (auto done = staple(conf, *server->tls, server->place); !done) return done;
    }
    return {};
}

// ---- in the workers ----

template <class Run>
void each_context(Configuration& configuration, Run run) {
    for (auto& server : configuration.servers) {
        if (server->tls && server->tls->context) {
            run(server->tls->context->native(), server->root.core);
        }
    }
    if (!configuration.stream) return;
    for (auto& server : configuration.stream->servers) {
        if (server->tls && server->tls->context) run(server->tls->context->native(), nullptr);
    }
}

Result<void> init_worker(Worker& worker) {
    if (worker.id < 0) return {};
    each_context(worker.configuration, [&](SSL_CTX* context, const CoreConf* core) {
        Stapling* stapling = Stapling::of(context);
        ClientStatusRule* rule = client_status_rule(context);
        if (!stapling && !rule) return;
        OcspResolving resolving{core ? core->resolver.get() : nullptr};
        if (!resolving.resolver) resolving.resolver = &worker.resolver();
        if (core) resolving.timeout_ms = core->resolver_timeout->count;
        if (stapling) stapling->start(resolving);
        if (rule) rule->resolving = resolving;
    });
    return {};
}

void exit_worker(Worker& worker) {
    each_context(worker.configuration, [](SSL_CTX* context, const CoreConf*) {
        if (Stapling* stapling = Stapling::of(context)) stapling->stop();
    });
}

constinit const Module module_ssl_ocsp{
    .name = "ssl_ocsp",
    .conf = conf_with_merge<Conf, merge>,
    .directives = directives,
    .begin = [](Configuration&) { caches.clear(); },
    .prepare = prepare,
    .init_worker = init_worker,
    .exit_worker = exit_worker,
};
REGISTER_MODULE(module_ssl_ocsp);

}  // namespace

}  // namespace server
