// TLS of the server's side, of http{} and stream{}: the ssl_* directives, the contexts made of
// them, and what requests over TLS are asked for (client certificates). Handshakes are
// http/tls_accept's and stream/session's; the variables are in ssl_variables.cpp.
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>

#include <algorithm>
#include <cstring>
#include <fstream>

#include "conf/binder.h"
#include "conf/values.h"
#include "core/text.h"
#include "core/tls.h"
#include "server/config.h"
#include "server/http/client_status.h"
#include "server/http/connection.h"
#include "server/http/handshake.h"
#include "server/http/request.h"
#include "server/http/router.h"
#include "server/http/runtime_certificates.h"
#include "server/http/server_tls.h"
#include "server/http/tls_accept.h"
#include "server/http/tls_sessions.h"
#include "server/http/variable_certificates.h"
#include "server/stream/blocks.h"

namespace server {

namespace {

using conf::Line;
using conf::Result;
using core::Error;
using core::Slice;

enum class Verify : uint8_t { off, on, optional, optional_no_ca };
constexpr auto choices(Verify) {
    return std::to_array<conf::Choice<Verify>>({{"off", Verify::off},
                                                {"on", Verify::on},
                                                {"optional", Verify::optional},
                                                {"optional_no_ca", Verify::optional_no_ca}});
}

enum class Protocol : uint8_t {
    ssl2 = 1, ssl3 = 2, tls1 = 4, tls1_1 = 8, tls1_2 = 16, tls1_3 = 32
};
constexpr auto choices(Protocol) {
    return std::to_array<conf::Choice<Protocol>>({{"SSLv2", Protocol::ssl2},
                                                  {"SSLv3", Protocol::ssl3},
                                                  {"TLSv1", Protocol::tls1},
                                                  {"TLSv1.1", Protocol::tls1_1},
                                                  {"TLSv1.2", Protocol::tls1_2},
                                                  {"TLSv1.3", Protocol::tls1_3}});
}

// "ssl_session_cache builtin:1000 shared:SSL:10m"
struct SessionCache {
    enum Kind : uint8_t { none, off, kept } kind = none;
    int64_t builtin = -1;              // sessions a worker; negative: none
    std::shared_ptr<TlsSessionCache> shared;
};

// A certificate's or a key's file; perhaps variables name it.
struct NamedFile {
    std::string text;
    ComplexValue value;                // only when there are variables
};

struct Conf {
    std::vector<NamedFile> certificates, keys;
    conf::Setting<CertificateCache> certificate_cache;
    bool certificates_given = false, keys_given = false;
    std::vector<std::pair<std::string, std::string>> commands;   // ssl_conf_command
    conf::Setting<conf::Choices<Protocol>> protocols;
    // Forward secret and authenticated suites only: what the rest is good for is being attacked.
    conf::Setting<std::string> ciphers{"ECDHE+AESGCM:ECDHE+CHACHA20:DHE+AESGCM:DHE+CHACHA20"};
    conf::Setting<std::string> curves{"auto"};
    conf::Setting<std::string> dhparam, password_file, client_certificate, trusted_certificate, crl;
    std::vector<std::string> ticket_keys;
    bool ticket_keys_given = false;
    conf::Setting<Verify> verify{Verify::off};
    conf::Setting<int> verify_depth{1};
    conf::Setting<bool> prefer_server_ciphers{true}, session_tickets{true}, reject{false};
    conf::Setting<bool> compression{false}, early_data{false};
    conf::Setting<conf::Bytes> buffer_size{conf::Bytes{16384}};
    conf::Setting<conf::Seconds> session_timeout{conf::Seconds{300}};
    conf::Setting<SessionCache> cache;
};

// The caches of the configuration being loaded, by name.
std::vector<std::shared_ptr<TlsSessionCache>> caches;

std::shared_ptr<TlsSessionCache> cache_named(Slice name, size_t bytes) {
    for (auto& cache : caches) {
        if (cache->name() == name) return cache->bytes() == bytes ? cache : nullptr;
    }
    return caches.emplace_back(std::make_shared<TlsSessionCache>(name, bytes));
}

// Keeps the ticket keys of servers whose sessions are in no shared cache.
std::shared_ptr<TlsSessionCache> keys_without_cache() {
    constexpr size_t bytes = 8 * 4096;
    for (auto& cache : caches) {
        if (cache->name() == "ssl ticket keys") return cache;
    }
    auto made = std::make_shared<TlsSessionCache>("ssl ticket keys", bytes);
    return caches.emplace_back(std::move(made));
}

extern const Module module_ssl;

// ---- directives ----

Result<void> add_file(std::vector<NamedFile>& to, const Line& line) {
    NamedFile named{std::string(line.arg(0)), {}};
    if (named.text.find('$') != std::string::npos) {
        auto compiled = ComplexValue::compile(line.arg(0), line);
        if (!compiled) return compiled.take_error();
        named.value = std::move(*compiled);
    }
    to.push_back(std::move(named));
    return {};
}

Result<void> add_certificate(Conf& conf, const Line& line) {
    conf.certificates_given = true;
    return add_file(conf.certificates, line);
}

Result<void> add_key(Conf& conf, const Line& line) {
    conf.keys_given = true;
    return add_file(conf.keys, line);
}

Result<void> add_command(Conf& conf, const Line& line) {
    conf.commands.emplace_back(line.arg(0), line.arg(1));
    return {};
}

Result<void> add_ticket_key(Conf& conf, const Line& line) {
    conf.ticket_keys_given = true;
    conf.ticket_keys.push_back(line.binder.full_path(line.arg(0), true));
    return {};
}

// Encrypted Client Hello: named, so that nobody believes it is at work.
Result<void> refuse_ech(Conf&, const Line& line) {
    return conf::directive_error(
        line, core::format("is not supported: %s has no Encrypted Client Hello",
                           OpenSSL_version(OPENSSL_VERSION)).c_str());
}

Result<void> set_compression(Conf& conf, const Line& line) {
    auto read = conf::apply_field<Conf, &Conf::compression>(&conf, line);
    if (read && conf.compression) {
        line.binder.warn(line.node.place,
                         core::format("\"ssl_certificate_compression\" ignored: %s cannot "
                                      "compress certificates", OpenSSL_version(OPENSSL_VERSION)));
    }
    return read;
}

Result<void> parse_shared(SessionCache& cache, Slice text, const Line& line) {
    Slice rest = text.substr(7);
    size_t colon = rest.find(':');
    if (colon == Slice::npos || colon == 0) return conf::invalid_value(line, text);
    auto bytes = conf::parse_size(rest.substr(colon + 1));
    if (!bytes) return conf::invalid_value(line, text);
    constexpr int64_t bytes_least = 8 * 4096;
    if (*bytes < bytes_least) {
        return Error{"session cache \"" + std::string(text) + "\" is too small"};
    }
    cache.shared = cache_named(rest.substr(0, colon), size_t(*bytes));
    if (cache.shared) return {};
    return Error{"the size of session cache \"" + std::string(text) + "\" differs from before"};
}

Result<void> parse_setting(SessionCache& to, const Line& line) {
    for (size_t i = 0; i < line.count(); ++i) {
        Slice text = line.arg(i);
        if (text == "off" || text == "none") {
            to.kind = text == "off" ? SessionCache::off : SessionCache::none;
            continue;
        }
        to.kind = SessionCache::kept;
        if (text == "builtin") {
            to.builtin = 20480;
        } else if (text.starts_with("builtin:")) {
            auto count = core::parse_number(text.substr(8), INT32_MAX);
            if (!count) return conf::invalid_value(line, text);
            to.builtin = int64_t(*count);
        } else if (text.starts_with("shared:")) {
            if (auto parsed = parse_shared(to, text, line); !parsed) return parsed;
        } else {
            return conf::invalid_value(line, text);
        }
    }
    return {};
}

constexpr uint32_t where = conf::in_http | conf::in_server;
constexpr uint32_t anywhere = where | conf::in_stream | conf::in_stream_server;
constexpr conf::Directive directives[] = {
    {"ssl_certificate", anywhere, conf::takes(1), conf::call<add_certificate>},
    {"ssl_certificate_key", anywhere, conf::takes(1), conf::call<add_key>},
    {"ssl_certificate_cache", where, conf::takes(1, 3), conf::field<&Conf::certificate_cache>},
    {"ssl_ech_file", anywhere, conf::takes(1), conf::call<refuse_ech>},
    {"ssl_password_file", anywhere, conf::takes(1), conf::field<&Conf::password_file>},
    {"ssl_certificate_compression", anywhere, conf::takes_flag(), conf::call<set_compression>},
    {"ssl_dhparam", anywhere, conf::takes(1), conf::field<&Conf::dhparam>},
    {"ssl_ecdh_curve", anywhere, conf::takes(1), conf::field<&Conf::curves>},
    {"ssl_protocols", anywhere, conf::takes_at_least(1), conf::field<&Conf::protocols>},
    {"ssl_ciphers", anywhere, conf::takes(1), conf::field<&Conf::ciphers>},
    {"ssl_buffer_size", where, conf::takes(1), conf::field<&Conf::buffer_size>},
    {"ssl_verify_client", anywhere, conf::takes(1), conf::field<&Conf::verify>},
    {"ssl_verify_depth", anywhere, conf::takes(1), conf::field<&Conf::verify_depth>},
    {"ssl_client_certificate", anywhere, conf::takes(1), conf::field<&Conf::client_certificate>},
    {"ssl_trusted_certificate", anywhere, conf::takes(1), conf::field<&Conf::trusted_certificate>},
    {"ssl_prefer_server_ciphers", anywhere, conf::takes_flag(),
     conf::field<&Conf::prefer_server_ciphers>},
    {"ssl_session_cache", anywhere, conf::takes(1, 2), conf::field<&Conf::cache>},
    {"ssl_session_tickets", anywhere, conf::takes_flag(), conf::field<&Conf::session_tickets>},
    {"ssl_session_ticket_key", anywhere, conf::takes(1), conf::call<add_ticket_key>},
    {"ssl_session_timeout", anywhere, conf::takes(1), conf::field<&Conf::session_timeout>},
    {"ssl_crl", anywhere, conf::takes(1), conf::field<&Conf::crl>},
    {"ssl_early_data", where, conf::takes_flag(), conf::field<&Conf::early_data>},
    {"ssl_conf_command", anywhere, conf::takes(2), conf::call<add_command>},
    {"ssl_reject_handshake", where, conf::takes_flag(), conf::field<&Conf::reject>},
};

Result<void> merge(Conf& conf, const Conf* outer, conf::Binder&) {
    if (!outer) return {};
    if (!conf.certificates_given) conf.certificates = outer->certificates;
    if (!conf.keys_given) conf.keys = outer->keys;
    if (!conf.ticket_keys_given) conf.ticket_keys = outer->ticket_keys;
    if (conf.commands.empty()) conf.commands = outer->commands;
    return {};
}

// ---- contexts ----

Error failed(const std::string& call) {
    return Error{call + " failed" + core::take_tls_errors()};
}

std::string path_of(Slice written) {
    return Configuration::current().binder().full_path(written, true);
}

Result<std::vector<std::string>> read_passwords(const std::string& written) {
    std::vector<std::string> passwords;
    if (written.empty()) return passwords;
    std::ifstream file(path_of(written));
    if (!file) {
        return Error{core::format("open() \"%s\" failed (%d: %s)", path_of(written).c_str(), errno,
                                  core::error_name(errno))};
    }
    for (std::string line; std::getline(file, line);) {
        if (line.ends_with('\r')) line.pop_back();
        if (!line.empty()) passwords.push_back(line);
    }
    return passwords;
}

bool has_variables(const NamedFile& named) { return !named.value.empty(); }
ComplexValue value_of(const NamedFile& named) {
    return has_variables(named) ? named.value : ComplexValue(named.text);
}

Result<void> load_certificates(core::TlsContext& context, const Conf& conf) {
    auto passwords = read_passwords(conf.password_file);
    if (!passwords) return passwords.take_error();
    size_t count = conf.certificates.size();
    if (conf.keys.size() < count) {
        return Error{"no \"ssl_certificate_key\" is defined for certificate \"" +
                     conf.certificates.back().text + "\""};
    }
    if (std::any_of(conf.certificates.begin(), conf.certificates.end(), has_variables) ||
        std::any_of(conf.keys.begin(), conf.keys.begin() + long(count), has_variables)) {
        VariableCertificates::Settings settings{{}, conf.certificate_cache, std::move(*passwords)};
        for (size_t i = 0; i < count; ++i) {
            settings.named.emplace_back(value_of(conf.certificates[i]), value_of(conf.keys[i]));
        }
        VariableCertificates::attach(context.native(), std::move(settings));
        return {};
    }
    for (size_t i = 0; i < count; ++i) {
        Slice certificate = conf.certificates[i].text, key = conf.keys[i].text;
        bool inlined = certificate.starts_with("data:") && key.starts_with("data:");
        auto used = inlined
                        ? context.use_certificate_pem(certificate.substr(5), key.substr(5))
                        : context.use_certificate_files(path_of(certificate), path_of(key),
                                                        *passwords);
        if (!used) return used;
    }
    return {};
}

// OpenSSL takes a range of versions and exceptions to it.
void set_protocols(SSL_CTX* context, const Conf& conf) {
    struct Version { Protocol protocol; int number; uint64_t without; };
    constexpr Version versions[] = {
        {Protocol::ssl3, SSL3_VERSION, SSL_OP_NO_SSLv3},
        {Protocol::tls1, TLS1_VERSION, SSL_OP_NO_TLSv1},
        {Protocol::tls1_1, TLS1_1_VERSION, SSL_OP_NO_TLSv1_1},
        {Protocol::tls1_2, TLS1_2_VERSION, SSL_OP_NO_TLSv1_2},
        {Protocol::tls1_3, TLS1_3_VERSION, SSL_OP_NO_TLSv1_3}};
    auto wanted = [&](Protocol protocol) {
        if (conf.protocols.is_set) return conf.protocols->has(protocol);
        return protocol == Protocol::tls1_2 || protocol == Protocol::tls1_3;
    };
    int least = 0, most = 0;
    for (const Version& version : versions) {
        if (!wanted(version.protocol)) {
            SSL_CTX_set_options(context, version.without);
            continue;
        }
        if (!least) least = version.number;
        most = version.number;
    }
    SSL_CTX_set_min_proto_version(context, least);
    SSL_CTX_set_max_proto_version(context, most);
}

Result<void> set_key_exchange(SSL_CTX* context, const Conf& conf) {
    if (*conf.curves != "auto" && SSL_CTX_set1_curves_list(context, conf.curves->c_str()) != 1) {
        return failed("SSL_CTX_set1_curves_list(\"" + *conf.curves + "\")");
    }
    if (conf.dhparam->empty()) return {};
    std::string path = path_of(*conf.dhparam);
    BIO* file = BIO_new_file(path.c_str(), "r");
    if (!file) return failed("BIO_new_file(\"" + path + "\")");
    EVP_PKEY* parameters = PEM_read_bio_Parameters(file, nullptr);
    BIO_free(file);
    if (!parameters) return failed("PEM_read_bio_DHparams(\"" + path + "\")");
    if (SSL_CTX_set0_tmp_dh_pkey(context, parameters) != 1) {
        EVP_PKEY_free(parameters);
        return failed("SSL_CTX_set_tmp_dh(\"" + path + "\")");
    }
    return {};
}

// A certificate that does not stand up is the request's affair (495), not the handshake's.
int accept_any(int, X509_STORE_CTX*) { return 1; }

Result<void> set_client_verification(SSL_CTX* context, const Conf& conf) {
    const std::string& asked = *conf.client_certificate;
    const std::string& trusted = *conf.trusted_certificate;
    SSL_CTX_set_verify_depth(context, conf.verify_depth);      // scripts may ask for certificates
    if (conf.verify == Verify::off && trusted.empty() && asked.empty()) return {};
    bool needs_trust = conf.verify == Verify::on || conf.verify == Verify::optional;
    if (needs_trust && asked.empty() && trusted.empty()) {
        return Error{"no ssl_client_certificate or ssl_trusted_certificate for ssl_verify_client"};
    }
    for (const std::string& written : {asked, trusted}) {
        if (written.empty()) continue;
        std::string path = path_of(written);
        if (SSL_CTX_load_verify_locations(context, path.c_str(), nullptr) != 1) {
            return failed("SSL_CTX_load_verify_locations(\"" + path + "\")");
        }
    }
    if (!asked.empty()) {
        std::string path = path_of(asked);
        STACK_OF(X509_NAME)* names = SSL_load_client_CA_file(path.c_str());
        if (!names) return failed("SSL_load_client_CA_file(\"" + path + "\")");
        SSL_CTX_set_client_CA_list(context, names);
    }
    ERR_clear_error();
    if (conf.verify != Verify::off) SSL_CTX_set_verify(context, SSL_VERIFY_PEER, accept_any);
    if (conf.crl->empty()) return {};
    std::string path = path_of(*conf.crl);
    X509_STORE* store = SSL_CTX_get_cert_store(context);
    X509_LOOKUP* lookup = X509_STORE_add_lookup(store, X509_LOOKUP_file());
    if (!lookup || X509_LOOKUP_load_file(lookup, path.c_str(), X509_FILETYPE_PEM) != 1) {
        return failed("X509_LOOKUP_load_file(\"" + path + "\")");
    }
    X509_STORE_set_flags(store, X509_V_FLAG_CRL_CHECK | X509_V_FLAG_CRL_CHECK_ALL);
    return {};
}

Result<void> set_commands(SSL_CTX* context, const Conf& conf) {
    if (conf.commands.empty()) return {};
    SSL_CONF_CTX* commands = SSL_CONF_CTX_new();
    if (!commands) return failed("SSL_CONF_CTX_new()");
    SSL_CONF_CTX_set_flags(commands, SSL_CONF_FLAG_FILE | SSL_CONF_FLAG_SERVER |
                                         SSL_CONF_FLAG_CERTIFICATE | SSL_CONF_FLAG_SHOW_ERRORS);
    SSL_CONF_CTX_set_ssl_ctx(commands, context);
    Result<void> done;
    for (const auto& [name, value] : conf.commands) {
        if (SSL_CONF_cmd(commands, name.c_str(), value.c_str()) > 0) continue;
        done = failed("SSL_CONF_cmd(\"" + name + "\", \"" + value + "\")");
        break;
    }
    if (done && SSL_CONF_CTX_finish(commands) != 1) done = failed("SSL_CONF_CTX_finish()");
    SSL_CONF_CTX_free(commands);
    return done;
}

// `scripted`: scripts store sessions or fetch them.
Result<void> set_sessions(SSL_CTX* context, const Conf& conf, bool scripted) {
    SSL_CTX_set_timeout(context, long(conf.session_timeout->count));
    if (!conf.session_tickets) SSL_CTX_set_options(context, SSL_OP_NO_TICKET);
    const SessionCache& cache = *conf.cache;
    // Even without tickets: OpenSSL asks the default server's context how to find the keys.
    auto keeper = cache.shared ? cache.shared : keys_without_cache();
    auto used = use_ticket_keys(context, conf.ticket_keys, std::move(keeper));
    if (!used) return used;
    if (cache.kind == SessionCache::none && scripted) {
        SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_SERVER | SSL_SESS_CACHE_NO_INTERNAL);
        return {};
    }
    if (cache.kind != SessionCache::kept) {
        SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
        return {};
    }
    long mode = SSL_SESS_CACHE_SERVER;
    if (cache.builtin < 0) mode |= SSL_SESS_CACHE_NO_INTERNAL;
    SSL_CTX_set_session_cache_mode(context, mode);
    if (cache.builtin > 0) SSL_CTX_sess_set_cache_size(context, long(cache.builtin));
    if (cache.shared) cache.shared->serve(context);
    return {};
}

// ---- choosing the server ----

int accept_slot() {
    static const int slot = SSL_get_ex_new_index(0, nullptr, nullptr, nullptr, nullptr);
    return slot;
}
int server_slot() {
    static const int slot = SSL_get_ex_new_index(0, nullptr, nullptr, nullptr, nullptr);
    return slot;
}

// The host name of a hello's server_name extension (RFC 6066 3), lower case; empty without one.
std::string hello_name(SSL* ssl) {
    const unsigned char* bytes = nullptr;
    size_t size = 0;
    if (!SSL_client_hello_get0_ext(ssl, TLSEXT_TYPE_server_name, &bytes, &size)) return {};
    if (size < 5 || size_t(bytes[0] << 8 | bytes[1]) + 2 != size) return {};
    size_t length = size_t(bytes[3] << 8 | bytes[4]);
    if (bytes[2] != TLSEXT_NAMETYPE_host_name || length + 5 > size || length == 0) return {};
    std::string name(reinterpret_cast<const char*>(bytes) + 5, length);
    for (char& c : name) c = core::lower(c);
    if (name.ends_with('.')) name.pop_back();
    return name;
}

// As much as one record: what a request without a body may need.
constexpr uint32_t early_data_bytes_max = SSL3_RT_MAX_PLAIN_LENGTH;

void use_server(SSL* ssl, const VirtualServer& server) {
    SSL_set_ex_data(ssl, server_slot(), const_cast<VirtualServer*>(&server));
    if (!server.tls || !server.tls->context) return;
    SSL_CTX* context = server.tls->context->native();
    SSL_set_SSL_CTX(ssl, context);
    // What SSL_set_SSL_CTX() leaves as it was: a session must not pass from one server to another.
    SSL_set_verify(ssl, SSL_CTX_get_verify_mode(context), SSL_CTX_get_verify_callback(context));
    SSL_set_verify_depth(ssl, SSL_CTX_get_verify_depth(context));
    SSL_clear_options(ssl, SSL_get_options(ssl) & ~SSL_CTX_get_options(context));
    SSL_set_options(ssl, SSL_CTX_get_options(context));
    SSL_set_min_proto_version(ssl, int(SSL_CTX_get_min_proto_version(context)));
    SSL_set_max_proto_version(ssl, int(SSL_CTX_get_max_proto_version(context)));
    if (!server.tls->early_data) SSL_set_max_early_data(ssl, 0);
    const std::string& scope = server.tls->session_scope;
    SSL_set_session_id_context(ssl, reinterpret_cast<const uint8_t*>(scope.data()),
                               unsigned(scope.size()));
}

// The default server of an address can have a script for every hello.
uint8_t script_steps(const ListenAddress& listen, const VirtualServer& server) {
    const ServerTls* first = listen.default_server->tls.get();
    const ServerTls* used = server.tls && server.tls->context ? server.tls.get() : first;
    uint8_t steps = used ? used->script_steps : 0;
    if (first) steps |= first->script_steps & handshake_bit(HandshakeStep::client_hello);
    return steps;
}

// Runs before anything of the hello is used, a session to resume included.
int on_hello(SSL* ssl, int* alert, void*) {
    if (Handshake* begun = Handshake::of(ssl)) return begun->hello();
    auto* accept = static_cast<TlsAccept*>(SSL_get_ex_data(ssl, accept_slot()));
    if (!accept) return SSL_CLIENT_HELLO_SUCCESS;
    const ListenAddress& listen = accept->listen;
    std::string name = hello_name(ssl);
    VirtualServer* server =
        listen.names && !name.empty() ? listen.names->find(name, nullptr) : nullptr;
    if (!server) server = listen.default_server;
    const RuntimeCertificate* own = find_runtime_certificate(name);
    if (server->tls && server->tls->rejects && !own) {
        *alert = SSL_AD_UNRECOGNIZED_NAME;
        return SSL_CLIENT_HELLO_ERROR;
    }
    use_server(ssl, *server);
    if (own && !own->use(ssl)) return SSL_CLIENT_HELLO_ERROR;
    uint8_t steps = script_steps(listen, *server);
    if (!steps) return SSL_CLIENT_HELLO_SUCCESS;
    return Handshake::begin(ssl, *accept, *server, steps).hello();
}

// Sessions are good for servers with the same certificates and the same demands on clients. Where a
// script decides on these, its server (at `place`) keeps them to itself.
std::string scope_of(const Conf& conf, const conf::Place* place) {
    std::string text = place ? conf::place_suffix(*place) + '\n' : std::string();
    for (const NamedFile& certificate : conf.certificates) text += certificate.text + '\n';
    for (const auto* part : {&*conf.client_certificate, &*conf.trusted_certificate, &*conf.crl}) {
        text += *part + '\n';
    }
    text += char('0' + int(*conf.verify));
    text += std::to_string(*conf.verify_depth);
    unsigned char digest[32];
    EVP_Digest(text.data(), text.size(), digest, nullptr, EVP_sha256(), nullptr);
    return {reinterpret_cast<char*>(digest), sizeof digest};
}

enum class Protocols : uint8_t { http, any };

constexpr uint8_t session_steps = handshake_bit(HandshakeStep::session_fetch) |
                                  handshake_bit(HandshakeStep::session_store);
constexpr uint8_t server_steps = handshake_bit(HandshakeStep::client_hello) |
                                 handshake_bit(HandshakeStep::certificate);

Result<std::shared_ptr<const ServerTls>> build(const Conf& conf, Protocols protocols,
                                               uint8_t steps = 0,
                                               const conf::Place* place = nullptr) {
    auto tls = std::make_shared<ServerTls>();
    tls->script_steps = steps;
    tls->rejects = conf.reject;
    tls->session_scope = scope_of(conf, steps & server_steps ? place : nullptr);
    tls->early_data = conf.early_data;
    tls->needs_certificate = conf.verify == Verify::on;
    tls->needs_valid = conf.verify == Verify::on || conf.verify == Verify::optional;
    auto made = core::TlsContext::create(core::TlsContext::Role::server);
    if (!made) return made.take_error();
    tls->context = std::move(*made);
    SSL_CTX* context = tls->context->native();
    SSL_CTX_set_tlsext_servername_callback(context, nullptr);
    if (protocols == Protocols::http) {
        SSL_CTX_set_client_hello_cb(context, on_hello, nullptr);
        tls->context->set_alpn({"http/1.1", "http/1.0"});
    } else {
        // There is no choosing by the hello: one server, whose sessions it is.
        const std::string& scope = tls->session_scope;
        SSL_CTX_set_session_id_context(context, reinterpret_cast<const uint8_t*>(scope.data()),
                                       unsigned(scope.size()));
    }
    set_protocols(context, conf);
    if (conf.prefer_server_ciphers) {
        // A client whose first choice is ChaCha20 has no hardware for AES.
        SSL_CTX_set_options(context,
                            SSL_OP_CIPHER_SERVER_PREFERENCE | SSL_OP_PRIORITIZE_CHACHA);
    }
    if (conf.buffer_size->count < SSL3_RT_MAX_PLAIN_LENGTH) {
        SSL_CTX_set_max_send_fragment(context, std::max<long>(512, long(conf.buffer_size->count)));
    }
    for (auto step : {load_certificates(*tls->context, conf),
                      tls->context->set_ciphers(*conf.ciphers), set_key_exchange(context, conf),
                      set_client_verification(context, conf),
                      set_sessions(context, conf, steps & session_steps),
                      set_commands(context, conf)}) {
        if (!step) return step.take_error();
    }
    Handshake::serve(context, steps);
    return std::shared_ptr<const ServerTls>(std::move(tls));
}

Error no_certificate(const conf::Place& place) {
    return Error{"no \"ssl_certificate\" is defined for the \"listen ... ssl\" directive" +
                 conf::place_suffix(place)};
}

// The default server of an address has certificates, or rejects; then all others have.
Result<void> check_listen(const ListenAddress& listen) {
    if (listen.stream) {
        if (listen.stream->tls) return {};
        return no_certificate(listen.stream->place);
    }
    const VirtualServer& first = *listen.default_server;
    const Conf& conf = first.root.conf<Conf>(module_ssl);
    if (!conf.certificates.empty()) return {};
    if (!conf.reject) return no_certificate(first.place);
    for (const VirtualServer* server : listen.servers) {
        const Conf& other = server->root.conf<Conf>(module_ssl);
        if (other.certificates.empty() && !other.reject) return no_certificate(server->place);
    }
    return {};
}

// Sessions begin with the default server's context: it takes early data when any of the servers
// does, and each then says whether it does (use_server).
void allow_early_data(const ListenAddress& listen) {
    if (listen.stream || !listen.default_server->tls) return;
    for (const VirtualServer* server : listen.servers) {
        if (!server->tls || !server->tls->early_data) continue;
        for (const auto& tls : {listen.default_server->tls, server->tls}) {
            SSL_CTX_set_max_early_data(tls->context->native(), early_data_bytes_max);
            // OpenSSL's own protection needs all sessions to be one process's.
            SSL_CTX_set_options(tls->context->native(), SSL_OP_NO_ANTI_REPLAY);
        }
    }
}

Result<void> build_streams(StreamBlocks& blocks) {
    for (auto& server : blocks.servers) {
        const Conf& conf = *static_cast<const Conf*>(server->level->get(module_ssl.index));
        if (conf.certificates.empty()) continue;
        if (std::any_of(conf.certificates.begin(), conf.certificates.end(), has_variables)) {
            return Error{"variables in \"ssl_certificate\" are not available in stream{}" +
                         conf::place_suffix(server->place)};
        }
        auto built = build(conf, Protocols::any);
        if (!built) return built.take_error();
        server->tls = std::move(*built);
    }
    return {};
}

Result<void> prepare(Configuration& configuration) {
    for (auto& server : configuration.servers) {
        const Conf& conf = server->root.conf<Conf>(module_ssl);
        uint8_t steps = handshake_scripts() ? handshake_scripts()->steps_of(*server) : 0;
        if (conf.certificates.empty() && !conf.reject) {
            if (steps & server_steps) return Error{"no ssl configured for the server"};
            continue;
        }
        auto built = build(conf, Protocols::http, steps, &server->place);
        if (!built) return built.take_error();
        server->tls = std::move(*built);
    }
    if (configuration.stream) {
        if (auto built = build_streams(*configuration.stream); !built) return built;
    }
    for (auto& cache : caches) {
        if (auto opened = cache->open(); !opened) return opened;
    }
    for (auto& listen : configuration.listens) {
        if (!listen->ssl) continue;
        if (auto checked = check_listen(*listen); !checked) return checked;
        allow_early_data(*listen);
    }
    return {};
}

// ---- requests ----

// Who asks for another server than the handshake was for gets past that one's demands on clients.
Verdict check_server(Request& request, const core::TlsSession& session) {
    const VirtualServer* named = negotiated_server(session);
    if (!named || named == request.server) return Verdict::decline();
    LOG(request.log, info, 0, "client attempted to request the server name different from the one "
        "that was negotiated");
    return Verdict::reject(421);
}

Verdict check_client(Request& request) {
    if (request.parent) return Verdict::decline();
    const core::TlsSession* session = request.connection.stream.tls();
    if (!session) return Verdict::decline();
    if (Verdict verdict = check_server(request, *session); verdict.is(Verdict::rejected)) {
        return verdict;
    }
    const Conf& conf = request.conf<Conf>(module_ssl);
    X509* certificate = SSL_get0_peer_certificate(session->native());
    long result = session->verify_result();
    if (certificate && result != X509_V_OK && conf.verify != Verify::optional_no_ca) {
        LOG(request.log, info, 0, "client SSL certificate verify error: (%ld:%s)", result,
            session->verify_error().c_str());
        return Verdict::reject(495);
    }
    if (!certificate && conf.verify == Verify::on) {
        LOG(request.log, info, 0, "client sent no required SSL certificate");
        return Verdict::reject(496);
    }
    if (const char* wrong = client_status_error(*session)) {
        LOG(request.log, info, 0, "client SSL certificate verify error: %s", wrong);
        return Verdict::reject(495);
    }
    return Verdict::decline();
}

bool verifies(const void* conf) { return static_cast<const Conf*>(conf)->verify != Verify::off; }

constexpr PhaseHandler handlers[] = {{Phase::post_read, rank::first, check_client, verifies}};

constinit const Module module_ssl{
    .name = "ssl",
    .conf = conf_with_merge<Conf, merge>,
    .directives = directives,
    .handlers = handlers,
    .begin = [](Configuration&) { caches.clear(); },
    .prepare = prepare,
};
REGISTER_MODULE(module_ssl);

}  // namespace

const VirtualServer* negotiated_server(const core::TlsSession& session) {
    return static_cast<const VirtualServer*>(SSL_get_ex_data(session.native(), server_slot()));
}

ClientCertificate judge_client(const core::TlsSession& session, const ServerTls& tls) {
    bool shown = SSL_get0_peer_certificate(session.native()) != nullptr;
    if (!shown) return tls.needs_certificate ? ClientCertificate::missing : ClientCertificate::good;
    bool valid = !tls.needs_valid || session.verify_result() == X509_V_OK;
    return valid ? ClientCertificate::good : ClientCertificate::refused;
}

Connection* handshaking_connection(const SSL* ssl) {
    return static_cast<TlsAccept*>(SSL_get_ex_data(ssl, accept_slot()));
}

void bind_session(core::TlsSession& session, TlsAccept* accept) {
    SSL_set_ex_data(session.native(), accept_slot(), accept);
}

}  // namespace server
