// lua_ssl_* directives; see tls_settings.h.
#include "lua/tls_settings.h"

#include <openssl/err.h>
#include <openssl/ssl.h>
#include <unistd.h>

#include <cerrno>
#include <string>

#include "conf/binder.h"
#include "core/log.h"
#include "core/text.h"
#include "lua/conf.h"

namespace lua {
namespace {

using conf::Error;
using conf::Result;

bool any_set(const LuaConf& conf) {
    return conf.ssl_protocols.is_set || conf.ssl_ciphers.is_set || conf.ssl_verify_depth.is_set ||
           conf.ssl_certificate.is_set || conf.ssl_certificate_key.is_set ||
           conf.ssl_trusted_certificate.is_set || conf.ssl_crl.is_set || conf.ssl_key_log.is_set ||
           conf.ssl_conf_command.is_set;
}

bool same(const LuaConf& a, const LuaConf& b) {
    return *a.ssl_protocols == *b.ssl_protocols && *a.ssl_ciphers == *b.ssl_ciphers &&
           *a.ssl_verify_depth == *b.ssl_verify_depth &&
           *a.ssl_certificate == *b.ssl_certificate &&
           *a.ssl_certificate_key == *b.ssl_certificate_key &&
           *a.ssl_trusted_certificate == *b.ssl_trusted_certificate && *a.ssl_crl == *b.ssl_crl &&
           *a.ssl_key_log == *b.ssl_key_log &&
           a.ssl_conf_command->items == b.ssl_conf_command->items;
}

Error failed(const std::string& call) { return Error{call + " failed" + core::take_tls_errors()}; }

struct Protocol {
    core::Slice name;
    uint64_t refused;                    // the option that leaves it out
};
constexpr Protocol protocols[] = {
    {"SSLv2", 0},
    {"SSLv3", SSL_OP_NO_SSLv3},
    {"TLSv1", SSL_OP_NO_TLSv1},
    {"TLSv1.1", SSL_OP_NO_TLSv1_1},
    {"TLSv1.2", SSL_OP_NO_TLSv1_2},
    {"TLSv1.3", SSL_OP_NO_TLSv1_3},
};

Result<void> use_protocols(SSL_CTX* context, const std::vector<std::string>& wanted) {
    uint64_t refused = SSL_OP_NO_SSLv3;
    if (!wanted.empty()) {
        for (const Protocol& known : protocols) refused |= known.refused;
    }
    for (const std::string& name : wanted) {
        const Protocol* found = nullptr;
        for (const Protocol& known : protocols)
            if (core::iequals(known.name, name)) found = &known;
        if (!found) return Error{"invalid value \"" + name + "\""};
        refused &= ~found->refused;
    }
    SSL_CTX_set_min_proto_version(context, 0);
    SSL_CTX_set_max_proto_version(context, 0);
    SSL_CTX_set_options(context, refused);
    return {};
}

Result<void> use_certificate(core::TlsContext& context, const LuaConf& conf,
                             const conf::Binder& binder) {
    if (conf.ssl_certificate->empty()) return {};
    if (conf.ssl_certificate_key->empty()) {
        return Error{"no \"lua_ssl_certificate_key\" is defined for certificate \"" +
                     *conf.ssl_certificate + "\""};
    }
    return context.use_certificate_files(binder.full_path(*conf.ssl_certificate, true),
                                         binder.full_path(*conf.ssl_certificate_key, true));
}

Result<void> use_crl(SSL_CTX* context, const std::string& path) {
    X509_STORE* store = SSL_CTX_get_cert_store(context);
    X509_LOOKUP* lookup = store ? X509_STORE_add_lookup(store, X509_LOOKUP_file()) : nullptr;
    if (!lookup) return failed("X509_STORE_add_lookup()");
    if (X509_LOOKUP_load_file(lookup, path.c_str(), X509_FILETYPE_PEM) == 0) {
        return failed("X509_LOOKUP_load_file(\"" + path + "\")");
    }
    X509_STORE_set_flags(store, X509_V_FLAG_CRL_CHECK | X509_V_FLAG_CRL_CHECK_ALL);
    return {};
}

Result<void> use_commands(SSL_CTX* context, const conf::Pairs& commands,
                          const conf::Binder& binder) {
    if (commands.items.empty()) return {};
    SSL_CONF_CTX* setter = SSL_CONF_CTX_new();
    SSL_CONF_CTX_set_flags(setter, SSL_CONF_FLAG_FILE | SSL_CONF_FLAG_CLIENT |
                                       SSL_CONF_FLAG_CERTIFICATE | SSL_CONF_FLAG_SHOW_ERRORS);
    SSL_CONF_CTX_set_ssl_ctx(setter, context);
    Result<void> result;
    for (const auto& [name, written] : commands.items) {
        bool path = SSL_CONF_cmd_value_type(setter, name.c_str()) == SSL_CONF_TYPE_FILE ||
                    SSL_CONF_cmd_value_type(setter, name.c_str()) == SSL_CONF_TYPE_DIR;
        std::string value = path ? binder.full_path(written, true) : written;
        if (SSL_CONF_cmd(setter, name.c_str(), value.c_str()) > 0) continue;
        result = failed("SSL_CONF_cmd(\"" + name + "\", \"" + value + "\")");
        break;
    }
    if (result && !SSL_CONF_CTX_finish(setter)) result = failed("SSL_CONF_CTX_finish()");
    SSL_CONF_CTX_free(setter);
    return result;
}

int key_log_index() {
    static const int index = SSL_CTX_get_ex_new_index(0, nullptr, nullptr, nullptr, nullptr);
    return index;
}

void log_key(const SSL* ssl, const char* line) {
    auto* settings = static_cast<TlsSettings*>(
        SSL_CTX_get_ex_data(SSL_get_SSL_CTX(ssl), key_log_index()));
    std::string text = std::string(line) + "\n";
    [[maybe_unused]] ssize_t written = ::write(settings->key_log.get(), text.data(), text.size());
}

Result<void> use_key_log(TlsSettings& settings, const std::string& path) {
    settings.key_log.reset(core::open_append(path));
    if (!settings.key_log.valid()) {
        return Error{core::format("open() \"%s\" failed (%d: %s)", path.c_str(), errno,
                                  core::error_name(errno))};
    }
    SSL_CTX_set_ex_data(settings.context->native(), key_log_index(), &settings);
    SSL_CTX_set_keylog_callback(settings.context->native(), log_key);
    return {};
}

Result<void> fill(TlsSettings& settings, const LuaConf& conf, const conf::Binder& binder) {
    core::TlsContext& context = *settings.context;
    SSL_CTX* native = context.native();
    Result<void> done = use_protocols(native, *conf.ssl_protocols);
    if (done) done = context.set_ciphers(*conf.ssl_ciphers);
    if (done) done = use_certificate(context, conf, binder);
    // What the certificate is worth is asked after the handshake, when the script wants to know.
    SSL_CTX_set_verify(native, SSL_VERIFY_NONE, nullptr);
    SSL_CTX_set_verify_depth(native, int(*conf.ssl_verify_depth));
    if (done && !conf.ssl_trusted_certificate->empty()) {
        done = context.trust_file(binder.full_path(*conf.ssl_trusted_certificate, true));
    }
    if (done && !conf.ssl_crl->empty()) {
        done = use_crl(native, binder.full_path(*conf.ssl_crl, true));
    }
    if (done && !conf.ssl_key_log->empty()) {
        done = use_key_log(settings, binder.full_path(*conf.ssl_key_log, true));
    }
    if (done) done = use_commands(native, *conf.ssl_conf_command, binder);
    return done;
}

}  // namespace

Result<void> inherit_tls_settings(LuaConf& conf, const LuaConf* outer, conf::Binder& binder) {
    if (outer && same(conf, *outer)) {
        conf.tls = outer->tls;
        return {};
    }
    if (!any_set(conf)) return {};
    auto made = std::make_shared<TlsSettings>();
    auto context = core::TlsContext::create(core::TlsContext::Role::client);
    if (!context) return context.take_error();
    made->context = std::move(*context);
    ERR_clear_error();
    Result<void> filled = fill(*made, conf, binder);
    if (filled) conf.tls = std::move(made);
    return filled;
}

std::shared_ptr<core::TlsContext> tls_context_of(const LuaConf& conf) {
    if (conf.tls) return conf.tls->context;
    static std::shared_ptr<core::TlsContext> usual;
    if (usual) return usual;
    auto made = core::TlsContext::create(core::TlsContext::Role::client);
    if (!made) return nullptr;
    usual = std::move(*made);
    SSL_CTX_set_verify_depth(usual->native(), 1);
    return usual;
}

}  // namespace lua
